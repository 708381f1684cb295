"""The log: a line per `logging_steps` on the console, and the same numbers in `log.jsonl`."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from transformers import TrainerCallback

from smol_hf.training.log.lines import lines_of
from smol_hf.training.log.run_log import FILE_NAME

SECONDS_BETWEEN_LINES = 5


class LogCallback(TrainerCallback):
    """Prints progress and writes `log.jsonl` in the output folder; a resumed run continues the same file.

    Args:
        failed_sources: name and reason of each failed source of a mixture, written as the first line.
    """

    def __init__(self, output_dir: str | Path, failed_sources: dict[str, str] | None = None):
        self.path = Path(output_dir) / FILE_NAME
        self.first = [{"failed_sources": failed_sources}] if failed_sources else []
        self.console = Console(highlight=False, markup=False)

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
        entry = state.log_history[-1]
        entry |= {"max_steps": state.max_steps, "seconds_left": self.seconds_left(state)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line_of(entry))
        for line in lines_of(entry):
            self.console.print(line, soft_wrap=True)

    def seconds_left(self, state) -> float:
        """Estimate the rest of the run from its steps so far."""
        seconds = (time.perf_counter() - self.started) / max(state.global_step - self.first_step, 1)
        return round(seconds * (state.max_steps - state.global_step), 1)


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
