"""Videos: when each frame appears, and the images of chosen frames.

    open_video(path, bytes, or frame images)  →  times, duration  →  frames(indices)

Times come from the timestamps of packets, never from a number of frames per second, and nothing is decoded for them.
"""

import bisect
import math
import os

from .image_input import as_image
from .video_decoding import Place, VideoError, check_end, displayed, is_hidden, opened, pyav, read_frames
from .video_frames import frames_in, opened_image


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
    if not isinstance(source, bytes) and os.path.exists(source) and not os.path.isfile(source):
        raise VideoError("it is neither a file nor a folder of frames")
    return Video(source)


def reader_name():
    """Return the library that reads video files, with its version."""
    try:
        av = pyav()
    except VideoError:
        return "PyAV (not installed: pip install av)"
    return f"PyAV {av.__version__} (FFmpeg {av.ffmpeg_version_info})"


class Video:
    """A video file: the `times` of its frames in seconds from the first, `duration`, and `size` before rotation.

    `end` is the time at which the last frame disappears, and `origin` the time of the first.

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
            self.duration = self.end = float((last + length - first) * unit)
            check_end(container, stream, number, max(end, (last + length) * unit), length * unit)

    def places(self, indices):
        """Return the `Place` of each frame."""
        if self.is_counted:
            return [Place(index, None) for index in indices]
        stamps = [self.stamps[index] for index in indices]
        return [Place(stamp, self.keys[max(bisect.bisect_right(self.keys, stamp) - 1, 0)]) for stamp in stamps]

    def frames(self, indices):
        """Yield the frames with these ascending indices as PIL images."""
        return read_frames(self.source, self.places(indices))


class FrameImages:
    """Frames that are images: `times` in seconds from the first, and `duration`, which is their `end`.

    `origin` is the given time of the first frame: `start` and `end` of a part are counted as the given times are.

    Args:
        source: a folder or a list, see `open_video`.
    """

    def __init__(self, source):
        frames = source if isinstance(source, (list, tuple)) else frames_in(source)
        try:
            frames = sorted(((float(time), image) for time, image in frames), key=lambda frame: frame[0])
        except (TypeError, ValueError) as error:
            raise VideoError(f"give a time in seconds for each of its frames: {error}") from error
        if not frames:
            raise VideoError("it has no frames")
        self.origin = frames[0][0]
        self.images, self.times = [image for _, image in frames], [time - self.origin for time, _ in frames]
        if not math.isfinite(sum(self.times)) or len(set(self.times)) < len(frames):
            raise VideoError("each of its frames needs another time")
        self.duration = self.end = self.times[-1] + (self.times[-1] - self.times[-2] if len(frames) > 1 else 1.0)

    def places(self, indices):
        """Return the images of these frames, unread."""
        return [self.images[index] for index in indices]

    def frames(self, indices):
        """Yield the frames with these indices as PIL images."""
        for image in self.places(indices):
            with opened_image(image) as opened_frame:
                yield as_image(opened_frame)
