"""Answer questions in batches of similar length. A thread prepares the next batches while the model generates."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from transformers import BatchEncoding

from smol_hf.data.conversation import Conversation, SampleError
from smol_hf.data.media.images import image_size
from smol_hf.evaluation.prompts import answer_ids, answer_losses, encode, measures_answers, messages_of
from smol_hf.inference.generation import generate_with_cache, room_after
from smol_hf.inference.sampling import Sampling
from smol_hf.support.formatting import one_line
from smol_hf.support.tokenizer_of import tokenizer_of

AHEAD = 2  # batches that are prepared while the model generates
PIXELS_OF_A_CHARACTER = 1000  # for the order of batches only
FRAMES = 100_000  # characters of a video, likewise


@dataclass(frozen=True)
class Job:
    """A question in one view, and the first reference if its loss is wanted."""

    view: str
    where: str
    conversation: Conversation
    reference: str | None = None


@dataclass(frozen=True)
class Answer:
    """The answer to a job. `nats`: the loss of the reference in nats, over `answer_tokens` tokens; None if unknown."""

    text: str
    tokens: int
    finish_reason: str
    nats: float | None = None
    answer_tokens: int = 0


@dataclass
class Batch:
    """Encoded jobs with the same limit of new tokens, or the faults of jobs that cannot be used."""

    jobs: list[Job] = field(default_factory=list)
    inputs: BatchEncoding | None = None
    max_new_tokens: int = 0
    references: list[list[int]] = field(default_factory=list)
    faults: list[SampleError] = field(default_factory=list)


class Answerer:
    """A loaded checkpoint that answers questions greedily.

    Args:
        max_new_tokens: of an answer; fewer if the model has fewer positions left.
        batch_size: of prompts. It does not change the answers, except near ties in half precision.
    """

    def __init__(self, model, processor, *, max_new_tokens: int, batch_size: int):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: it must be at least 1")
        self.model, self.processor, self.batch_size = model, processor, batch_size
        self.sampling = Sampling(max_new_tokens=max_new_tokens)
        self.max_new_tokens = max_new_tokens
        self.measures = measures_answers(model)
        # A tokenizer's settings change while it encodes, and the main thread decodes meanwhile.
        self.own_processor = copy.deepcopy(processor)

    def answers(self, jobs: Sequence[Job]) -> Iterator[tuple[list[tuple[Job, Answer]], list[SampleError]]]:
        """Yield the answers of each batch, longest prompts first, and the faults of jobs that cannot be used."""
        ordered = sorted(jobs, key=size_of, reverse=True)
        parts = [ordered[first : first + self.batch_size] for first in range(0, len(ordered), self.batch_size)]
        for batches in ahead(self.prepare, parts):
            for batch in batches:
                yield list(zip(batch.jobs, self.answer(batch))), batch.faults

    def prepare(self, jobs: Sequence[Job]) -> list[Batch]:
        """Decode and encode jobs. A job that cannot be used becomes a fault."""
        usable, messages, faults = [], [], []
        for job in jobs:
            try:
                messages.append(messages_of(self.own_processor, job.conversation))
                usable.append(job)
            except SampleError as fault:
                faults.append(fault)
        result = [Batch(faults=faults)] if faults else []
        return result + (self.encoded(usable, messages) if usable else [])

    def encoded(self, jobs: list[Job], messages: list[list[dict]]) -> list[Batch]:
        try:
            inputs = encode(self.own_processor, messages)
            lengths = inputs["attention_mask"].sum(dim=1).tolist()
            room = [room_after(self.model, length, job.where) for job, length in zip(jobs, lengths)]
        except ValueError as error:  # a SampleError too
            if len(jobs) == 1:
                fault = error if isinstance(error, SampleError) else SampleError(jobs[0].where, one_line(error))
                return [Batch(faults=[fault])]
            return [batch for pair in zip(jobs, messages) for batch in self.encoded([pair[0]], [pair[1]])]
        limits = [min(self.max_new_tokens, each) for each in room]
        if len(set(limits)) > 1:
            groups = [[number for number, each in enumerate(limits) if each == limit] for limit in set(limits)]
            return [
                batch
                for group in groups
                for batch in self.encoded([jobs[each] for each in group], [messages[each] for each in group])
            ]
        references = [
            [] if job.reference is None else answer_ids(self.model, self.own_processor, each, job.reference)
            for job, each in zip(jobs, messages)
        ]
        references = [ids if len(ids) <= left else [] for ids, left in zip(references, room)]
        return [Batch(jobs, inputs, limits[0], references)]

    def answer(self, batch: Batch) -> list[Answer]:
        if batch.inputs is None:
            return []
        inputs, tokenizer = batch.inputs.to(self.model.device), tokenizer_of(self.processor)
        options = {"max_new_tokens": batch.max_new_tokens, "chat": True, "rows": range(len(batch.jobs))}
        generated, cache = generate_with_cache(self.model, tokenizer, inputs, self.sampling, **options)
        losses: list[float] = []
        if self.measures and any(batch.references):
            losses = answer_losses(self.model, tokenizer, inputs, batch.references, cache)
        facts = zip(generated, losses or [0.0] * len(generated), batch.references)
        return [
            Answer(
                each.text.strip(),
                each.tokens,
                each.finish_reason,
                round(nats, 4) if ids and losses else None,
                len(ids) if losses else 0,
            )
            for each, nats, ids in facts
        ]


def size_of(job: Job) -> int:
    """Estimate the length of a prompt, for the order of batches."""
    parts = [part for message in job.conversation.messages for part in message.parts]
    size = sum(len(getattr(part, "text", "")) for part in parts) + FRAMES * len(job.conversation.videos)
    for image in job.conversation.images:
        height, width = image_size(image, job.where)
        size += height * width // PIXELS_OF_A_CHARACTER
    return size


def ahead(work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Yield `work(item)` of each item in order, computed in a thread up to `AHEAD` items in advance."""
    with ThreadPoolExecutor(1) as pool:
        waiting: list[Future] = []
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > AHEAD:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for each in waiting:
                each.cancel()
