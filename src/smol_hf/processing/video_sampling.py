"""The frames of a video that the model sees: a choice among the times at which its frames appear."""

import bisect
from dataclasses import dataclass

import numpy as np

MOST_FRAMES = 999  # a prompt writes the number in words
MOST_FPS = 1000


@dataclass(frozen=True)
class FrameTimes:
    """The chosen frames of a video: when each appears (seconds from the first frame), and the duration in seconds."""

    times: tuple[float, ...]
    duration: float


def from_first_frame(video, start, end):
    """Count start and end of a part from the first frame, whose time is the video's `origin`; both may be None."""
    if start is not None and start >= 0:  # `choose` refuses a negative one
        start = max(start - video.origin, 0.0)
    return start, end if end is None else end - video.origin


@dataclass(frozen=True)
class VideoSampling:
    """Frames per second, and the limits of their number.

    Raises ValueError for a rate that is not positive, and for limits outside 1 ≤ min_frames ≤ max_frames ≤ 999.
    """

    fps: float = 1.0
    max_frames: int = 64
    min_frames: int = 1

    def __post_init__(self):
        if not 0 < self.fps <= MOST_FPS:
            raise ValueError(f"video_fps is {self.fps}: give a number above 0, at most {MOST_FPS}")
        if not 1 <= self.min_frames <= self.max_frames <= MOST_FRAMES:
            raise ValueError(
                f"video_min_frames {self.min_frames} and video_max_frames {self.max_frames} must be in order, "
                f"from 1 to {MOST_FRAMES}"
            )

    def choose(self, times, duration, start=None, end=None):
        """Choose frames that are spread evenly from the first to the last one → their indices, in order.

        Args:
            times: when each frame appears, in seconds from the first frame, ascending.
            duration: of the video in seconds.
            start, end: choose only from this part of the video, in seconds.

        Raises:
            ValueError: if no frame is on screen between start and end, and for a negative start.
        """
        if start is not None and not start >= 0:
            raise ValueError(f"its start is {start} s: give a number of at least 0")
        start, end = start or 0.0, duration if end is None else min(end, duration)
        first = max(bisect.bisect_right(times, start) - 1, 0)  # on screen at the start
        last = bisect.bisect_left(times, end) - 1
        if start >= end or last < first:
            raise ValueError(f"no frame is on screen from {start:g} s to {end:g} s; the video has {duration:g} s")
        number = min(max(round((end - start) * self.fps), self.min_frames), self.max_frames)
        if number == 1:
            targets = [(times[first] + times[last]) / 2]
        else:
            targets = np.linspace(times[first], times[last], number)
        return sorted({bisect.bisect_right(times, target) - 1 for target in targets})
