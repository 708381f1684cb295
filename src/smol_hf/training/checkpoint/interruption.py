"""Signals: a run finishes its step, saves a checkpoint, and ends without a result."""

from __future__ import annotations

import math
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather
from torch.distributed import DistError
from transformers import Trainer, TrainerCallback

SIGNALS = (signal.SIGTERM, signal.SIGINT, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))  # not on Windows
ONE_SIGNAL = 1.0  # seconds in which signals count as one: a launcher repeats those of a terminal or a scheduler
LOST = re.compile(
    "connection (closed|reset)|broken pipe|pair closure|timed? ?out|remote process exited", re.IGNORECASE
)
RESUME = "continue with --resume_from_checkpoint true (smol-hf pretrain: --resume)"


class Interrupted(KeyboardInterrupt):
    """A signal ended the run.

    `code` is the exit code of the process, as a shell would say it: 143 after SIGTERM, 130 after SIGINT, and on Linux
    138 after SIGUSR1. `agreed`: all processes stopped for it together, so only the main process prints it.
    """

    def __init__(self, number: int, message: str = "", agreed: bool = False):
        super().__init__(message)
        self.number, self.code, self.agreed = number, 128 + number, agreed


class StopAfterStep(TrainerCallback):
    """Saves a checkpoint and ends the training after the step in which a process got a signal.

    All processes agree on it. No evaluation follows; a resumed run begins with the one that was due. A second Ctrl-C
    ends the process at once. Schedulers and launchers repeat other signals, which must not end the saving.
    """

    def __init__(self):
        self.received, self.received_at = 0, 0.0
        self.agreed = 0  # the signal that all processes stop for
        self.process = os.getpid()

    def receive(self, number: int, frame) -> None:
        """Note the first signal, and end the process at a second SIGINT."""
        if os.getpid() != self.process:  # a forked worker: its parent decides
            return
        if not self.received:
            self.received, self.received_at = number, time.monotonic()
            if PartialState().is_main_process:
                more = "; a second Ctrl-C stops at once" if number == signal.SIGINT else ""
                text = f"{signal.Signals(number).name}: finishing the step and saving{more}\n"
                os.write(2, text.encode())  # sys.stderr may be in the middle of a write
        elif number == signal.SIGINT and time.monotonic() - self.received_at > ONE_SIGNAL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def on_step_end(self, args, state, control, **kwargs):
        self.agreed = self.received
        if PartialState().num_processes > 1:
            self.agreed = int(torch.as_tensor(gather(torch.tensor([self.received], device=args.device))).max())
        if self.agreed:
            args.save_only_model = False  # otherwise it could not be resumed
            control.should_save = control.should_log = control.should_training_stop = True
            control.should_evaluate = False
        return control

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.agreed:  # the loop ends the epoch early: nothing is due, and the checkpoint is saved
            control.should_save = control.should_evaluate = False
        return control


def train_until_stopped(trainer: Trainer, checkpoint: Path | None) -> None:
    """Train to the end. Raises Interrupted if a signal ended the training, after a checkpoint was saved."""
    stop = StopAfterStep()
    trainer.add_callback(stop)
    with handling(SIGNALS, stop.receive):
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
        except Exception as error:  # at the start of a run, the signal has ended another process before this one
            if stop.received and (lost_process(error) or lost_process(error.__cause__)):
                raise Interrupted(stop.received) from error
            raise
    trainer.remove_callback(stop)
    if stop.agreed:
        step = trainer.state.global_step
        raise Interrupted(
            stop.agreed,
            f"{signal.Signals(stop.agreed).name} stopped the run after step {step:,} of {trainer.state.max_steps:,}: "
            f"checkpoint-{step} is saved, {RESUME}",
            agreed=True,
        )


def words_of(error: KeyboardInterrupt) -> str:
    """Return what this process prints about a signal that ended it; "" if the main process says it for all.

    A terminal sends Ctrl-C to all processes. A scheduler or a launcher may send SIGTERM to any of them.
    """
    if PartialState().is_main_process:
        return f"{error or 'interrupted: nothing was trained'}\n"
    if not isinstance(error, Interrupted) or error.agreed or error.number == signal.SIGINT:
        return ""
    name, process = signal.Signals(error.number).name, PartialState().process_index
    return f"{name} stopped process {process} of the run on {socket.gethostname()}\n"


def lost_process(error: BaseException | None) -> str | None:
    """Return how the connection to another process of the run ended; None for another kind of error."""
    text = str(error)
    found = LOST.search(text) if isinstance(error, DistError) or "gloo" in text else None
    return found[0].lower() if found else None


def terminable() -> AbstractContextManager[None]:
    """Raise Interrupted at SIGTERM and SIGUSR1, as Python raises KeyboardInterrupt at SIGINT.

    Signals that follow within a second are ignored, because a launcher repeats the signals of a scheduler.
    """
    raised_at = -math.inf

    def raise_interrupted(number, frame):
        nonlocal raised_at
        if time.monotonic() - raised_at > ONE_SIGNAL:
            raised_at = time.monotonic()
            raise Interrupted(number)

    return handling([each for each in SIGNALS if each != signal.SIGINT], raise_interrupted)


@contextmanager
def handling(
    signals: Sequence[signal.Signals], handler: Callable[[int, Any], Any] | signal.Handlers
) -> Iterator[None]:
    """Handle these signals inside the context. Python delivers them to the main thread only."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in signals} if in_main_thread else {}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
