"""Keys of a recipe for the validation of runs over conversations."""

# ruff: noqa: RUF009 (`key` makes a field)
from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from smol_hf.data.mixture.entry_keys import refuse_shares
from smol_hf.metrics.scores import METRICS
from smol_hf.support.formatting import nearest
from smol_hf.training.recipe.keys import OnResume, Runs, default_of, key

of_conversations = functools.partial(key, runs=Runs.CONVERSATIONS, excluded_by=("documents",))
ORIGINS = ("eval_fraction", "eval_data", "eval_mixture")


@dataclass
class EvaluationArguments:
    """Keys of samples that are validated on, and of answers that are generated for them."""

    eval_fraction: float = of_conversations(
        0.0,
        "Share of the samples that is held out for validation and never trained. The name of a sample decides, so the "
        "same samples are held out with any seed, in each epoch and after a resume. (Documents: validation_fraction.)",
        least=0,
        below=1,
        wanted="it is a share from 0 to below 1",
    )
    eval_data: str | None = of_conversations(
        None,
        "Other samples for validation, as in data. The keys adapter, filters, ignore_fields and image_folder apply to "
        "them too.",
        resume=OnResume.CHANGE,
    )
    eval_mixture: list[dict[str, Any]] | None = of_conversations(
        None,
        "Several sources for validation, as in mixture, such as [{data: owner/name, split: validation}]. Each sample "
        "is used once.",
        resume=OnResume.CHANGE,
    )
    eval_generate_samples: int = of_conversations(
        0,
        "Number of validation samples that the model answers in each validation. They are the same each time. The "
        "last answer of a sample is generated greedily and scored by eval_metric.",
        resume=OnResume.CHANGE,
        least=0,
    )
    eval_metric: list[str] = of_conversations(
        list,
        f"Scores of the generated answers: {', '.join(METRICS)}. The log has their means as eval_exact_match, ….",
        resume=OnResume.CHANGE,
    )
    eval_max_new_tokens: int = of_conversations(
        64, "Maximum tokens of a generated answer in a validation.", resume=OnResume.CHANGE, least=1
    )

    @property
    def validates(self) -> bool:
        return any(self.is_set(name) for name in ORIGINS)

    def is_set(self, name: str) -> bool:
        return getattr(self, name) != default_of(type(self).__dataclass_fields__[name])

    def check_evaluation(self) -> None:
        """Refuse keys that contradict each other or have no effect. Raises ValueError."""
        origins = [name for name in ORIGINS if self.is_set(name)]
        if len(origins) > 1:
            raise ValueError(f"{' and '.join(origins)} exclude each other: choose the samples in one way")
        for name, kind in (("eval_data", "a file, a folder or a dataset of the Hub"), ("eval_mixture", "a source")):
            if getattr(self, name) in ("", []):
                raise ValueError(f"{name} is empty: name {kind}, or leave the key out")
        refuse_shares(self.eval_mixture or [], "eval_mixture")
        if not origins and (
            unused := [name for name in ("eval_generate_samples", "eval_metric") if self.is_set(name)]
        ):
            raise ValueError(f"{' and '.join(unused)} need {', '.join(ORIGINS[:2])} or {ORIGINS[2]}: set one of them")
        if self.is_set("eval_generate_samples") != self.is_set("eval_metric"):
            raise ValueError("eval_generate_samples and eval_metric need each other: set both or neither")
        if self.is_set("eval_max_new_tokens") and not self.is_set("eval_metric"):
            raise ValueError("eval_max_new_tokens has no effect without eval_generate_samples: leave it out")
        for name in self.eval_metric:
            if name not in METRICS:
                known = f"(known: {', '.join(METRICS)})"
                raise ValueError(f"eval_metric: unknown metric {name!r}{nearest(name, list(METRICS))} {known}")
