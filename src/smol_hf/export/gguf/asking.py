"""Ask llama.cpp through the package xllamacpp, which needs no build."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from smol_hf.export.target import Answer, MissingEngineError
from smol_hf.inference.prompts import Prompt
from smol_hf.support.formatting import one_line

TYPES = ("f32", "bf16", "f16", "q8_0")  # that the export writes, the most exact first
JOB = Path(__file__).with_name("answer_job.py")
TOP = 100  # log probabilities that llama.cpp tells
MOST_CONTEXT = 16384  # tokens: the memory of its cache grows with them


def answer(folder: Path, prompts: Sequence[Prompt], new_tokens: int) -> list[Answer]:
    """Answer with the most exact language model of a folder; see `answer_with`."""
    return answer_with(model_files(folder)[0][0], folder, prompts, new_tokens)


def variants(folder: Path):
    """Return the answers of the folder's other language models, such as those that llama-quantize wrote."""
    return {path.stem.removeprefix("model-"): partial(answer_with, path) for path in model_files(folder)[0][1:]}


def answer_with(model: Path, folder: Path, prompts: Sequence[Prompt], new_tokens: int) -> list[Answer]:
    """Answer with llama.cpp.

    A model with a chat template gets each prompt as a turn of a chat, another one continues the text.

    Raises:
        MissingEngineError: without the package `xllamacpp`, for videos, and if llama.cpp fails.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise MissingEngineError("the package xllamacpp is missing: pip install xllamacpp")
    if shown := next((prompt for prompt in prompts if prompt.videos), None):
        raise MissingEngineError(f"{shown.where or 'the prompt'} shows a video, which llama.cpp is not asked about")
    images = model_files(folder)[1]
    vocabulary, context, is_chat = facts_of(model)
    job = {
        "model": str(model), "mmproj": str(images) if images else None, "chat": is_chat, "top": min(TOP, vocabulary),
        "context": min(context, MOST_CONTEXT), "new_tokens": new_tokens, "parent": os.getpid(),
        "prompts": [{"text": prompt.text, "images": list(prompt.images)} for prompt in prompts],
    }  # fmt: skip
    return [as_answer(result, vocabulary) for result in run_engine(job, prompts)]


def run_engine(job: dict[str, Any], prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
    """Run llama.cpp in a process of its own, because it keeps state for the life of a process."""
    with TemporaryDirectory() as place:
        asked, results = Path(place, "job.json"), Path(place, "results.jsonl")
        asked.write_text(json.dumps(job), encoding="utf-8")
        results.touch()
        command = [sys.executable, "-P", str(JOB), str(asked), str(results)]
        finished = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
        told = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    if told and "error" in told[-1]:
        where = prompts[len(told) - 1].where or "the prompt"
        raise MissingEngineError(f"llama.cpp cannot answer {where}: {told[-1]['error']}")
    if len(told) < len(prompts):
        last = (finished.stderr.strip().splitlines() or [f"status {finished.returncode}"])[-1]
        raise MissingEngineError(f"llama.cpp stopped after {len(told)} of {len(prompts)} answers ({last})")
    return told


def as_answer(result: dict[str, Any], vocabulary: int) -> Answer:
    logits = np.full(vocabulary, np.nan, dtype=np.float32)
    for token, log_probability in result["top"]:
        logits[token] = log_probability
    return Answer(result["tokens"], result["prompt_tokens"], logits if result["top"] else None)


def model_files(folder: Path) -> tuple[list[Path], Path | None]:
    """Return the files of the language model, the most exact first, and of the image encoder with its connector."""
    images = sorted(folder.glob("mmproj-*.gguf"))
    models = {path.stem.removeprefix("model-"): path for path in sorted(folder.glob("model-*.gguf"))}
    return [models.pop(name) for name in TYPES if name in models] + list(models.values()), next(iter(images), None)


def facts_of(model: Path) -> tuple[int, int, bool]:
    """Return the size of the vocabulary, the context in tokens, and if there is a chat template."""
    from transformers.integrations.gguf.reader import read_gguf_metadata

    try:
        metadata, _ = read_gguf_metadata(str(model))
        context = metadata[f"{metadata['general.architecture']}.context_length"]
        tokens = metadata["tokenizer.ggml.tokens"]  # the reader tells the length of an array
    except Exception as error:  # of any kind, for bytes that are no GGUF file
        raise ValueError(f"{model}: damaged or cut off ({one_line(error)}): export again") from error
    return tokens if isinstance(tokens, int) else len(tokens), int(context), "tokenizer.chat_template" in metadata
