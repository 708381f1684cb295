"""Frames in memory as a video, with their times; and frames that are encoded images."""

import io
import os
from collections.abc import Mapping
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path

from PIL import Image

from .image_input import as_image
from .video_decoding import VideoError

# Those of transformers' `VideoMetadata`.
METADATA = ("total_num_frames", "fps", "width", "height", "duration", "video_backend", "frames_indices")

IMAGE_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, TypeError, Image.DecompressionBombError)


class FrameList:
    """Frames with the interface of `video_reader.Video`.

    Args:
        images: frames in the forms of `as_image`.
        metadata, fps: see `times_of`.
        layout: see `as_image`.
    """

    def __init__(self, images, metadata=None, fps=1.0, layout=None):
        if not len(images):
            raise ValueError("a video has no frames: give at least one")
        self.images, self.layout = images, layout
        self.has_times = hasattr(metadata, "times") or bool(metadata and metadata.get("fps"))
        self.times, self.duration = times_of(len(images), metadata, fps)

    @property
    def end(self):
        """The time at which the last frame disappears, if it is shown as long as the others."""
        interval = (self.times[-1] - self.times[0]) / max(len(self.times) - 1, 1)
        return max(self.duration, self.times[-1] + (interval or 1.0))

    def frames(self, indices):
        return (as_image(self.images[index], self.layout) for index in indices)


def is_metadata(value):
    """Tell if a value is one of the forms of metadata that `times_of` reads."""
    return isinstance(value, Mapping) or hasattr(value, "times")


def times_of(count, metadata, fps):
    """Return (times, duration) of frames in memory, in seconds.

    Args:
        metadata: `FrameTimes`, or transformers' `VideoMetadata`, or a dictionary with its names: the frames have the
            numbers `frames_indices` (by default all) in a video with `fps` frames per second. Without a duration, the
            time of the last frame counts as one, as in transformers.
        fps: the rate of frames without one.
    """
    if hasattr(metadata, "times"):
        times, duration = list(metadata.times), metadata.duration
    else:
        given = {name: value for name, value in (metadata or {}).items() if value is not None}
        if unknown := [name for name in given if name not in METADATA]:
            raise ValueError(f"video_metadata has the unknown key {unknown[0]!r}: choose from {', '.join(METADATA)}")
        numbers, rate = given.get("frames_indices"), given.get("fps", fps)
        if numbers is not None and "fps" not in given:
            raise ValueError("video_metadata has frames_indices, but no fps: give the video's frames per second")
        if not rate > 0:
            raise ValueError(f"video_metadata: fps is {rate}: give a number above 0")
        numbers = range(given.get("total_num_frames", count)) if numbers is None else numbers
        times = [int(number) / rate for number in numbers]
        duration = given.get("duration", max(times, default=0.0))
    if len(times) != count:
        raise ValueError(f"video_metadata has {len(times)} times for {count} frames: give the frames_indices of these")
    if any(after < before for before, after in pairwise(times)):
        raise ValueError("video_metadata: the times of the frames are not in order: sort the frames")
    return times, duration


@contextmanager
def opened_image(image):
    """Open a frame that is an image. Raises VideoError, also for Pillow's errors in the block."""
    name = "of bytes" if isinstance(image, bytes) else image
    try:
        if isinstance(image, (str, Path)) and not os.path.isfile(image):
            raise OSError("it is not a file")
        file = io.BytesIO(image) if isinstance(image, bytes) else image
        with nullcontext(image) if isinstance(image, Image.Image) else Image.open(file) as opened_image:
            yield opened_image
    except IMAGE_DAMAGE as error:
        raise VideoError(f"its frame {name} cannot be read: {error}") from error
