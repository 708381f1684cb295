"""The loss on the samples that a run is validated on, and the scores of generated answers.

The loss is the mean over labelled tokens, independent of batch size, packing and processes. A validation changes
nothing that the training depends on: weights, gradients, modes of modules, random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import nn

from smol_hf.data.collator import SmolCollator
from smol_hf.data.conversation import SampleError
from smol_hf.data.mixture.mixture import Data
from smol_hf.data.stream.stream import Plan, RowStream
from smol_hf.modeling.label_loss import IGNORE_INDEX
from smol_hf.training.loader import FACTS, TrainingLoader, summed, without_mask
from smol_hf.training.recipe.data_arguments import DataArguments
from smol_hf.training.recipe.values import RecipeError
from smol_hf.training.validation.answers import Answers
from smol_hf.training.validation.held_out import PREFIX, usable_rows


@dataclass
class Seen:
    """Samples that a validation met in this process: number of used ones, skipped ones, shortened ones."""

    used: int = 0
    skipped: list[SampleError] = field(default_factory=list)
    shortened: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Validation:
    """The data that a run is validated on.

    Args:
        plans: one round of the rows of each source.
        text_bytes: size of the texts that the labels spell, if it is known.
        answers: answers to generate, if any.
        workers: of the loader, for each process.
    """

    plans: list[Plan]
    text_bytes: int | None = None
    answers: Answers | None = None
    workers: int = 0

    @property
    def names(self) -> list[str]:
        """Return the names of the sources in the log."""
        return [plan.sources[0].name.removeprefix(PREFIX) for plan in self.plans]

    @property
    def metrics(self) -> list[str]:
        """Return the names of the metrics that `measure` always returns, from which a recipe chooses the best."""
        scores = [] if self.answers is None else list(self.answers.metrics)
        shared = ["loss", "perplexity", *(["bits_per_byte"] if self.text_bytes else []), *scores]
        return shared + [f"loss/{name}" for name in self.names if len(self.plans) > 1]

    def loader(
        self, accelerator: Accelerator, collator: SmolCollator, batch_size: int, source: int = 0
    ) -> TrainingLoader:
        """Return the batches of one source for this process."""
        processes, workers = accelerator.num_processes, self.workers
        plan = replace(self.plans[source], lanes=processes * max(workers, 1))
        stream = RowStream(plan, accelerator.process_index, processes, workers)
        return TrainingLoader(stream, collator, batch_size=batch_size, batches_per_epoch=1)

    def measure(
        self, model, accelerator: Accelerator, collator: SmolCollator, batch_size: int, seen: Seen | None = None
    ) -> dict[str, float]:
        """Return `loss` (nats per token), `perplexity`, `tokens`, and `bits_per_byte` if `text_bytes` is known.

        With several sources also `loss/<name>`; with `answers` also its scores. All processes call this together.

        Args:
            seen: collects the samples that were met.
        """
        seen = Seen() if seen is None else seen
        with undisturbed(model, accelerator.device):
            sums = [self.sums(each, model, accelerator, collator, batch_size, seen) for each in range(len(self.plans))]
            scores = {} if self.answers is None else self.answers.score(model, accelerator, batch_size, seen)
        nats, tokens = (sum(column) for column in zip(*sums))
        loss = nats / max(tokens, 1)
        metrics = {"loss": loss, "perplexity": math.exp(loss) if loss < 700 else math.inf, "tokens": int(tokens)}
        if self.text_bytes:
            metrics["bits_per_byte"] = nats / math.log(2) / self.text_bytes
        if len(sums) > 1:
            of_sources = zip(self.names, sums)
            metrics |= {f"loss/{name}": of / number if number else math.nan for name, (of, number) in of_sources}
        return metrics | scores

    def sums(
        self, source: int, model, accelerator: Accelerator, collator: SmolCollator, batch_size: int, seen: Seen
    ) -> list[float]:
        """Return the sum of the losses of a source, and the number of its labelled tokens, over all processes.

        Each process makes as many forward passes as the one with the most batches.
        """
        loader = self.loader(accelerator, collator, batch_size, source)
        sums = torch.zeros(2, dtype=torch.float64)  # losses, labelled tokens
        while summed(accelerator, torch.tensor([float(not loader.finished)], device=accelerator.device))[0] > 0:
            batch = loader.next_batch()
            seen.used += len(batch["sample_ids"])
            seen.skipped += batch["skipped"]
            seen.shortened += batch["shortened"]
            labelled = int((batch["labels"][:, 1:] != IGNORE_INDEX).sum())
            inputs: Any = send_to_device({key: batch[key] for key in batch if key not in FACTS}, accelerator.device)
            number = torch.tensor(1, device=accelerator.device)
            outputs = model(**without_mask(inputs), use_cache=False, num_items_in_batch=number)
            sums += torch.tensor([float(outputs.loss) if labelled else 0.0, labelled], dtype=torch.float64)
        precise = torch.float32 if accelerator.device.type == "mps" else torch.float64
        return summed(accelerator, sums.to(accelerator.device, precise))


def validation_of(plan: Plan, held_out: Data, arguments: DataArguments, workers: int = 0) -> Validation | None:
    """Return the validation on samples of conversations, or None if none is usable.

    Args:
        plan: of the training, with the work on its samples.
    """
    used = [source for source in range(len(held_out.sources)) if usable_rows(held_out, source)]
    if not used:
        return None
    sources, readers = [held_out.sources[each] for each in used], [held_out.readers[each] for each in used]
    shared = replace(plan, seed=0, rounds=1, lanes=1, give_up_after=None)
    plans = [
        replace(shared, sources=[source], weights=[1.0], work=plan.work.with_readers([reader]))
        for source, reader in zip(sources, readers)
    ]
    answers = None
    if arguments.eval_generate_samples:
        first = list(held_out.conversations(10))
        if first and all(each.document is not None for each in first):
            raise RecipeError(
                f"eval_generate_samples asks for answers, but {first[0].sample_id} is a plain text, which has no "
                "question: remove the key"
            )
        together = replace(
            shared, sources=sources, weights=[1.0] * len(used), work=plan.work.with_readers(readers), pool_size=1
        )
        keys = (arguments.eval_generate_samples, arguments.eval_metric, arguments.eval_max_new_tokens)
        answers = Answers(together, *keys, plan.work.processor)
    return Validation(plans, answers=answers, workers=workers)


@contextmanager
def undisturbed(model: nn.Module, device: Any) -> Iterator[None]:
    """Put all modules in evaluation mode, without gradients; restore modes and random numbers afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    devices = [device] if device.type == "cuda" else []
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
