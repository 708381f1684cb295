"""The log: a line per `logging_steps` on the console, and the same numbers in `log.jsonl`."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from transformers import TrainerCallback

from smol_hf.support.formatting import compact, duration
from smol_hf.training.log.run_log import FILE_NAME

SOURCES_SHOWN = 12
SECONDS_BETWEEN_LINES = 5
IN_THE_LINE = tuple(f"eval_{name}" for name in ("loss", "perplexity", "bits_per_byte", "tokens", "seconds", "answers"))


class LogCallback(TrainerCallback):
    """Prints progress and writes `log.jsonl` in the output folder; a resumed run continues the same file.

    Args:
        failed_sources: name and reason of each failed source of a mixture, written as the first line.
    """

    def __init__(self, output_dir: str | Path, failed_sources: dict[str, str] | None = None):
        self.path = Path(output_dir) / FILE_NAME
        self.first = [{"failed_sources": failed_sources}] if failed_sources else []
        self.console = Console(highlight=False)

    def on_train_begin(self, args, state, control, **kwargs):
        self.started, self.first_step = time.perf_counter(), state.global_step
        if state.is_world_process_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Without the lines after the checkpoint: they are written again.
            self.path.write_text("".join(map(line_of, [*self.first, *state.log_history])), encoding="utf-8")

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps:
            control.should_log = True  # the last counters, whatever logging_steps is
        return control

    def on_log(self, args, state, control, logs, **kwargs):
        if not state.is_world_process_zero:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line_of(state.log_history[-1]))
        if "loss" in logs:
            self.console.print(self.progress(state, logs), soft_wrap=True)
        if "eval_loss" in logs:
            self.console.print(validated(state.global_step, logs), soft_wrap=True)

    def time_left(self, state) -> str:
        """Estimate the rest of the run from its steps so far."""
        seconds = (time.perf_counter() - self.started) / max(state.global_step - self.first_step, 1)
        return duration(seconds * (state.max_steps - state.global_step))

    def progress(self, state, logs: dict) -> str:
        """Return the line of a step."""
        rates = "  ".join(
            f"{part} {logs[key]:.1e}"
            for part in ("vision", "connector", "text")
            if (key := f"learning_rate_{part}") in logs
        )
        skipped = "".join(
            f"  {logs[key]} {name} skipped"
            for key, name in (("total_skipped_steps", "steps"), ("total_skipped_samples", "samples"))
            if logs.get(key)
        )
        return (
            f"{step_of(state)}  loss {logs['loss']:.4f}  "
            f"lr {rates}  {compact(round(logs['tokens_per_second']))} tokens/s "
            f"({logs['trained_token_fraction']:.0%} trained)  {logs['samples_per_second']:.1f} samples/s  "
            f"{self.time_left(state)} left{skipped}{losses_in_words(logs)}{given_up_in_words(logs)}"
        )


class ProgressLines:
    """Prints a line every few seconds. Without a console it prints nothing."""

    def __init__(self, console: Console | None):
        self.console = console
        self.started = self.last = time.monotonic()

    def show(self, line: Callable[[float], str]) -> None:
        """Print the line, which is a function of the seconds since the start, if it is time."""
        now = time.monotonic()
        if self.console is not None and now - self.last > SECONDS_BETWEEN_LINES:
            self.last = now
            self.console.print(line(now - self.started))


def step_of(state) -> str:
    """Return the step as `step  5/100`."""
    return f"step {state.global_step:>{len(str(state.max_steps))}}/{state.max_steps}"


def validated(step: int, logs: dict) -> str:
    """Return the line of a validation, and the values of its sources."""
    scores = {name[5:]: value for name, value in logs.items() if name.startswith("eval_") and name not in IN_THE_LINE}
    shared = "".join(f"  {name} {value:.4f}" for name, value in scores.items() if "/" not in name)
    answers = f"{shared}  ({logs['eval_answers']:,} answers)" if "eval_answers" in logs else ""
    sources: dict[str, list[str]] = {}
    for name, value in scores.items():
        metric, slash, source = name.partition("/")
        if slash:
            sources.setdefault(source, []).append(f"{metric} {value:.4f}")
    of_sources = "".join(f"\n  {source}: {', '.join(values)}" for source, values in sources.items())
    bits = f"  {logs['eval_bits_per_byte']:.4f} bits per byte" if "eval_bits_per_byte" in logs else ""
    return (
        f"step {step}  validation loss {logs['eval_loss']:.4f}  perplexity {logs['eval_perplexity']:.2f}{bits}  "
        f"({logs['eval_tokens']:,} tokens in {duration(logs['eval_seconds'])}){answers}{of_sources}"
    )


def losses_in_words(logs: dict) -> str:
    """Return a line with the loss of each source of a mixture; of more than 12 sources, that of each modality."""
    for kind, most in (("loss/", SOURCES_SHOWN), ("loss_by_modality/", math.inf)):
        found = {key.removeprefix(kind): loss for key, loss in logs.items() if key.startswith(kind)}
        if 0 < len(found) <= most:
            return "\n  loss of " + ", ".join(f"{name} {loss:.4f}" for name, loss in found.items())
    return ""


def given_up_in_words(logs: dict) -> str:
    names = [key.removeprefix("given_up/") for key in logs if key.startswith("given_up/")]
    return f"\n  given up, since nothing in it was usable: {', '.join(names)}" if names else ""


def line_of(entry: dict) -> str:
    """Return an entry as a line of JSON, which has no infinity or NaN: they become null."""
    clean = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in entry.items()
    }
    return json.dumps(clean) + "\n"


def read_log(output_dir: str | Path) -> list[dict]:
    """Read the entries of `log.jsonl`, in order."""
    lines = (Path(output_dir) / FILE_NAME).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
