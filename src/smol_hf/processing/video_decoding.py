"""Decode chosen frames of a video with PyAV.

The reader seeks to the key frame before a frame and decodes forward. A damaged frame is an error; none is replaced.
"""

import importlib
import io
import itertools
import os
from contextlib import contextmanager
from typing import NamedTuple

from PIL import Image

from .image_pixels import flatten_to_rgb, resize

CONTAINERS = ("mov", "matroska", "mpegts", "avi", "gif", "asf", "flv", "mpeg", "ogg")  # FFmpeg's names
READABLE = "MP4, MOV, MKV, WebM, TS, AVI, GIF, WMV, FLV, MPEG or OGV"
HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics of ITU-T H.273
EARLIER = (0, 1, 10, 100, 10**5)  # seconds before a key frame from which decoding is tried: a seek may pass it
SKIPPING = ("h264", "hevc")  # decoders that can leave out a frame without damage to others
TURNS = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)


class VideoError(ValueError):
    """A video that cannot be read. The message is the reason, without the name of the video."""


class MissingReaderError(VideoError):
    """PyAV is not installed."""


class Place(NamedTuple):
    """A frame in a file: its timestamp and that of the key frame before it, or its number and None."""

    stamp: int
    key: int | None


def pyav():
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise MissingReaderError("videos need PyAV, which is not installed: pip install av") from error


@contextmanager
def opened(source):
    """Open a video → (container, its first video stream). Raises VideoError, also for PyAV's errors in the block."""
    av = pyav()
    file = io.BytesIO(source) if isinstance(source, bytes) else f"file:{os.path.abspath(source)}"
    only = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}  # no other files, no network
    try:
        with av.open(file, container_options=only, metadata_errors="replace") as container:
            cover = av.stream.Disposition.attached_pic
            streams = [stream for stream in container.streams.video if not stream.disposition & cover]
            if not streams:
                raise VideoError("it has sound, but no video" if container.streams.audio else "it has no video")
            if (context := streams[0].codec_context) is None:
                raise VideoError("its codec is unknown")
            if hdr := HDR.get(int(context.color_trc or 0)):
                raise VideoError(f"it is HDR ({hdr}): convert it to SDR")
            context.thread_count, context.options = 1, {"err_detect": "explode"}
            yield container, streams[0]
    except VideoError:
        raise
    except FileNotFoundError as error:
        raise VideoError("it does not exist") from error
    except (av.FFmpegError, OSError, ValueError, LookupError, ArithmeticError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise VideoError(f"it is damaged, or not {READABLE} ({reason})") from error


def is_hidden(packet, codec):
    """Return True for a packet of VP8 that other frames refer to, but that is never shown."""
    return codec == "vp8" and not bytes(packet)[0] & 0x10


def check_end(container, stream, number, end, length):
    """Raise VideoError if a file ends before the time that its header announces."""
    if stream.duration is not None and stream.frames:
        announced = ((stream.start_time or 0) + stream.duration) * stream.time_base
        is_short = number < stream.frames and announced - end > 2 * length
    else:  # the announced time may be that of other streams
        # Matroska announces the time of its end, other formats the time from the first frame.
        start = 0 if "matroska" in container.format.name else container.start_time or 0
        announced = (start + (container.duration or 0)) / 1_000_000
        is_short = announced - end > max(1, announced / 10)
    if is_short:
        raise VideoError(
            f"it is damaged: its header announces {float(announced):g} s, but it ends at {float(end):g} s"
        )


def displayed(height, width, aspect):
    """Return the (height, width) of a frame in square pixels. `aspect`: width / height of its pixels, or None."""
    aspect = aspect or 1
    return (height, round(width * aspect)) if aspect >= 1 else (round(height / aspect), width)


def read_frames(source, places):
    """Decode the frames at ascending places → PIL images, one in memory at a time. Raises VideoError."""
    wanted = {place.stamp for place in places}
    with opened(source) as (container, stream):
        position, frames = 0, iter(())
        for number, (stamp, key) in enumerate(places):
            if number == 0 or (key is not None and key > position):
                frames = frames_from(container, stream, stamp, key, wanted)
            position, frame = next((each for each in frames if each[0] >= stamp), (None, None))
            if position != stamp or frame is None or frame.is_corrupt:
                raise VideoError(f"it is damaged: frame {number + 1} of {len(places)} cannot be decoded")
            yield image_of(frame, stream.sample_aspect_ratio)


def frames_from(container, stream, stamp, key, wanted):
    """Decode forward from a key frame → pairs (timestamp, frame); without one from the start → (number, frame)."""
    if key is None:
        return enumerate(decoded(container, stream))
    for seconds in EARLIER:
        container.seek(key - round(seconds / stream.time_base), stream=stream)
        frames = decoded(container, stream, wanted)
        if (first := next(frames, None)) is not None and first.pts <= stamp:
            return ((frame.pts, frame) for frame in itertools.chain([first], frames))
    return iter(())


def decoded(container, stream, wanted=None):
    """Decode from the next key frame. In H.264 and HEVC, unwanted frames that no other refers to are left out."""
    context = stream.codec_context
    wants_all = wanted is None or context.name not in SKIPPING
    for packet in itertools.dropwhile(lambda packet: not packet.is_keyframe, container.demux(stream)):
        context.skip_frame = "DEFAULT" if wants_all or packet.pts in wanted else "NONREF"
        yield from packet.decode()


def image_of(frame, aspect):
    """Convert a frame to an RGB image in square pixels, rotated as the file says."""
    if frame.rotation % 90:
        raise VideoError(f"it is rotated by {frame.rotation} degrees: rotate it by a multiple of 90")
    has_alpha = any(component.is_alpha for component in frame.format.components)
    image = flatten_to_rgb(Image.fromarray(frame.to_ndarray(format="rgba" if has_alpha else "rgb24")))
    image = resize(image, *displayed(image.height, image.width, aspect))
    turn = TURNS[frame.rotation // 90 % 4]
    return image if turn is None else image.transpose(turn)
