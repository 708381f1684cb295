"""The log: a line per `logging_steps` for people, and the same numbers in `log.jsonl` for programs."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

from rich.console import Console
from transformers import TrainerCallback

from smol_hf.support.formatting import compact, duration

FILE_NAME = "log.jsonl"
SOURCES_SHOWN = 12


class LogCallback(TrainerCallback):
    """Prints progress and writes `log.jsonl` in the output folder; a resumed run goes on in the same file.

    `failed_sources`: name and reason of what a mixture does without, the first line of the file where there is any.
    """

    def __init__(self, output_dir: str | Path, failed_sources: dict[str, str] | None = None):
        self.path = Path(output_dir) / FILE_NAME
        self.first = [{"failed_sources": failed_sources}] if failed_sources else []
        self.console = Console(highlight=False)

    def on_train_begin(self, args, state, control, **kwargs):
        self.started, self.first_step = time.perf_counter(), state.global_step
        if state.is_world_process_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Lines that a killed run wrote after the checkpoint it resumes from will be written again.
            self.path.write_text("".join(map(line_of, [*self.first, *state.log_history])), encoding="utf-8")

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps:
            control.should_log = True  # the last counters, whatever logging_steps is
        return control

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line_of(state.log_history[-1]))
        if "loss" in logs:
            self.console.print(self.progress(state, logs), soft_wrap=True)
        if "eval_loss" in logs:
            self.console.print(validated(state.global_step, logs), soft_wrap=True)

    def progress(self, state, logs: dict) -> str:
        done = state.global_step - self.first_step
        left = (time.perf_counter() - self.started) / max(done, 1) * (state.max_steps - state.global_step)
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
            f"step {state.global_step:>{len(str(state.max_steps))}}/{state.max_steps}  loss {logs['loss']:.4f}  "
            f"lr {rates}  {compact(round(logs['tokens_per_second']))} tokens/s "
            f"({logs['trained_token_fraction']:.0%} trained)  {logs['samples_per_second']:.1f} samples/s  "
            f"{duration(left)} left{skipped}{losses_in_words(logs)}{given_up_in_words(logs)}"
        )


def validated(step: int, logs: dict) -> str:
    bits = f"  {logs['eval_bits_per_byte']:.4f} bits per byte" if "eval_bits_per_byte" in logs else ""
    return (
        f"step {step}  validation loss {logs['eval_loss']:.4f}  perplexity {logs['eval_perplexity']:.2f}{bits}  "
        f"({logs['eval_tokens']:,} tokens in {duration(logs['eval_seconds'])})"
    )


def losses_in_words(logs: dict) -> str:
    """The loss of each source of a mixture, on a line of its own; of more than 12, that of each modality."""
    for kind, most in (("loss/", SOURCES_SHOWN), ("loss_by_modality/", math.inf)):
        found = {key.removeprefix(kind): loss for key, loss in logs.items() if key.startswith(kind)}
        if 0 < len(found) <= most:
            return "\n  loss of " + ", ".join(f"{name} {loss:.4f}" for name, loss in found.items())
    return ""


def given_up_in_words(logs: dict) -> str:
    names = [key.removeprefix("given_up/") for key in logs if key.startswith("given_up/")]
    return f"\n  given up, with nothing usable in it: {', '.join(names)}" if names else ""


def line_of(entry: dict) -> str:
    """One JSON line; what is not finite becomes null, since JSON has no word for it."""
    clean = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in entry.items()
    }
    return json.dumps(clean) + "\n"


def read_log(output_dir: str | Path) -> list[dict]:
    """The entries of `log.jsonl`, in order."""
    lines = (Path(output_dir) / FILE_NAME).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
