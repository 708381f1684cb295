"""The images and videos of a call → PIL images and `ChosenVideo`s, in reading order."""

import re

from .chat_pieces import part_type
from .image_input import as_image, image_in, shown_value
from .video_frames import METADATA, VIDEO_FORMS, is_metadata
from .video_input import as_video, is_frame, is_source, video_in
from .video_text import VIDEO


class MediaReader:
    """Loads the images and videos of one call, whose options apply to all of them.

    Args:
        sampling: the `VideoSampling` of the processor.
        options: the `CallOptions`. Its `video_metadata` are those of the videos of the call, in reading order.
    """

    def __init__(self, sampling, options):
        self.sampling, self.options = sampling, options
        self.metadata, self.videos = flat_metadata(options.video_metadata), 0

    def image(self, value):
        return as_image(value, self.options.input_data_format)

    def video(self, value, start=None, end=None):
        metadata = self.metadata[self.videos] if self.videos < len(self.metadata) else None
        self.videos += 1
        return as_video(value, self.sampling, self.options, metadata, start, end)

    def check(self):
        """Raise ValueError if the number of metadata is not that of the loaded videos."""
        if self.metadata and len(self.metadata) != self.videos:
            raise ValueError(
                f"video_metadata has {len(self.metadata)} entries for {self.videos} videos: give one for each, or None"
            )


def media_of(conversations, reader):
    """Load the images and videos in the parts of conversations → one list for each conversation."""
    media = []
    for messages in conversations:
        contents = [message.get("content") for message in messages]
        parts = [part for each in contents if each is not None and not isinstance(each, str) for part in each]
        loaded = {
            "image": lambda part: reader.image(image_in(part)),
            "video": lambda part: reader.video(*video_in(part)),
        }
        media.append([loaded[kind](part) for part in parts if (kind := part_type(part)) != "text"])
    reader.check()
    return media


def media_of_prompts(prompts, images, videos, image_token, reader):
    """Load the media of prompts that show them as `image_token` and VIDEO → one list for each prompt.

    Args:
        images, videos: in any structure that `SmolHFProcessor.__call__` takes. Without videos, VIDEO is text.
    """
    names = [image_token] if videos is None else [image_token, VIDEO]
    shown = [re.findall("|".join(map(re.escape, names)), prompt) for prompt in prompts]
    groups = groups_of(images, [marks.count(image_token) for marks in shown])
    videos = flat_videos(videos)
    if (number := sum(marks.count(VIDEO) for marks in shown)) != len(videos):
        raise ValueError(f"the text shows {number} videos, but {len(videos)} were given: give one for each")
    queue, media = iter(videos), []
    for marks, group in zip(shown, map(iter, groups)):
        media.append([reader.video(next(queue)) if mark == VIDEO else reader.image(next(group)) for mark in marks])
    reader.check()
    return media


def media_alone(images, videos, reader):
    """Load media without prompts → one list for each list of images, or for each video."""
    if images is not None and videos is not None:
        raise ValueError("images and videos without a text have no order: give a text, or one of them")
    media = [[reader.image(each) for each in group] for group in groups_of(images)] if videos is None else []
    media += [[reader.video(each)] for each in flat_videos(videos)]
    reader.check()
    if not any(media):
        raise ValueError(f"{'images' if videos is None else 'videos'} is empty: give one or more")
    return media


def groups_of(images, counts=None):
    """Sort images in any structure into one list for each prompt.

    Args:
        counts: the number of images that each prompt shows; None without prompts.
    """
    if images is None:
        images = []
    if getattr(images, "ndim", 0) == 4:
        images = list(images)  # a batch in one array
    if not isinstance(images, (list, tuple)):
        images = [images]
    is_nested = any(isinstance(each, (list, tuple)) or each is None for each in images)
    groups = [images]
    if is_nested:
        groups = [[] if group is None else group if isinstance(group, (list, tuple)) else [group] for group in images]
    if counts is None:
        return groups
    if is_nested and len(groups) != len(counts):
        raise ValueError(f"{len(groups)} lists of images were given for {len(counts)} texts: give one for each")
    for group, shown in zip(groups, counts if is_nested else [sum(counts)]):
        if len(group) != shown:
            raise ValueError(f"the text shows {shown} images, but {len(group)} were given: give one for each")
    queue = iter(images)
    return groups if is_nested else [[next(queue) for _ in range(count)] for count in counts]


def flat_videos(videos):
    """List the videos in any structure: one video, or lists of videos."""
    if videos is None:
        return []
    is_pair = isinstance(videos, tuple) and len(videos) == 2 and is_metadata(videos[1])
    if is_source(videos) or is_frame(videos) or is_pair or getattr(videos, "ndim", 0) == 4:
        return [videos]
    if not isinstance(videos, (list, tuple)) and getattr(videos, "ndim", 0) != 5:
        raise ValueError(f"videos holds {shown_value(videos)}: give for each video {VIDEO_FORMS}")
    if len(videos) and all(map(is_frame, videos)):
        return [videos]
    return [video for each in videos for video in flat_videos(each)]


def flat_metadata(metadata):
    """List the metadata of videos in any structure."""
    if metadata is None:
        return []
    if is_metadata(metadata):
        return [metadata]
    if not isinstance(metadata, (list, tuple)):
        raise ValueError(
            f"video_metadata holds {shown_value(metadata)}: give a mapping of {', '.join(METADATA)}, or a list of them"
        )
    return [found for each in metadata for found in ([None] if each is None else flat_metadata(each))]
