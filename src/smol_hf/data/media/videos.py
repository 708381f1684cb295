"""Videos of samples: limits, the choice of frames before decoding, and the images of the chosen frames."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from smol_hf.data.conversation import ImagePart, SampleError, VideoPart
from smol_hf.data.media.images import image_size, load_image
from smol_hf.processing.video_decoding import MissingReaderError, Place, VideoError, read_frames
from smol_hf.processing.video_reader import Video, open_video
from smol_hf.processing.video_sampling import FrameTimes, VideoSampling, choose_part

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
    """Turn the error of a video or a frame into the SampleError that names the sample and the video."""
    try:
        yield
    except MissingReaderError:
        raise  # the fault is not the sample's
    except (VideoError, SampleError) as error:
        reason = error.problem if isinstance(error, SampleError) else error
        raise SampleError(where, f"the video {video_name(part)} cannot be used: {reason}") from error


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
            if self.video.duration > MAXIMUM_SECONDS:
                hours = f"{self.video.duration / 3600:.1f} hours, more than {MAXIMUM_SECONDS // 3600}"
                raise VideoError(f"it has {hours}: cut it into parts")

    def choose(self, sampling: VideoSampling) -> ChosenFrames:
        """Choose frames between the part's `start` and `end`.

        Raises:
            SampleError: if no frame is on screen there, and for a frame that is too large or damaged.
        """
        with named_errors(self.part, self.where):
            indices, times, duration = choose_part(self.video, sampling, self.part.start, self.part.end)
            places = tuple(self.video.places(indices))
            for height, width in self.sizes(places):
                if height * width > MAXIMUM_PIXELS:
                    limit = f"more than {MAXIMUM_PIXELS:,} pixels: make it smaller"
                    raise VideoError(f"its frames are {width}x{height}, {limit}")
        return ChosenFrames(times, duration, places)

    def sizes(self, places: tuple) -> Iterator[tuple[int, int]]:
        """Read (height, width) of frames, from the header of the video or of each image."""
        if isinstance(self.video, Video):
            yield self.video.size
        else:
            yield from (image_size(image_of(place), self.where) for place in places)


def load_frames(part: VideoPart, chosen: ChosenFrames, where: str) -> Iterator[Image.Image]:
    """Decode the chosen frames, one in memory at a time. Raises SampleError for a damaged video."""
    with named_errors(part, where):
        if all(isinstance(place, Place) for place in chosen.places):
            yield from read_frames(source_of(part), chosen.places)
        else:
            yield from (load_image(image_of(place), where) for place in chosen.places)


def image_of(place: str | bytes) -> ImagePart:
    """Return a frame that is an image."""
    return ImagePart(content=place) if isinstance(place, bytes) else ImagePart(path=place)


def source_of(part: VideoPart) -> Any:
    if part.frames:
        return list(zip(part.times, part.frames))
    return part.path if part.content is None else part.content


def files_of(path: str) -> list[str]:
    """Return the path of a video, and the frames in it if it is a folder."""
    with suppress(OSError):  # a path that is not a folder, or may not be read
        return [path, *sorted(str(file) for file in Path(path).iterdir())]
    return [path]


def check_file(part: VideoPart) -> None:
    """Raise VideoError for too many bytes, and for a missing file."""
    size = len(part.content or b"") + sum(map(len, part.frames))
    if part.path is not None:
        try:
            size = os.path.getsize(part.path)
        except (OSError, ValueError) as error:
            is_missing = isinstance(error, FileNotFoundError)
            raise VideoError("it does not exist" if is_missing else str(error)) from error
    if size > MAXIMUM_BYTES:
        raise VideoError(f"it has {size:,} bytes, more than {MAXIMUM_BYTES:,}: make it smaller")
