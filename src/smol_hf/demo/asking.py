"""Ask the questions of pages and clips in a process that cannot import this package."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from smol_hf.data.conversation import ImagePart, Part, VideoPart
from smol_hf.data.digits import Asked, Clip, single_frame
from smol_hf.demo import isolated_load
from smol_hf.demo.report import Answered
from smol_hf.processing.video_sampling import FrameTimes, VideoSampling
from smol_hf.processing.video_text import STYLES, video_parts
from smol_hf.training.checkpoint.interruption import terminable

ISOLATED = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONUNBUFFERED": "1"}

Prompt = list[dict[str, str]]


def shown_part(asked: Asked) -> ImagePart | VideoPart:
    """Return the image of a page, or the video of a clip."""
    [part] = asked.conversation.media
    return part


def prompt_of(asked: Asked, part: Part | None) -> Prompt:
    """Return the first question, after the image or video `part`; None: the question only."""
    question = {"type": "text", "text": asked.question}
    if isinstance(part, VideoPart):
        return [*frames_as_images(part), question]
    if isinstance(part, ImagePart):
        return [image_part(part.content), question]
    return [question]


def frames_as_images(video: VideoPart) -> Prompt:
    """Write a video as the texts and images that the processor makes of it."""
    chosen = VideoSampling().choose(video.times, float(len(video.times)))
    parts = video_parts(FrameTimes(tuple(video.times[i] for i in chosen), float(len(video.times))), STYLES["smolvlm"])
    images = iter(video.frames[i] for i in chosen)
    return [image_part(next(images)) if part["type"] == "image" else part for part in parts]


def image_part(content: bytes | None) -> dict[str, str]:
    assert content is not None  # pages and clips are drawn in memory
    return {"type": "image", "image": base64.b64encode(content).decode()}


def answer(checkpoint: Path, questions: Sequence[Asked]) -> list[Answered]:
    """Answer the questions of pages and clips: with the image or frames, without, and clips with a single frame."""
    clips = [each for each in questions if isinstance(each, Clip)]
    answers = iter(
        answer_isolated(
            checkpoint,
            [prompt_of(each, shown_part(each)) for each in questions]
            + [prompt_of(each, None) for each in questions]
            + [prompt_of(clip, shown_part(single_frame(clip))) for clip in clips],
        )
    )
    seen, blind = ([next(answers) for _ in questions] for _ in range(2))
    single = [next(answers) if isinstance(each, Clip) else None for each in questions]
    return [Answered(*each) for each in zip(questions, seen, blind, single, strict=True)]


def answer_isolated(checkpoint: Path, prompts: Sequence[Prompt]) -> list[str]:
    """Answer the prompts. Raises RuntimeError if the process fails; it has printed its own message."""
    with tempfile.TemporaryDirectory() as folder:
        questions_path, answers_path = Path(folder, "questions.json"), Path(folder, "answers.json")
        questions_path.write_text(json.dumps(prompts), encoding="utf-8")
        command = [sys.executable, isolated_load.__file__, str(checkpoint), str(questions_path), str(answers_path)]
        with terminable():  # subprocess.run ends the process when a signal raises
            result = subprocess.run(command, env={**os.environ, **ISOLATED, "HF_HOME": folder})
        if result.returncode:
            raise RuntimeError(f"answering failed with exit code {result.returncode}: see the messages above")
        return json.loads(answers_path.read_text(encoding="utf-8"))
