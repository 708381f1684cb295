"""Answers that the model generates during a run for some samples, always the same, and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from transformers import GenerationConfig

from smol_hf.data.conversation import SampleError
from smol_hf.data.sources.source import BlockCache
from smol_hf.data.stream.lane import Prepared
from smol_hf.data.stream.preparation import MeasuredSample, ReadySample
from smol_hf.data.stream.stream import Plan
from smol_hf.metrics.scores import METRICS
from smol_hf.modeling.label_loss import IGNORE_INDEX
from smol_hf.support.tokenizer_of import padding_token_id, token_ids, tokenizer_of
from smol_hf.training.loader import summed
from smol_hf.training.validation.held_out import PREFIX

if TYPE_CHECKING:
    from smol_hf.training.validation.measure import Seen


@dataclass(frozen=True)
class Question:
    """The beginning of a sample up to its last answer, and this answer.

    `input_ids` (tokens,); `tiles` (tiles, 3, side, side) uint8, of the images before the answer.
    """

    input_ids: torch.Tensor
    tiles: torch.Tensor
    reference: str
    source: int


@dataclass(frozen=True)
class Answers:
    """The answers to generate.

    Args:
        plan: one round of all sources that are validated on. The first samples of its only lane are answered.
        number: of samples.
        metrics: names in `METRICS`.
        max_new_tokens: of an answer.
        processor: of the model, or the tokenizer of a text-only one.
    """

    plan: Plan
    number: int
    metrics: Sequence[str]
    max_new_tokens: int
    processor: Any

    def score(self, model, accelerator: Accelerator, batch_size: int, seen: Seen) -> dict[str, float]:
        """Return the mean of each metric, with several sources also `<metric>/<name>`, and the number of `answers`.

        All processes call this together, with the model in evaluation mode. Each answers its share.
        """
        chosen = self.choose(seen)[accelerator.process_index :: accelerator.num_processes]
        sums = torch.zeros(len(self.plan.sources), 1 + len(self.metrics), dtype=torch.float64)
        unwrapped = accelerator.unwrap_model(model)
        for start in range(0, len(chosen), batch_size):
            questions = [each for unit in chosen[start : start + batch_size] if (each := self.question(*unit, seen))]
            for question, answer in zip(questions, self.generate(unwrapped, questions, accelerator.device)):
                scores = [METRICS[name].score(answer, [question.reference]) for name in self.metrics]
                sums[question.source] += torch.tensor([1.0, *scores], dtype=torch.float64)
        precise = torch.float32 if accelerator.device.type == "mps" else torch.float64
        total = torch.tensor(summed(accelerator, sums.flatten().to(accelerator.device, precise))).view(sums.shape)
        number, *of_all = total.sum(0).tolist()
        result: dict[str, float] = {"answers": int(number)}
        result |= {name: value / max(number, 1) for name, value in zip(self.metrics, of_all)}
        if len(self.plan.sources) > 1:
            for source, (number, *values) in zip(self.plan.sources, total.tolist()):
                shown = source.name.removeprefix(PREFIX)
                result |= {f"{name}/{shown}": value / number for name, value in zip(self.metrics, values) if number}
        return result

    def choose(self, seen: Seen) -> list[tuple[int, Prepared]]:
        """Return (source, unit) of the first usable sequences, measured but not decoded. The seed has no effect."""
        lane = self.plan.lane(0, BlockCache(self.plan.sources))
        chosen: list[tuple[int, Prepared]] = []
        while len(chosen) < self.number and (reference := lane.mixing.draw()) is not None:
            try:
                prepared = lane.prepare(*reference)
            except SampleError as fault:
                fault.source = self.plan.sources[reference[0]].name
                seen.skipped.append(fault)
                continue
            lane.prepared.clear()
            if isinstance(prepared, MeasuredSample) and prepared.conversation.document is None:  # else no question
                chosen += [(reference[0], unit) for unit in prepared.units]
        return chosen[: self.number]

    def question(self, source: int, unit: Prepared, seen: Seen) -> Question | None:
        """Decode a sample and cut it before its last answer. Returns None, and notes the fault, for a damaged one."""
        try:
            sample: ReadySample = self.plan.work.encode(source, unit)
        except SampleError as fault:
            fault.source = self.plan.sources[source].name
            seen.skipped.append(fault)
            return None
        start, end = last_answer(sample.labels)
        prompt = sample.input_ids[:start]
        tiles = sample.tiles
        if len(tiles):
            image_token, tokens = self.processor.image_token_id, self.processor.image_seq_len
            tiles = tiles[: int((prompt == image_token).sum()) // tokens]
        return Question(prompt, tiles, self.text_of(sample.input_ids[start:end].tolist()), source)

    def text_of(self, tokens: list[int]) -> str:
        tokenizer: Any = tokenizer_of(self.processor)
        return tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()

    def generate(self, model, questions: list[Question], device) -> list[str]:
        """Return the answers to a batch, generated greedily."""
        if not questions:
            return []
        tokenizer: Any = tokenizer_of(self.processor)
        padding = padding_token_id(tokenizer)
        length = max(len(each.input_ids) for each in questions)
        input_ids = torch.full((len(questions), length), padding)
        attention_mask = torch.zeros_like(input_ids)
        for row, each in enumerate(questions):
            input_ids[row, length - len(each.input_ids) :] = each.input_ids
            attention_mask[row, length - len(each.input_ids) :] = 1
        inputs = {"input_ids": input_ids.to(device), "attention_mask": attention_mask.to(device)}
        tiles = [each.tiles.numpy() for each in questions if len(each.tiles)]
        if tiles:
            inputs["pixel_values"] = torch.from_numpy(np.concatenate(tiles)).to(device)
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or length + 10**6
        ends = model.generation_config.eos_token_id
        ends = token_ids(tokenizer.eos_token_id if ends is None else ends)
        greedy = GenerationConfig(
            do_sample=False,
            max_new_tokens=max(1, min(self.max_new_tokens, positions - length)),
            eos_token_id=ends or None,
            pad_token_id=padding,
        )
        rows = model.generate(**inputs, generation_config=greedy)[:, length:].tolist()
        return [self.text_of(before_end(row, ends)) for row in rows]


def last_answer(labels: torch.Tensor) -> tuple[int, int]:
    """Return (start, end) of the last run of labels of a sample, which has some."""
    places = (labels != IGNORE_INDEX).nonzero().flatten()
    end = int(places[-1]) + 1
    gaps = (places[1:] - places[:-1] > 1).nonzero().flatten()
    return int(places[int(gaps[-1]) + 1] if len(gaps) else places[0]), end


def before_end(tokens: list[int], ends: list[int]) -> list[int]:
    """Return the tokens before the first end token."""
    return next((tokens[:place] for place, token in enumerate(tokens) if token in ends), tokens)
