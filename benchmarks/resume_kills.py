"""Kill a stream of packed rows at random moments, go on with other numbers of processes and workers, and compare.

    python benchmarks/resume_kills.py [--kills 100] [--seed 0]
    python benchmarks/resume_kills.py --kills 20 --signal TERM --processes 2 --workers 2

The data are mixed (parquet in row groups, JSON lines, a JSON array, parts of a video; weights 1, 2, 0.5 and 1),
shuffled and packed. Each
part runs in a process of its own that is killed with SIGKILL while it works, together with its workers; the next part
goes on from the last state that was saved, with processes drawn from 1, 2, 4 and workers from 0, 1, 2, 4. (The
processes of a part take turns in one, so that what they give is one sequence.) At the end the rows are compared with
those of a run that nobody killed.

With `--signal`, training runs of a tiny model get a signal instead: while they start, in a step, while they save, or
while they write the result. The signal goes to the launcher, to one process, or to all. Then the run goes on. At the
end its samples and losses are compared with those of a run without a signal. The exit codes are counted.
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
import zlib
from collections import Counter
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

ROWS_BETWEEN_SAVES = 32  # a multiple of the lanes, as every batch of a run is of its processes
LANES = 16


def build_data(folder: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    from smol_hf.data.digits import build_pages

    def turns(page):
        return [{"user": turn.question, "assistant": turn.answer} for turn in page.turns]

    pages = list(build_pages(1500, seed=0, split="train", turns=2))
    for number in range(4):
        part = pages[number * 200 : (number + 1) * 200]
        images = [[{"bytes": page.conversation.images[0].content, "path": None}] for page in part]
        table = pyarrow.table({"images": images, "texts": [turns(page) for page in part]})
        pyarrow.parquet.write_table(table, folder / f"part-{number}.parquet", row_group_size=10)
    lines, array = [], []
    for number, page in enumerate(pages[800:]):
        words = " ".join(["and"] * (number % 90))
        record = {"messages": [{"role": "user", "content": f"{page.question} {words}"},
                               {"role": "assistant", "content": page.answer}]}  # fmt: skip
        (lines if number % 3 else array).append(record)
    lines[17] = {"messages": []}  # one that cannot be used
    (folder / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "array.json").write_text(json.dumps(array), encoding="utf-8")
    build_clip(folder / "clip.mp4")
    films = []
    for number in range(150):
        video = {"type": "video", "video": "clip.mp4", "start": number / 10, "end": number / 10 + 1 + number % 4}
        asked = {"role": "user", "content": [video, {"type": "text", "text": "which digit"}]}
        films.append({"messages": [asked, {"role": "assistant", "content": str(number)}]})
    (folder / "films.jsonl").write_text("".join(json.dumps(line) + "\n" for line in films), encoding="utf-8")


def build_clip(path: Path) -> None:
    """Write 20 seconds of frames that differ."""
    import av
    import numpy as np

    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"preset": "ultrafast", "g": "20"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(200):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number, dtype=np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def build_plan(folder: Path):
    from smol_hf.data.records import Place, adapt
    from smol_hf.data.sources.json_source import JsonArraySource, JsonLinesSource
    from smol_hf.data.sources.parquet_source import ParquetSource
    from smol_hf.data.stream.preparation import SampleWork
    from smol_hf.data.stream.stream import Plan
    from smol_hf.processing.processing_smol_hf import SmolHFProcessor
    from smol_hf.text.tiny_tokenizer import build_tiny_tokenizer

    parquet = ParquetSource("pages", [str(path) for path in folder.glob("*.parquet")])
    parquet.rows_anywhere = False  # as large files are read: in row groups
    lines, array = JsonLinesSource("lines", folder / "lines.jsonl"), JsonArraySource("array", folder / "array.json")
    films = JsonLinesSource("films", folder / "films.jsonl")
    tokenizer = build_tiny_tokenizer(["User: Assistant: which digit how many number larger and\n\n"] * 3)
    processor = SmolHFProcessor(tokenizer, tile_size=32, image_seq_len=4)
    work = SampleWork(processor, 512, [lambda where, record: adapt(record, Place(where, folder))] * 4)
    sources, weights = [parquet, lines, array, films], [1.0, 2.0, 0.5, 1.0]
    return Plan(sources, weights, work, 512, seed=5, lanes=LANES, pool_size=32, max_tiles=12)


def read_state(folder: Path) -> dict:
    path = folder / "state.json"
    return json.loads(path.read_text()) if path.exists() else {"rows": 0, "states": {}}


def child(data: Path, folder: Path, ranks: int, workers: int, total: int) -> None:
    """Go on from the saved state until `total` rows, saving now and then."""
    from smol_hf.data.stream.stream import RowStream

    os.setsid()
    plan = build_plan(data)
    started = time.perf_counter()
    state = read_state(folder)
    states = {int(lane): value for lane, value in state["states"].items()}
    lines = (folder / "rows.jsonl").read_text().splitlines()[: state["rows"]] if state["rows"] else []
    (folder / "rows.jsonl").write_text("".join(line + "\n" for line in lines))
    streams = [RowStream(plan, rank, ranks, workers, dict(states)) for rank in range(ranks)]
    iterators = [iter(stream) for stream in streams]
    with (folder / "rows.jsonl").open("a") as log:
        for number in range(state["rows"], total):
            row = next(iterators[number % ranks])
            if number == state["rows"]:
                (folder / "restored.txt").write_text(str(time.perf_counter() - started))
            names = [sample.sample_id for sample in row.samples]
            tokens = sum(len(sample.input_ids) for sample in row.samples)
            pixels = zlib.crc32(b"".join(sample.tiles.numpy().tobytes() for sample in row.samples))
            log.write(json.dumps([row.lane, names, tokens, pixels, [fault.where for fault in row.faults]]) + "\n")
            log.flush()
            if (number + 1) % ROWS_BETWEEN_SAVES == 0:
                merged = {lane: value for stream in streams for lane, value in stream.state_dict().items()}
                text = json.dumps({"rows": number + 1, "states": merged}, separators=(",", ":"))
                (folder / "new.json").write_text(text)
                os.replace(folder / "new.json", folder / "state.json")


def start(data: Path, folder: Path, ranks: int, workers: int, total: int) -> BaseProcess:
    """Fork a process, which spares it the imports, with a process group of its own."""
    process = get_context("fork").Process(target=child, args=(data, folder, ranks, workers, total))
    process.start()
    return process


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def killed_run(data: Path, folder: Path, kills: int, total: int, choose: random.Random) -> tuple[int, float]:
    """(kills that hit a run at work, the longest time from a state to its first row, in seconds)."""
    hit, slowest = 0, 0.0
    while True:
        saved = read_state(folder)["rows"]
        ranks, workers = choose.choice((1, 2, 4)), choose.choice((0, 1, 2, 4))
        process = start(data, folder, ranks, workers, total)
        target = saved + choose.randrange(1, 2 * ROWS_BETWEEN_SAVES) if hit < kills else None
        log = folder / "rows.jsonl"
        (folder / "restored.txt").unlink(missing_ok=True)
        while process.is_alive():
            if target is not None and (folder / "restored.txt").exists() and count_lines(log) >= target:
                os.killpg(process.pid, signal.SIGKILL)
                process.join()
                hit += 1
                break
            time.sleep(0.005)
        if (folder / "restored.txt").exists():
            slowest = max(slowest, float((folder / "restored.txt").read_text() or 0))
        if process.exitcode == 0:
            return hit, slowest
        if process.exitcode != -signal.SIGKILL:
            raise RuntimeError(f"a part ended with exit code {process.exitcode}")


# -- runs that a signal ends ------------------------------------------------------------------------------------------

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
    steps = (STEPS_PER_SIGNAL + STEPS_OF_A_SIGNAL) * (arguments.kills + 1)
    runs = [
        InterruptedRun(place / name, arguments.processes, arguments.workers, steps) for name in ("whole", "signalled")
    ]
    process = runs[0].start()
    process.join()
    if process.exitcode:
        raise RuntimeError("the run without a signal failed")
    ended = signal_at_moments(runs[1], steps, number, arguments.kills, random.Random(arguments.seed))
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
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signal", choices=("TERM", "USR1"), help="signal training runs instead")
    parser.add_argument("--processes", type=int, default=1, help="with --signal; more than 1: as torchrun starts them")
    parser.add_argument("--workers", type=int, default=0, help="with --signal: data workers of each process")
    arguments = parser.parse_args()
    if arguments.signal is not None:
        with tempfile.TemporaryDirectory() as place:
            print(json.dumps(compare_signalled(Path(place), arguments)))
        return
    total = -(-(arguments.kills + 4) * ROWS_BETWEEN_SAVES // LANES) * LANES
    with tempfile.TemporaryDirectory() as place:
        data, whole, killed = (Path(place, name) for name in ("data", "whole", "killed"))
        for folder in (data, whole, killed):
            folder.mkdir()
        build_data(data)
        build_plan(data)  # imports here, once, what every part needs
        unbroken = start(data, whole, 1, 0, total)
        unbroken.join()
        if unbroken.exitcode:
            raise RuntimeError("the run that nobody kills failed")
        kills, slowest = killed_run(data, killed, arguments.kills, total, random.Random(arguments.seed))
        rows = [[json.loads(line) for line in (folder / "rows.jsonl").open()] for folder in (whole, killed)]
        expected, actual = (Counter(name for row in each for name in row[1]) for each in rows)
        states = read_state(killed)["states"]
        figures = {
            "kills": kills,
            "lost": sum((expected - actual).values()),
            "repeated": sum((actual - expected).values()),
            "identical": rows[0] == rows[1],
            "rows": total,
            "samples": sum(expected.values()),
            "largest_state_of_a_lane": max(len(json.dumps(state, separators=(",", ":"))) for state in states.values()),
            "slowest_restore_seconds": round(slowest, 2),
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
