"""Steps with a loss or gradient that is not finite, or far above the recent ones: dropped or flagged, and listed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from accelerate.utils import gather_object
from rich.console import Console
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from smol_hf.training.log.counters import RunCounters
from smol_hf.training.log.lines import listed_step
from smol_hf.training.log.run_log import SKIPPED_STEPS
from smol_hf.training.recipe.arguments import SmolTrainingArguments

WINDOW, LEAST = 128, 64  # steps that a step is compared with: at most, and at least
LEAST_DEVIATION = {"loss": 0.01, "gradient norm": 0.1}  # of logarithms; a smaller one would flag trifles
NAMED = 10  # samples in an error


class NonFiniteError(RuntimeError):
    """Too many steps in a row had a loss or a gradient that is not a number."""


class Step(NamedTuple):
    """A step of the optimizer before the weights change. The values are the same in all processes.

    Attributes:
        number: from 1.
        complete: False for the last step of the data, which may have fewer samples than the others.
        scales: the scaler of float16 still has a scale to halve.
    """

    number: int
    loss: float
    norm: float
    complete: bool = True
    scales: bool = False


class SkippedSteps(TrainerCallback, ExportableState):
    """Decides if the optimizer uses a step, and lists the others with their samples in `skipped_steps.jsonl`.

    - A step whose loss or gradient norm is not finite is dropped. `max_nonfinite_steps` in a row end the run.
    - A step whose loss or gradient norm is more than `spike_threshold` standard deviations above the mean of the last
      128 steps is a spike. It is flagged, or with `spike_policy: skip` dropped. This is the rule of OLMo-core's
      `SkipStepOptimizer`, but of logarithms, since both values are skewed, and only for high values. Spikes are part
      of the mean that follows. So a lasting change, such as another kind of data, is accepted after a few steps.

    A checkpoint saves the recent values in `trainer_state.json`, so a resumed run decides as the uninterrupted one.
    """

    def __init__(self, arguments: SmolTrainingArguments, counters: RunCounters, writes: bool):
        self.arguments, self.counters, self.writes = arguments, counters, writes
        self.path = Path(str(arguments.output_dir)) / SKIPPED_STEPS
        self.console = Console(highlight=False, markup=False)
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.nonfinite_in_a_row = 0

    def state(self) -> dict:
        values = {"losses": self.losses, "norms": self.norms, "nonfinite_in_a_row": self.nonfinite_in_a_row}
        return {"args": {}, "attributes": values}

    def on_train_begin(self, args, state, control, **kwargs):
        callbacks: Any = state.stateful_callbacks
        saved = callbacks.setdefault(type(self).__name__, self.state())["attributes"]
        self.losses, self.norms = list(saved["losses"]), list(saved["norms"])
        self.nonfinite_in_a_row = saved["nonfinite_in_a_row"]
        if self.writes and self.path.exists():  # the steps after the checkpoint are judged again
            lines = self.path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if step_of(line) <= state.global_step]
            if kept:
                self.path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
            else:
                self.path.unlink()

    def forget(self) -> None:
        """Begin the comparison anew, because the trained parts of the model change."""
        self.losses, self.norms = [], []

    def uses(self, step: Step, sample_ids: list[str]) -> bool:
        """Return True if the weights may change. All processes call this together.

        Args:
            sample_ids: of this process.

        Raises:
            NonFiniteError: for the last of too many steps in a row.
        """
        if math.isfinite(step.loss) and math.isfinite(step.norm):
            self.nonfinite_in_a_row = 0
            reason = self.spike(step) if step.complete and self.arguments.spike_policy != "off" else ""
            skips = bool(reason) and self.arguments.spike_policy == "skip"
            if reason:
                self.count("spikes")
                self.write(step, reason, skips, sample_ids)
            if skips:
                self.count("skipped_steps")
            return not skips
        self.count("skipped_steps")
        if math.isfinite(step.loss) and step.scales:  # the scaler begins far too high by design, and halves itself
            return False
        self.nonfinite_in_a_row += 1
        names = self.write(step, f"loss {step.loss}, gradient norm {step.norm}", True, sample_ids)
        if self.nonfinite_in_a_row >= self.arguments.max_nonfinite_steps:
            shown = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
            raise NonFiniteError(
                f"step {step.number}: loss {step.loss}, gradient norm {step.norm}, the {self.nonfinite_in_a_row}. "
                f"such step in a row. The samples of this step: {shown}. A lower learning rate, or a look at "
                f"{SKIPPED_STEPS}, helps"
            )
        return False

    def spike(self, step: Step) -> str:
        """Return the reason if a step is a spike, otherwise "". Its values join the recent ones."""
        reasons = []
        for name, value, recent in (("loss", step.loss, self.losses), ("gradient norm", step.norm, self.norms)):
            if value <= 0:  # of a step without labels
                continue
            if len(recent) >= LEAST:
                logarithms = [math.log(each) for each in recent]
                mean = fmean(logarithms)
                deviation = max(LEAST_DEVIATION[name], math.sqrt(fmean((each - mean) ** 2 for each in logarithms)))
                distance = (math.log(value) - mean) / deviation
                if distance > self.arguments.spike_threshold:
                    reasons.append(
                        f"{name} {value:.4g} is {value / math.exp(mean):.1f} times the mean of the last {len(recent)} "
                        f"steps ({distance:.1f} standard deviations)"
                    )
            recent.append(value)
            del recent[:-WINDOW]
        return " and ".join(reasons)

    def count(self, column: str) -> None:
        if self.writes:
            self.counters.count_step(column)

    def write(self, step: Step, reason: str, skipped: bool, sample_ids: list[str]) -> list[str]:
        """List a step. Returns its samples in all processes."""
        names = gather_object(list(sample_ids))
        if self.writes:
            entry: dict[str, Any] = {"step": step.number, "reason": reason, "skipped": skipped}
            entry |= {"loss": repr(step.loss), "grad_norm": repr(step.norm), "samples": names}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            self.console.print(listed_step(entry), soft_wrap=True)
        return names


def step_of(line: str) -> float:
    """Return the step of a line of the list; infinity for a line that a killed run did not complete."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf
