"""Tiny clips whose frames show their number as a pattern of blocks, made by PyAV."""

import io
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT = 64, 48
COLUMNS, ROWS = 4, 3  # blocks of 16 · 16 pixels: the bits of a frame's number, the lowest first
MICROSECONDS = Fraction(1, 1_000_000)


def numbered(number, width=WIDTH, height=HEIGHT):
    """Frame `number` as an array (height, width, 3)."""
    bits = np.array([number >> bit & 1 for bit in range(COLUMNS * ROWS)], dtype=np.uint8).reshape(ROWS, COLUMNS)
    pixels = np.kron(255 * bits, np.ones((height // ROWS, width // COLUMNS), dtype=np.uint8))
    return np.repeat(pixels[:, :, None], 3, axis=2)


def number_in(image):
    """The number that a frame shows, at any size."""
    grey = np.asarray(image.convert("L").resize((COLUMNS * 8, ROWS * 8)))
    middles = grey[4::8, 4::8].reshape(-1)
    return sum(1 << bit for bit, value in enumerate(middles) if value > 128)


def even_times(number, fps):
    return [index / Fraction(fps) for index in range(number)]


def clip(
    times,
    form="mp4",
    codec="libx264",
    *,
    size=(WIDTH, HEIGHT),
    pix_fmt="yuv420p",
    start=0,
    last=None,
    time_base=None,
    options=None,
    container_options=None,
    edit=None,
    bframes=0,
    gop=12,
    sar=None,
    rotation=0,
    color_trc=None,
    rate=30,
):
    """Bytes of a clip with a frame at each time, in seconds.

    Args:
        start: seconds that are added to all times.
        last: duration of the last frame in seconds; None: as the one before.
        edit: change of packets before they are written, packet → packet or None.
    """
    fixed = form in ("avi", "gif")  # these have a constant rate
    base = Fraction(1, rate) if fixed and time_base is None else time_base or Fraction(1, 90_000)
    with (
        tempfile.NamedTemporaryFile() as target,
        av.open(target.name, "w", format=form, container_options=container_options or {}) as container,
    ):
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = base
        stream.time_base = base
        context = stream.codec_context
        context.gop_size, context.max_b_frames = gop, bframes
        context.thread_count = 1
        if sar:
            context.sample_aspect_ratio = Fraction(*sar)
        if rotation:
            stream.set_display_rotation(rotation)
        if color_trc:
            context.color_trc = color_trc
        known = {"libx264": {"preset": "ultrafast", "bf": str(bframes), "sc_threshold": "0"}, "libx265": {
            "preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1"},
            "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"}, "libsvtav1": {"preset": "12"}}  # fmt: skip
        stream.options = {**known.get(codec, {}), **(options or {})}
        stamps = [round((time + start) / base) for time in times]

        def packets():
            for number, stamp in enumerate(stamps):
                frame = av.VideoFrame.from_ndarray(numbered(number, *size))
                frame = frame.reformat(format=pix_fmt)
                frame.pts, frame.time_base = stamp, base
                yield from stream.encode(frame)
            yield from stream.encode(None)

        lasts = dict(zip(stamps, np.diff([*stamps, stamps[-1] + (round(last / base) if last else (stamps[-1] - stamps[-2] if len(stamps) > 1 else round(Fraction(1, rate) / base)))])))
        for packet in packets():
            if packet.pts in lasts:
                packet.duration = int(lasts[packet.pts])
            packet = packet if edit is None else edit(packet)
            if packet is not None:
                container.mux(packet)
        container.close()
        return Path(target.name).read_bytes()
