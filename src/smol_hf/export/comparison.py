"""Compare the greedy answers of an exported folder with those of its source checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from smol_hf.data.digits import evaluation_questions
from smol_hf.export.registry import target_of_folder
from smol_hf.export.target import Answer, MissingEngineError, Target
from smol_hf.inference.answering import load_checkpoint
from smol_hf.inference.generation import end_tokens, new_tokens_for
from smol_hf.inference.prompts import Prompt, read_prompts
from smol_hf.inference.run import Generator
from smol_hf.inference.sampling import Sampling
from smol_hf.support.tokenizer_of import is_language_model, padding_token_id, tokenizer_of

PAGES, NEW_TOKENS = 20, 24
TEXTS = (
    "The capital of France is",
    "Once upon a time, there was a small",
    "2 + 2 =",
    "First line.\n\nSecond line begins with",
    "def add(a, b):\n    return",
    "ROMEO:",
)


def compare(checkpoint: str | Path, folder: Path, target: Target, prompts_file: Path | None = None) -> dict[str, Any]:
    """Ask both the same prompts.

    Args:
        checkpoint: the source, in the format of smol_hf.
        folder: the exported folder.
        prompts_file: prompts as for `smol-hf generate`. None: 20 pages of digits with a question each, and 6 texts for
            a model without images.

    Returns:
        `engine`, `prompts`, and either `not_compared` (why) or: `note` (what was not compared; None: everything was),
        `equal` (prompts with equal tokens), `answers` (different ones of the checkpoint: few make a weak comparison),
        `equal_prompts` (prompts of equal length), `difference` (largest one of a log probability of the first new
        token), `differing` (the first three answers), and `variants` (the same for each further precision by name).
        `equal_prompts` and `difference` are None if the engine does not tell.
    """
    facts: dict[str, Any] = {"engine": target.engine}
    if target.answer is None and target.answer_encoded is None:
        return {**facts, "prompts": 0, "not_compared": f"{target.engine} cannot be called from Python here"}
    model, processor = load_checkpoint(checkpoint, device="cpu", dtype="float32")
    generator = Generator(model, processor, Sampling(max_new_tokens=NEW_TOKENS))
    with TemporaryDirectory() as place:
        prompts = read_prompts(prompts_file) if prompts_file is not None else own_prompts(processor, Path(place))
        facts["prompts"] = len(prompts)
        try:
            theirs, facts["note"] = answers_of(target, folder, prompts, generator)
        except MissingEngineError as missing:
            return {**facts, "not_compared": str(missing)}
        ours = [reference(generator, prompt) for prompt in prompts]
    tokenizer = tokenizer_of(processor)
    compared = {
        name: differences(ours, answers, end_tokens(model, tokenizer), tokenizer) for name, answers in theirs.items()
    }
    return {**facts, **compared.pop(""), "variants": compared}


def answers_of(
    target: Target, folder: Path, prompts: Sequence[Prompt], generator: Generator
) -> tuple[dict[str, list[Answer]], str | None]:
    """Ask the engine. Returns its answers by variant, "" for the target's own, and the note of `compare`.

    Raises:
        MissingEngineError: if it cannot run here.
    """
    reason = ""
    variants = target.variants(folder).items()
    # An unusable prompt is reported alike for every engine.
    inputs = [dict(generator.inputs([prompt])) for prompt in prompts]
    if target.answer is not None:
        try:
            answers = {"": target.answer(folder, prompts, NEW_TOKENS)}
            return answers | {name: call(folder, prompts, NEW_TOKENS) for name, call in variants}, None
        except MissingEngineError as missing:
            if target.answer_encoded is None:
                raise
            reason = f": {missing}"
    assert target.answer_encoded is not None  # else there is nothing to compare
    answers = {"": target.answer_encoded(folder, inputs, NEW_TOKENS)}
    answers |= {name: call(folder, inputs, NEW_TOKENS) for name, call in variants}
    return answers, f"its own processor was not compared, the prompts are the checkpoint's{reason}"


def compare_folder(checkpoint: str | Path, folder: str | Path, prompts_file: str | None = None) -> dict[str, Any]:
    """Compare an exported folder with its source; see `compare`. Raise ValueError for a folder of no target."""
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    target = target_of_folder(Path(folder))
    if target is None:
        raise ValueError(f"{folder} is not a result of smol-hf export: --source has no effect with it")
    return compare(checkpoint, Path(folder), target, Path(prompts_file) if prompts_file else None)


def own_prompts(processor, folder: Path) -> list[Prompt]:
    """Pages of digits in `folder`, or texts for a language model."""
    if is_language_model(processor):
        return [Prompt(text, where=f"text {number}") for number, text in enumerate(TEXTS, start=1)]
    prompts = []
    for number, page in enumerate(evaluation_questions(PAGES, seed=2, page_size=processor.longest_edge), start=1):
        path = folder / f"{number}.png"
        path.write_bytes(page.conversation.images[0].content or b"")
        prompts.append(Prompt(page.question, (str(path),), where=f"page {number}"))
    return prompts


@torch.inference_mode()
def reference(generator: Generator, prompt: Prompt) -> Answer:
    """Return our own greedy answer."""
    model, inputs = generator.model, generator.inputs([prompt])
    tokenizer = tokenizer_of(generator.processor)
    length = inputs["input_ids"].shape[1]
    output = model.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=new_tokens_for(model, length, prompt.where, NEW_TOKENS),
        eos_token_id=end_tokens(model, tokenizer) or None,
        pad_token_id=padding_token_id(tokenizer),
        output_logits=True,
        return_dict_in_generate=True,
    )
    return Answer(output.sequences[0, length:].tolist(), length, output.logits[0][0].float().numpy())


def differences(ours: Sequence[Answer], theirs: Sequence[Answer], ends: list[int], tokenizer) -> dict[str, Any]:
    """Compare answers; see `compare`. An engine may leave out the end token of an answer."""
    pairs = [(own.tokens, other.tokens) for own, other in zip(ours, theirs, strict=True)]
    equal = [without_end(own, ends) == without_end(other, ends) for own, other in pairs]
    lengths = [(own.prompt_tokens, other.prompt_tokens) for own, other in zip(ours, theirs)]
    distances = [log_distance(own.logits, other.logits) for own, other in zip(ours, theirs)]
    known = [each for each in distances if each is not None]
    differing = [pair for pair, same in zip(pairs, equal) if not same]
    return {
        "equal": sum(equal),
        "answers": len({tuple(own) for own, _ in pairs}),
        "equal_prompts": None
        if any(other is None for _, other in lengths)
        else sum(own == other for own, other in lengths),
        "difference": max(known) if known else None,
        "differing": [[json.dumps(tokenizer.decode(tokens)) for tokens in pair] for pair in differing[:3]],
    }


def without_end(tokens: list[int], ends: list[int]) -> list[int]:
    return tokens[:-1] if tokens and tokens[-1] in ends else tokens


def log_distance(own: np.ndarray | None, other: np.ndarray | None) -> float | None:
    """Return the largest difference of log probabilities, where the engine tells them.

    Raises:
        ValueError: for vocabularies of different sizes.
    """
    if own is None or other is None:
        return None
    if own.shape != other.shape:
        raise ValueError(
            f"the export has a vocabulary of {len(other):,} tokens, and the checkpoint of {len(own):,}: it is not an "
            "export of this checkpoint"
        )
    first, second = log_softmax(own), other if np.isnan(other).any() else log_softmax(other)
    return float(np.nanmax(np.abs(first - second)))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())
