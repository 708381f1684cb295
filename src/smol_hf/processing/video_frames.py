"""Frames in memory as a video, with their times; and frames that are encoded images."""

import io
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path

from PIL import Image

from .image_input import IMAGE_DAMAGE, as_image, shown_value
from .video_decoding import VideoError
from .video_sampling import SECONDS, is_time

VIDEO_FORMS = "a path, encoded bytes, a list of frames, or an array (frames, height, width, channels)"
# Those of transformers' `VideoMetadata`.
METADATA = ("total_num_frames", "fps", "width", "height", "duration", "video_backend", "frames_indices")

FRAME_NAME = re.compile(r"[0-9]+(\.[0-9]+)?\.[A-Za-z]\w*", re.ASCII)


class FrameList:
    """Frames with the interface of `video_reader.Video`.

    Args:
        images: frames in the forms of `as_image`.
        metadata, fps: see `times_of`.
        layout: see `as_image`.
    """

    origin = 0.0

    def __init__(self, images, metadata=None, fps=1.0, layout=None):
        if not isinstance(images, (list, tuple)) and getattr(images, "ndim", 0) != 4:
            raise ValueError(f"a video is {shown_value(images)}: give {VIDEO_FORMS}")
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
        numbers, rate, duration = numbers_of("times", metadata.times, is_time), 1, metadata.duration
    else:
        given = {name: value for name, value in (metadata or {}).items() if value is not None}
        if unknown := [name for name in given if name not in METADATA]:
            raise ValueError(f"video_metadata has the unknown key {unknown[0]!r}: choose from {', '.join(METADATA)}")
        numbers, rate = given.get("frames_indices"), given.get("fps", fps)
        if numbers is not None and "fps" not in given:
            raise ValueError("video_metadata has frames_indices, but no fps: give the video's frames per second")
        if not is_time(rate) or not rate:
            raise ValueError(f"video_metadata: fps is {shown_value(rate)}: give a number above 0")
        total = given.get("total_num_frames", count)
        if not is_whole(total):
            raise ValueError(f"video_metadata: total_num_frames is {shown_value(total)}: give a whole number")
        numbers = range(int(total)) if numbers is None else numbers_of("frames_indices", numbers, is_whole)
        duration = given.get("duration")
    if len(numbers) != count:
        raise ValueError(
            f"video_metadata has {len(numbers)} times for {count} frames: give the frames_indices of these"
        )
    times = [number / rate for number in numbers]
    duration = max(times) if duration is None else duration
    if not is_time(duration):
        raise ValueError(f"video_metadata: duration is {shown_value(duration)}: give {SECONDS}")
    if any(after < before for before, after in pairwise(times)):
        raise ValueError("video_metadata: the times of the frames are not in order: sort the frames")
    return times, duration


def numbers_of(name, values, is_valid):
    """List the values under a name of metadata. Raises ValueError for one that `is_valid` refuses."""
    values = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(values, Iterable) and not isinstance(values, (str, bytes, Mapping)):
        values = list(values)
        if all(map(is_valid, values)):
            return values
    kind = SECONDS if is_valid is is_time else "whole numbers of at least 0"
    raise ValueError(f"video_metadata: {name} is {shown_value(values)}: give {kind}")


def is_whole(value):
    """Tell if a value is a whole number of at least 0, also as a float."""
    return is_time(value) and value == int(value)


def frames_in(folder):
    """List the images in a folder as pairs (seconds, path). Raises VideoError for a name that is not a time."""
    try:
        paths = [path for path in Path(folder).iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise VideoError(error.strerror or str(error)) from error
    if others := [path.name for path in paths if FRAME_NAME.fullmatch(path.name) is None]:
        raise VideoError(f"name its frames by their times in seconds, such as 12.5.jpg, not {min(others)!r}")
    return [(path.stem, str(path)) for path in paths]


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
    except (ValueError, *IMAGE_DAMAGE) as error:
        raise VideoError(f"its frame {name} cannot be read: {error}") from error
