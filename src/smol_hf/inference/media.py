"""Images and videos that are shown with a prompt."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from smol_hf.data.conversation import ImagePart, SampleError
from smol_hf.data.media.images import load_image
from smol_hf.inference.prompts import Prompt
from smol_hf.processing.batching import DEFAULT
from smol_hf.processing.video_input import as_video
from smol_hf.support.tokenizer_of import is_language_model


def load_images(processor, images: Iterable[str | Path], where: str) -> list[Image.Image]:
    """Load images. Raise SampleError if one cannot be read, or the model is text-only."""
    images = list(images)
    refuse_text_only(processor, images, where)
    return [load_image(ImagePart(path=str(path)), where) for path in images]


def video_parts(processor, videos: Iterable[str | Path], where: str) -> list[dict]:
    """Return the parts of a message that show these videos. Their frames are decoded with the prompt.

    Raises:
        SampleError: if one cannot be read, or the model or its processor takes no videos.
    """
    videos = list(videos)
    refuse_text_only(processor, videos, where)
    for path in videos:
        chosen_frames(processor, path, where)
    return [{"type": "video", "path": str(path)} for path in videos]


def chosen_frames(processor, path: str | Path, where: str) -> str:
    """Describe the frames of a video that the model sees. Raise SampleError if it cannot be read."""
    refuse_missing_video(path, where)
    if not hasattr(processor, "video_sampling"):  # a processor of transformers chooses by itself
        if getattr(processor, "video_processor", None) is None:
            raise SampleError(where, f"{path} cannot be shown: the processor of this model takes no videos")
        return "a video"
    try:
        video = as_video(str(path), processor.video_sampling, DEFAULT)
    except ValueError as error:
        raise SampleError(where, str(error)) from error
    frames = "1 frame" if len(video.times) == 1 else f"{len(video.times)} frames"
    return f"{video.duration:.1f} s, {frames}"


def refuse_missing_video(path: str | Path, where: str) -> None:
    if not os.path.exists(path):  # also for a text that cannot be a path
        raise SampleError(where, f"the video {path} does not exist")


def refuse_text_only(processor, paths: list, where: str) -> None:
    if paths and is_language_model(processor):
        raise SampleError(
            where,
            f"{paths[0]} cannot be shown to a language model without an image encoder: add one with smol-hf compose",
        )


def user_turn(text: str, images: Iterable[Image.Image], videos: Iterable[dict] = ()) -> dict:
    """Build a user message of the chat format: images, then videos, then the text."""
    parts = [{"type": "image", "image": image} for image in images]
    return {"role": "user", "content": [*parts, *videos, {"type": "text", "text": text}]}


def refuse_unreadable_media(prompts: Iterable[Prompt]) -> None:
    """Raise SampleError for an image that cannot be read, and for a missing video."""
    for prompt in prompts:
        for path in prompt.images:
            load_image(ImagePart(path=path), prompt.where)
        for path in prompt.videos:
            refuse_missing_video(path, prompt.where)
