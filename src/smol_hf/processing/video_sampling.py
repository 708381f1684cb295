"""The frames of a video that the model sees: a choice among the times at which its frames appear."""

import bisect
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np

from .image_input import shown_value
from .video_decoding import VideoError

MOST_FRAMES = 999  # a prompt writes the number in words
MOST_FPS = 1000
LATEST = 10_000_000_000  # seconds
SECONDS = f"seconds, from 0 to {LATEST:,}"


@dataclass(frozen=True)
class FrameTimes:
    """The chosen frames of a video: when each appears (seconds from the first frame), and the duration in seconds."""

    times: tuple[float, ...]
    duration: float


@dataclass(frozen=True)
class VideoSampling:
    """Frames per second, and the limits of their number.

    Raises ValueError for a rate that is not positive, and for limits outside 1 ≤ min_frames ≤ max_frames ≤ 999.
    """

    fps: float = 1.0
    max_frames: int = 64
    min_frames: int = 1

    def __post_init__(self):
        if not is_time(self.fps) or not 0 < self.fps <= MOST_FPS:
            raise ValueError(f"video_fps is {shown_value(self.fps)}: give a number above 0, at most {MOST_FPS}")
        for name, number in (("video_min_frames", self.min_frames), ("video_max_frames", self.max_frames)):
            if not isinstance(number, Integral) or isinstance(number, bool):
                raise ValueError(f"{name} is {shown_value(number)}: give a whole number")
        if not 1 <= self.min_frames <= self.max_frames <= MOST_FRAMES:
            raise ValueError(
                f"video_min_frames {self.min_frames} and video_max_frames {self.max_frames} must be in order, "
                f"from 1 to {MOST_FRAMES}"
            )

    def choose(self, times, duration, start=None, end=None):
        """Choose frames that are spread evenly from the first to the last one → their indices, see `on_screen`."""
        return self.spread(times, *on_screen(times, duration, start, end))

    def spread(self, times, first, last, start, end):
        """Choose from the frames `first` to `last`, which are on screen from `start` to `end` → their indices."""
        number = min(max(round((end - start) * self.fps), self.min_frames), self.max_frames)
        if number == 1:
            targets = [(times[first] + times[last]) / 2]
        else:
            targets = np.linspace(times[first], times[last], number)
        return sorted({bisect.bisect_right(times, target) - 1 for target in targets})


def on_screen(times, duration, start=None, end=None, origin=0.0):
    """Find the frames that are on screen in a part of a video.

    Args:
        times: when each frame appears, in seconds from the first frame, ascending.
        duration: of the video in seconds.
        start, end: of the part, in seconds; None: of the video.
        origin: the time of the first frame, as `start` and `end` count.

    Returns:
        The indices of the first and the last frame, and start and end in seconds from the first frame.

    Raises:
        VideoError: if no frame is on screen there, and for a start or an end that is not a time.
    """
    for name, value in (("start", start), ("end", end)):
        if value is not None and not is_time(value):
            raise VideoError(f"its {name} is {shown_value(value)}: give {SECONDS}")
    begin = max(float(start or 0) - origin, 0.0)
    stop = duration if end is None else min(float(end) - origin, duration)
    first = max(bisect.bisect_right(times, begin) - 1, 0)  # on screen at the start
    last = bisect.bisect_left(times, stop) - 1
    if begin >= stop or last < first:
        to = "" if end is None else f" to {float(end):g} s"
        raise VideoError(
            f"no frame is on screen from {float(start or 0):g} s{to}; the video ends at {origin + duration:g} s"
        )
    return first, last, begin, stop


def choose_part(video, sampling, start=None, end=None):
    """Choose frames of a part of a video → (their indices, their times from `start`, the duration of the part).

    Args:
        video: has `times`, `duration`, `end` and `origin`, as `video_reader.Video`.
        sampling: a `VideoSampling`; None: choose all frames of the part.
        start, end: see `on_screen`.
    """
    is_whole = start is None and end is None
    if is_whole and sampling is None:
        return range(len(video.times)), tuple(video.times), video.duration
    first, last, begin, stop = on_screen(video.times, video.end, start, end, video.origin)
    indices = range(first, last + 1) if sampling is None else sampling.spread(video.times, first, last, begin, stop)
    times = tuple(max(video.times[index] - begin, 0.0) for index in indices)
    return indices, times, video.duration if is_whole else stop - begin


def is_time(value):
    """Tell if a value is a number of seconds from 0 to LATEST."""
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= value <= LATEST  # pyright: ignore
