"""Signal training runs of a tiny model at random moments, go on with them, and compare.

    python benchmarks/resume_signals.py --signals 20 --signal TERM --processes 2 --workers 2

The runs get the signal while they start, in a step, while they save, or while they write the result. It goes to the
launcher, to one process, or to all. Then the run goes on. At the end its samples and losses are compared with those of
a run without a signal. The exit codes are counted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

from options import positive
from resume_kills import count_lines

STEPS_PER_SIGNAL = 6  # the most steps until a signal is sent
STEPS_OF_A_SIGNAL = 3  # while it is on its way
ACCUMULATION = 2
PATIENCE = 300  # seconds
RECIPE = {
    "vision_config": {
        "model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
    },
    "text_config": {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 256, "attention_dropout": 0.1,
    },
    "data": "digits", "num_pages": 100, "context_length": 128, "sample_packing": True, "data_lanes": 4,
    "per_device_train_batch_size": 1, "gradient_accumulation_steps": ACCUMULATION, "learning_rate": 1e-2,
    "warmup_steps": 2, "logging_steps": 1, "save_steps": 100_000, "use_cpu": True, "seed": 0,
}  # fmt: skip


class InterruptedRun:
    """Training by `smol-hf train`, in parts that each go on where the one before ended.

    Args:
        folder: of the run; each process writes the samples of its batches there.
        launched: processes that the agent of torchrun starts; 1: none, the run is one process.
    """

    def __init__(self, folder: Path, launched: int, workers: int, steps: int):
        self.folder, self.launched = folder, launched
        keys = {**RECIPE, "output_dir": str(folder / "run"), "max_steps": steps, "dataloader_num_workers": workers}
        values = {key: value if isinstance(value, str) else json.dumps(value) for key, value in keys.items()}
        self.words = [word for key, value in values.items() for word in (f"--{key}", value)]
        self.words += ["--resume_from_checkpoint", "true"]
        folder.mkdir()

    def start(self) -> BaseProcess:
        for left in (*self.folder.glob("pid-*"), *self.folder.glob("code-*")):
            left.unlink()
        process = get_context("fork").Process(target=self.launch)
        process.start()
        assert process.pid is not None
        while process.is_alive() and os.getpgid(process.pid) != process.pid:  # its own group
            time.sleep(0.001)
        return process

    def launch(self) -> None:
        import torch
        from torch.distributed.elastic.multiprocessing import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        os.setsid()
        descriptor = os.open(self.folder / "printed.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        torch.set_num_threads(1)
        if self.launched == 1:
            self.train()
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=self.launched, rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0",
            run_id="signals", start_method="fork", max_restarts=0,
            signals_to_handle="SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",  # SIGUSR1 would end the launcher alone
        )  # fmt: skip
        try:
            elastic_launch(config, self.train)()
        except (ChildFailedError, SignalException):
            sys.exit(1)  # torchrun does so too, and prints the error

    def train(self) -> None:
        """Run the command in one process of the run."""
        from smol_hf import train
        from smol_hf.training.trainer import SmolTrainer

        for each in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(each, signal.SIG_DFL)  # as in a new process; the launcher has handlers of its own
        rank = os.environ.get("RANK", "0")
        training_step = SmolTrainer.training_step

        def recorded_step(trainer, model, inputs, *more):
            with self.samples(rank).open("a") as log:
                log.write(json.dumps([trainer.state.global_step, inputs["sample_ids"]]) + "\n")
            return training_step(trainer, model, inputs, *more)

        SmolTrainer.training_step = recorded_step  # type: ignore[method-assign]
        (self.folder / f"pid-{rank}").write_text(str(os.getpid()))
        code = train.main(self.words)
        (self.folder / f"code-{rank}").write_text(str(code))
        sys.stdout.flush()
        sys.exit(code)

    def samples(self, rank: int | str) -> Path:
        return self.folder / f"samples-{rank}.jsonl"

    def batches(self) -> list[list]:
        """Return [steps before it, samples] of each batch, by process."""
        return [[json.loads(line) for line in self.samples(rank).open()] for rank in range(self.launched)]

    def losses(self) -> list[float]:
        lines = (json.loads(line) for line in (self.folder / "run" / "log.jsonl").open())
        return [entry["loss"] for entry in lines if "loss" in entry]

    def codes(self) -> list[str]:
        """Return the exit codes of the processes; `killed` for those that ended without one."""
        files = [self.folder / f"code-{rank}" for rank in range(self.launched)]
        return [path.read_text() if path.exists() else "killed" for path in files]


def signal_run(process: BaseProcess, run: InterruptedRun, number: int, choose: random.Random) -> None:
    """Send a signal to the first process (of several: the launcher), to any one, or to all with their workers."""
    whom = choose.choice(("first", "one", "all"))
    ranks = [path.read_text() for path in sorted(run.folder.glob("pid-*"))]
    assert process.pid is not None
    with suppress(ProcessLookupError):  # it has just ended
        if whom == "all":
            os.killpg(process.pid, number)
        else:
            os.kill(int(choose.choice(ranks)) if whom == "one" and ranks and all(ranks) else process.pid, number)


def wait_for_processes(process: BaseProcess, run: InterruptedRun) -> None:
    """Wait until the launcher has forked all processes: a signal in a fork may be lost, and leave a lock behind."""
    while process.is_alive() and len(list(run.folder.glob("pid-*"))) < run.launched:
        time.sleep(0.002)


def wait_for_batches(process: BaseProcess, run: InterruptedRun, number: int) -> None:
    while process.is_alive() and count_lines(run.samples(0)) < number:
        time.sleep(0.002)


def signal_at_moments(run: InterruptedRun, steps: int, number: int, signals: int, choose: random.Random) -> dict:
    """Train to the end, with so many signals at random moments: before, in and after the training."""
    codes, launchers, sent = Counter(), Counter(), 0
    startup = 1.0
    while True:
        process, started = run.start(), time.monotonic()
        wait_for_processes(process, run)
        before = count_lines(run.samples(0))
        if sent < signals:
            if sent == signals - 1:  # while the last steps are trained, or the result is written
                wait_for_batches(process, run, (steps - 2) * ACCUMULATION)
                time.sleep(choose.uniform(0, 0.5))
            elif sent and choose.random() < 0.25:
                time.sleep(choose.uniform(0, startup))
            else:
                wait_for_batches(process, run, before + 1)
                startup = time.monotonic() - started
                wait_for_batches(process, run, before + choose.randrange(1, STEPS_PER_SIGNAL * ACCUMULATION))
                time.sleep(choose.uniform(0, 0.02))
        if is_signalled := sent < signals and process.is_alive():
            signal_run(process, run, number, choose)
            sent += 1
        process.join(PATIENCE)
        if process.is_alive():
            os.killpg(process.pid or 0, signal.SIGKILL)
            raise RuntimeError(f"a part did not end within {PATIENCE} seconds")
        if is_signalled:
            codes.update(run.codes())
            launchers[str(process.exitcode)] += 1
        elif process.exitcode:
            raise RuntimeError(f"a part without a signal ended with exit code {process.exitcode}")
        if (run.folder / "run" / "checkpoint").exists() and process.exitcode == 0:
            return {"signals": sent, "exit_codes": dict(codes), "exit_codes_of_launchers": dict(launchers)}


def compare_signalled(place: Path, arguments: argparse.Namespace) -> dict:
    """Return the figures of a run with signals, against those of the same run without one."""
    import smol_hf.train  # noqa: F401  (once, for all parts)

    number = signal.Signals[f"SIG{arguments.signal}"]
    steps = (STEPS_PER_SIGNAL + STEPS_OF_A_SIGNAL) * (arguments.signals + 1)
    runs = [
        InterruptedRun(place / name, arguments.processes, arguments.workers, steps) for name in ("whole", "signalled")
    ]
    process = runs[0].start()
    process.join()
    if process.exitcode:
        raise RuntimeError("the run without a signal failed")
    ended = signal_at_moments(runs[1], steps, number, arguments.signals, random.Random(arguments.seed))
    batches = [run.batches() for run in runs]
    expected, actual = (
        Counter(name for of_rank in each for _, names in of_rank for name in names) for each in batches
    )
    losses = [run.losses() for run in runs]
    return {
        **ended,
        "lost": sum((expected - actual).values()),
        "repeated": sum((actual - expected).values()),
        "identical": batches[0] == batches[1],
        "losses_equal": losses[0] == losses[1] and len(losses[0]) == steps,
        "tracebacks": sum(line.startswith("Traceback") for line in (runs[1].folder / "printed.txt").open()),
        "steps": steps,
        "batches": sum(map(len, batches[0])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--signals", type=positive, default=20)
    parser.add_argument("--signal", choices=("TERM", "USR1"), default="TERM")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=positive, default=1, help="more than 1: as torchrun starts them")
    parser.add_argument("--workers", type=int, default=0, help="data workers of each process")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        print(json.dumps(compare_signalled(Path(place), arguments)))


if __name__ == "__main__":
    main()
