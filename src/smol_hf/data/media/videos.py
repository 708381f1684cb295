"""Videos of samples: limits, the choice of frames before decoding, and the images of the chosen frames."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from smol_hf.data.conversation import SampleError, VideoPart
from smol_hf.processing.video_decoding import MissingReaderError, VideoError
from smol_hf.processing.video_reader import frames_at, open_video
from smol_hf.processing.video_sampling import FrameTimes, VideoSampling, from_first_frame

MAXIMUM_BYTES = 4_000_000_000
MAXIMUM_PIXELS = 10_000_000  # of a frame; 4K has 8.8 million
MAXIMUM_SECONDS = 4 * 3600


@dataclass(frozen=True)
class ChosenFrames(FrameTimes):
    """The chosen frames of a video, and their `places` in its file, at which a worker decodes them.

    The times of a part of a video begin at its `start`.
    """

    places: tuple = field(default=(), repr=False)


def video_name(part: VideoPart) -> str:
    return part.path or "the embedded video"


@contextmanager
def named_errors(part: VideoPart, where: str) -> Iterator[None]:
    """Turn a VideoError into the SampleError that names the sample and the video."""
    try:
        yield
    except MissingReaderError:
        raise  # the fault is not the sample's
    except VideoError as error:
        raise SampleError(where, f"the video {video_name(part)} cannot be used: {error}") from error


class ListedVideo:
    """The frames of a video in a sample; nothing is decoded.

    Args:
        part: the encoded video.
        where: the name of the sample, for messages.

    Raises:
        SampleError: for a video that cannot be read, or that exceeds a limit.
    """

    def __init__(self, part: VideoPart, where: str):
        self.part, self.where = part, where
        with named_errors(part, where):
            check_file(part)
            self.video: Any = open_video(source_of(part))
            height, width = self.video.size
            if height * width > MAXIMUM_PIXELS:
                raise VideoError(
                    f"its frames are {width}x{height}, more than {MAXIMUM_PIXELS:,} pixels: make it smaller"
                )
            if self.video.duration > MAXIMUM_SECONDS:
                hours = f"{self.video.duration / 3600:.1f} hours, more than {MAXIMUM_SECONDS // 3600}"
                raise VideoError(f"it has {hours}: cut it into parts")

    def choose(self, sampling: VideoSampling) -> ChosenFrames:
        """Choose frames between the part's `start` and `end`. Raises SampleError if none is on screen there."""
        video, start, end = self.video, *from_first_frame(self.video, self.part.start, self.part.end)
        try:
            indices = sampling.choose(video.times, video.duration, start, end)
        except ValueError as error:
            raise SampleError(self.where, f"the video {video_name(self.part)} cannot be used: {error}") from error
        first, last = start or 0.0, video.duration if end is None else min(end, video.duration)
        times = tuple(max(video.times[index] - first, 0.0) for index in indices)
        return ChosenFrames(times, last - first, tuple(video.places(indices)))


def load_frames(part: VideoPart, chosen: ChosenFrames, where: str) -> Iterator[Image.Image]:
    """Decode the chosen frames, one in memory at a time. Raises SampleError for a damaged video."""
    with named_errors(part, where):
        yield from frames_at(source_of(part), chosen.places)


def source_of(part: VideoPart) -> Any:
    if part.frames:
        return list(zip(part.times, part.frames))
    return part.path if part.content is None else part.content


def files_of(path: str) -> list[str]:
    """Return the files of a video: itself, or the frames in the folder."""
    return sorted(str(file) for file in Path(path).iterdir()) if os.path.isdir(path) else [path]


def check_file(part: VideoPart) -> None:
    """Raise VideoError for too many bytes, and for a path that is neither a file nor a folder, such as a pipe."""
    size = len(part.content or b"") + sum(map(len, part.frames))
    if part.path is not None:
        try:
            size = os.path.getsize(part.path)
        except (OSError, ValueError) as error:
            is_missing = isinstance(error, FileNotFoundError)
            raise VideoError("it does not exist" if is_missing else str(error)) from error
        if not os.path.isfile(part.path) and not os.path.isdir(part.path):
            raise VideoError("it is neither a file nor a folder of frames")
    if size > MAXIMUM_BYTES:
        raise VideoError(f"it has {size:,} bytes, more than {MAXIMUM_BYTES:,}: make it smaller")
