"""A video in any form that the processor accepts → the chosen frames, with their times.

The frames of a file are chosen by the processor's settings. Frames in memory are kept, since the caller has chosen
them. Their times come from `video_metadata`. Without it, they count as frames at `video_fps`: by default one per second.
(transformers counts 24 per second, which stamps the first 24 frames alike.) `do_sample_frames` changes the choice.
"""

from pathlib import Path
from urllib.request import urlopen

from PIL import Image

from .video_frames import FrameList, is_metadata
from .video_reader import open_video
from .video_sampling import MOST_FRAMES

VIDEO_KEYS = ("video", "path", "url")
URLS = ("http://", "https://")
FILE_URL = "file://"
MOST_BYTES = 2**30  # of a download


class ChosenVideo:
    """A video and the indices of its chosen frames. `times` and `duration` are those of `FrameTimes`."""

    def __init__(self, video, indices):
        if len(indices) > MOST_FRAMES:
            raise ValueError(f"a video has {len(indices)} frames, more than {MOST_FRAMES}: choose some of them")
        self.video, self.indices = video, list(indices)
        self.times, self.duration = tuple(video.times[index] for index in indices), video.duration

    def frames(self):
        """Decode the chosen frames one by one, as PIL images."""
        return self.video.frames(self.indices)


def video_in(part):
    """Return (value, start, end) of a video part. Raises ValueError for a part without one video, or with other keys."""
    given = [part[key] for key in VIDEO_KEYS if part.get(key) is not None]
    if len(given) != 1:
        raise ValueError(
            f"a video part has {len(given)} videos instead of one: "
            'give {"type": "video", "video": path, frames, or a decoded array}'
        )
    known = ("type", *VIDEO_KEYS, "start", "end")
    if others := [key for key, value in part.items() if key not in known and value is not None]:
        raise ValueError(f"a video part has the key {others[0]!r}, which is not read: give it as an option of the call")
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
        start, end: choose only from this part, in seconds.

    Raises:
        ValueError: for a video that cannot be read, and for metadata that do not fit.
    """
    if isinstance(value, tuple) and len(value) == 2 and is_metadata(value[1]):
        if metadata is not None:
            raise ValueError("video_metadata is given twice, beside the frames and as an option: remove one")
        value, metadata = value
    chooses = options.do_sample_frames
    if is_source(value):
        if metadata is not None:
            raise ValueError("video_metadata describes frames, but the video is a file with its own times: omit it")
        video = open_source(value, options.allow_video_urls)
        last, chooses = video.duration, chooses is not False
    else:
        video = FrameList([value] if is_frame(value) else value, metadata, sampling.fps, options.input_data_format)
        last = video.end
        if chooses and not video.has_times:
            raise ValueError("do_sample_frames needs the times of the frames: give video_metadata with fps")
    if chooses or start is not None or end is not None:
        return ChosenVideo(video, sampling.choose(video.times, last, start, end))
    return ChosenVideo(video, range(len(video.times)))


def is_source(value):
    """Tell if a value is a video in a file: a path, a URL or encoded bytes."""
    return isinstance(value, (str, Path, bytes, bytearray))


def is_frame(value):
    """Tell if a value is one frame: a PIL image, or an array of at most three dimensions."""
    return isinstance(value, Image.Image) or 0 < getattr(value, "ndim", 0) < 4


def open_source(source, allow_urls):
    """Open a video with `video_reader`. Raises ValueError for a URL that is not allowed, and for an unusable video."""
    if isinstance(source, str) and source.startswith(URLS):
        if not allow_urls:
            raise ValueError(f"the video {source[:100]} is a URL: download it, or set allow_video_urls=True")
        with urlopen(source, timeout=30) as answer:
            source = answer.read(MOST_BYTES + 1)
        if len(source) > MOST_BYTES:
            raise ValueError(f"the video has more than {MOST_BYTES:,} bytes: download it, and give its path")
    return open_video(source.removeprefix(FILE_URL) if isinstance(source, str) else source)
