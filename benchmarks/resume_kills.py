"""Kill a stream of packed rows at random moments, go on with other numbers of processes and workers, and compare.

    python benchmarks/resume_kills.py [--kills 100] [--seed 0]

The data are mixed (parquet in row groups, JSON lines, a JSON array, parts of a video; weights 1, 2, 0.5 and 1),
shuffled and packed. Each part runs in a process of its own that is killed with SIGKILL while it works, together with
its workers. The next part goes on from the last state that was saved, with processes drawn from 1, 2, 4 and workers
from 0, 1, 2, 4. (The processes of a part take turns in one, so that their rows are one sequence.) At the end the rows
are compared with those of a run that nobody killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import time
import zlib
from collections import Counter
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

from options import positive

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=positive, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
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
