"""A video in any form that the processor accepts → the chosen frames, with their times.

The frames of a file are chosen by the processor's settings. Frames in memory are kept, since the caller has chosen
them. Their times come from `video_metadata`. Without it, they count as frames at `video_fps`: by default one per
second. (transformers counts 24 per second, which stamps the first 24 frames alike.) `do_sample_frames` changes the
choice.
"""

from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from PIL import Image

from .video_decoding import MissingReaderError, VideoError
from .video_frames import FrameList, is_metadata
from .video_reader import open_video
from .video_sampling import MOST_FRAMES, FrameTimes, choose_part

VIDEO_KEYS = ("video", "path", "url")
URLS = ("http://", "https://")
FILE_URL = "file://"
MOST_BYTES = 2**30  # of a download


@dataclass(frozen=True)
class ChosenVideo(FrameTimes):
    """The chosen frames of a video, which are not decoded yet. The times of a part of a video begin at its start."""

    video: Any = field(default=None, repr=False)
    indices: tuple = field(default=(), repr=False)
    name: str = ""

    def frames(self):
        """Decode the chosen frames one by one, as PIL images. Raises VideoError for a damaged video."""
        with named(self.name):
            yield from self.video.frames(self.indices)


def video_in(part):
    """Return (value, start, end) of a video part. Raises ValueError for other keys, and without one video."""
    given = [part[key] for key in VIDEO_KEYS if part.get(key) is not None]
    if len(given) != 1:
        raise ValueError(
            f"a video part has {len(given)} videos instead of one: "
            'give {"type": "video", "video": path, frames, or a decoded array}'
        )
    known = ("type", *VIDEO_KEYS, "start", "end")
    if others := [key for key, value in part.items() if key not in known and value is not None]:
        raise ValueError(
            f"a video part has the key {others[0]!r}, which is not read: give it as an option of the call"
        )
    return given[0], part.get("start"), part.get("end")


def as_video(value, sampling, options, metadata=None, start=None, end=None):
    """Choose the frames of a video → `ChosenVideo`.

    Args:
        value: a path or encoded bytes; a URL if `options.allow_video_urls`; a list of frames in the forms of
            `as_image`; an array or tensor (frames, height, width, channels), or with the channels second; or a pair
            of frames and their metadata.
        sampling: a `VideoSampling`.
        options: the `CallOptions`.
        metadata: of frames, see `video_frames.times_of`.
        start, end: use only this part, in seconds.

    Raises:
        ValueError: for a video that cannot be read, and for metadata that do not fit.
    """
    if isinstance(value, tuple) and len(value) == 2 and is_metadata(value[1]):
        if metadata is not None:
            raise ValueError("video_metadata is given twice, with the frames and as an option: remove one")
        value, metadata = value
    chooses, name = options.do_sample_frames, "of the call"
    if is_source(value):
        if metadata is not None:
            raise ValueError("video_metadata describes frames, but the video is a file with its own times: omit it")
        name, chooses = shown(value), chooses is not False
        with named(name):
            video = open_video(content_of(value, options.allow_video_urls))
    else:
        video = FrameList([value] if is_frame(value) else value, metadata, sampling.fps, options.input_data_format)
        if chooses and not video.has_times:
            raise ValueError("do_sample_frames needs the times of the frames: give video_metadata with fps")
    with named(name):
        indices, times, duration = choose_part(video, sampling if chooses else None, start, end)
    if len(times) > MOST_FRAMES:
        raise ValueError(f"a video has {len(times)} frames, more than {MOST_FRAMES}: choose some of them")
    return ChosenVideo(times, duration, video, tuple(indices), name)


@contextmanager
def named(name):
    """Name the video in errors."""
    try:
        yield
    except MissingReaderError:
        raise  # the fault is not the video's
    except (ValueError, OSError, HTTPException) as error:
        raise VideoError(f"the video {name} cannot be used: {error}") from error


def shown(source):
    text = source if isinstance(source, str) else str(source) if isinstance(source, Path) else "in memory"
    text = text if text.isprintable() and text.strip() else repr(text)
    return text if len(text) <= 100 else f"{text[:100]}…"


def is_source(value):
    """Tell if a value is a video in a file: a path, a URL or encoded bytes."""
    return isinstance(value, (str, Path, bytes, bytearray))


def is_frame(value):
    """Tell if a value is one frame: a PIL image, or an array of at most three dimensions."""
    return isinstance(value, Image.Image) or 0 < getattr(value, "ndim", 0) < 4


def content_of(source, allow_urls):
    """Return the path of a video, or its bytes, downloaded if `allow_urls`."""
    if isinstance(source, (bytes, bytearray)):
        return bytes(source)
    source = str(source)
    if not source.strip() or "\0" in source:
        raise ValueError("it is not a path: give that of a file or of a folder of frames")
    if not source.startswith(URLS):
        return source.removeprefix(FILE_URL)
    if not allow_urls:
        raise ValueError("it is a URL: download it, or set allow_video_urls=True")
    with urlopen(source, timeout=30) as answer:
        content = answer.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES:,} bytes: download it, and give its path")
    return content
