"""Videos: when each frame appears, and the images of chosen frames.

    open_video(path, bytes, or frame images)  →  times, duration  →  frames(indices)

Times come from the timestamps of packets, never from a number of frames per second, and nothing is decoded for them.
"""

import bisect
import math
import os
from pathlib import Path

from PIL import ImageOps

from .image_pixels import flatten_to_rgb
from .video_decoding import Place, VideoError, check_end, displayed, is_hidden, opened, pyav, read_frames
from .video_frames import opened_image


def open_video(source):
    """List the frames of a video.

    Args:
        source: path or bytes of a video file; a folder of images whose names are their times in seconds, such as
            `0012.5.jpg`; or a list of pairs (seconds, PIL image, path or bytes).

    Raises:
        VideoError: for a video that cannot be used, with the reason.
    """
    if isinstance(source, (list, tuple)) or (not isinstance(source, bytes) and os.path.isdir(source)):
        return FrameImages(source)
    return Video(source)


def reader_name():
    """Return the library that reads video files, with its version."""
    av = pyav()
    return f"PyAV {av.__version__} (FFmpeg {av.ffmpeg_version_info})"


class Video:
    """A video file: the `times` of its frames in seconds from the first, `duration`, and `size` before rotation.

    Args:
        source: a path, or the bytes of the file.

    Raises:
        VideoError: for a file that is not a video, was cut off, or lacks times.
    """

    origin = 0.0

    def __init__(self, source):
        self.source, self.keys, lengths, number, end = source, [], {}, 0, 0
        with opened(source) as (container, stream):
            context, unit = stream.codec_context, stream.time_base
            self.size = displayed(context.height, context.width, stream.sample_aspect_ratio)
            # AVI does not store when a frame is shown, only when it is decoded: count the frames.
            self.is_counted = container.format.name == "avi" and bool(context.has_b_frames)
            for packet in container.demux() if stream.duration is None else container.demux(stream):
                if packet.stream is not stream:
                    end = max(
                        end, 0 if packet.pts is None else (packet.pts + (packet.duration or 0)) * packet.time_base
                    )
                elif packet.size and packet.pts is None:
                    raise VideoError("its frames have no times: write it into a container such as MP4")
                elif packet.size:
                    number += 1
                    if packet.is_keyframe:
                        self.keys.append(packet.pts)
                    is_shown = not packet.is_discard and not is_hidden(packet, context.name)
                    if is_shown and self.keys:  # an edit list discards, and nothing can be decoded before a key frame
                        lengths[packet.pts] = packet.duration or 0
            if not lengths:
                raise VideoError("it has no frames")
            self.keys.sort()
            self.stamps = sorted(lengths)
            first, last = self.stamps[0], self.stamps[-1]
            usual = last - self.stamps[-2] if len(lengths) > 1 else 1 / (stream.average_rate or 1) / unit
            length = lengths[last] or usual
            self.times = [float((stamp - first) * unit) for stamp in self.stamps]
            self.duration = float((last + length - first) * unit)
            check_end(container, stream, number, max(end, (last + length) * unit), length * unit)

    def places(self, indices):
        """Return the `Place` of each frame."""
        if self.is_counted:
            return [Place(index, None) for index in indices]
        stamps = [self.stamps[index] for index in indices]
        return [Place(stamp, self.keys[max(bisect.bisect_right(self.keys, stamp) - 1, 0)]) for stamp in stamps]

    def frames(self, indices):
        """Yield the frames with these ascending indices as PIL images."""
        return frames_at(self.source, self.places(indices))


class FrameImages:
    """Frames that are images: `times` in seconds from the first, `duration`, and `size` of the first.

    `origin` is the given time of the first frame, from which `start` and `end` of a part are counted.

    Args:
        source: a folder or a list, see `open_video`.
    """

    def __init__(self, source):
        if not isinstance(source, (list, tuple)):
            files = (path for path in Path(source).iterdir() if not path.name.startswith("."))
            source = [(path.stem, str(path)) for path in files]
        try:
            frames = sorted(((float(time), image) for time, image in source), key=lambda frame: frame[0])
        except ValueError as error:
            raise VideoError(f"name its frames by their times in seconds, such as 12.5.jpg: {error}") from error
        if not frames:
            raise VideoError("it has no frames")
        self.origin = frames[0][0]
        self.images, self.times = [image for _, image in frames], [time - self.origin for time, _ in frames]
        if not math.isfinite(sum(self.times)) or len(set(self.times)) < len(frames):
            raise VideoError("each of its frames needs another time")
        self.duration = self.times[-1] + (self.times[-1] - self.times[-2] if len(frames) > 1 else 1.0)
        with opened_image(self.images[0]) as image:
            self.size = image.height, image.width

    def places(self, indices):
        """Return the images of these frames, unread."""
        return [self.images[index] for index in indices]

    def frames(self, indices):
        """Yield the frames with these indices as PIL images."""
        return frames_at(None, self.places(indices))


def frames_at(source, places):
    """Yield the frames of a source at their `places` as PIL images, one in memory at a time. Raises VideoError."""
    if all(isinstance(place, Place) for place in places):
        yield from read_frames(source, places)
        return
    for place in places:
        with opened_image(place) as image:
            yield flatten_to_rgb(ImageOps.exif_transpose(image))
