"""Tiny clips whose frames show their number as a pattern of blocks, made by PyAV."""

import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

WIDTH, HEIGHT = 64, 48
COLUMNS, ROWS = 4, 3  # blocks of 16 · 16 pixels: the bits of a frame's number, the lowest first
FAST = {
    "libx264": {"preset": "ultrafast", "sc_threshold": "0"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    "libsvtav1": {"preset": "12"},
}
CONSTANT_RATE = ("avi", "gif")


def numbered(number, width=WIDTH, height=HEIGHT):
    """Frame `number` as an array (height, width, 3)."""
    bits = np.array([number >> bit & 1 for bit in range(COLUMNS * ROWS)], dtype=np.uint8).reshape(ROWS, COLUMNS)
    pixels = np.kron(255 * bits, np.ones((height // ROWS, width // COLUMNS), dtype=np.uint8))
    return np.repeat(pixels[:, :, None], 3, axis=2)


def number_in(image):
    """Read the number that a frame shows, at any size."""
    grey = np.asarray(image.convert("L").resize((COLUMNS * 8, ROWS * 8)))
    return sum(1 << bit for bit, value in enumerate(grey[4::8, 4::8].reshape(-1)) if value > 128)


def even_times(number, fps=30):
    return [index / Fraction(fps) for index in range(number)]


def clip(
    times, form="mp4", codec="libx264", *, size=(WIDTH, HEIGHT), pix_fmt="yuv420p", start=0, rate=30, bframes=0,
    gop=12, options=None, movflags="", aspect=None, rotation=0, color_trc=None, edit=None,
):  # fmt: skip
    """Bytes of a clip with a frame at each time, in seconds.

    Args:
        start: seconds that are added to all times.
        rate: frames per second, for containers with a constant rate.
        aspect: width / height of a pixel.
        edit: change of each packet, packet → packet or None.
    """
    base = Fraction(1, rate) if form in CONSTANT_RATE else Fraction(1, 90_000)
    with tempfile.NamedTemporaryFile() as target:
        flags = {"movflags": movflags} if movflags else {}
        with av.open(target.name, "w", format=form, container_options=flags) as container:
            stream = container.add_stream(codec, rate=rate, options={**FAST.get(codec, {}), **(options or {})})
            context = stream.codec_context
            stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
            stream.time_base = context.time_base = base
            context.gop_size, context.max_b_frames, context.thread_count = gop, bframes, 1
            if aspect:
                context.sample_aspect_ratio = Fraction(aspect)
            if rotation:
                if not hasattr(stream, "set_display_rotation"):
                    pytest.skip("this release of PyAV cannot write a rotation")
                stream.set_display_rotation(rotation)
            if color_trc:
                context.color_trc = color_trc
            stamps = [round((time + start) / base) for time in times]
            before = [stamps[-1] - stamps[-2]] if len(stamps) > 1 else [round(Fraction(1, rate) / base)]
            lengths = dict(zip(stamps, [after - each for each, after in zip(stamps, stamps[1:])] + before))
            for packet in encoded(stream, stamps, base, size):
                packet.duration = lengths.get(packet.pts, 0)
                if edit is None or (packet := edit(packet)) is not None:
                    container.mux(packet)
        return Path(target.name).read_bytes()


def encoded(stream, stamps, base, size):
    for number, stamp in enumerate(stamps):
        frame = av.VideoFrame.from_ndarray(numbered(number, *size)).reformat(format=stream.pix_fmt)
        frame.pts, frame.time_base = stamp, base
        yield from stream.encode(frame)
    yield from stream.encode(None)


def sound(form="mp4", codec="aac", cover=False):
    """Bytes of a file with sound only; with `cover`, an image of the album."""
    with tempfile.NamedTemporaryFile() as target:
        with av.open(target.name, "w", format=form) as container:
            stream = container.add_stream(codec, rate=16_000)
            if cover:
                image = container.add_stream("mjpeg")
                image.width, image.height, image.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
                image.disposition = av.stream.Disposition.attached_pic.value
            if cover:
                frame = av.VideoFrame.from_ndarray(numbered(1)).reformat(format="yuvj420p")
                for packet in [*image.encode(frame), *image.encode(None)]:
                    container.mux(packet)
            for number in range(20):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                frame.rate, frame.pts = 16_000, 1024 * number
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return Path(target.name).read_bytes()
