"""The memory and the speed of a long run: neither may change with the number of steps.

    python benchmarks/long_run.py [--steps 2000] [--workers 2]

`smol-hf train` learns digits from small pages, with data workers and checkpoints. The resident memory of all its
processes is read each half second.

The last line is JSON: MiB near the beginning (between 20 and 30 % of the time) and at the end (the last tenth), their
growth, open files at both times, and the samples/s of the second quarter over those of the last.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from options import positive

PAGES = ("--page_size", "32", "--longest_edge", "32", "--do_image_splitting", "false")


def look(process: psutil.Process) -> tuple[float, int] | None:
    """MiB and open files of a process and its children, None if one of them ends meanwhile."""
    try:
        tree = [process, *process.children(recursive=True)]
        return sum(each.memory_info().rss for each in tree) / 2**20, sum(each.num_fds() for each in tree)
    except psutil.Error:
        return None


def slowdown(folder: Path) -> float:
    """Samples per second in the second quarter of the log, over those in the last."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    speeds = [row["samples_per_second"] for row in map(json.loads, lines) if "samples_per_second" in row]
    quarter = len(speeds) // 4
    return statistics.median(speeds[quarter : 2 * quarter]) / statistics.median(speeds[-quarter:])


def measure(steps: int, workers: int, folder: Path) -> dict:
    words = ["--config", "quickstart/digits", *PAGES, "--max_steps", str(steps), "--output_dir", str(folder)]
    words += [
        "--dataloader_num_workers",
        str(workers),
        "--save_steps",
        str(max(steps // 4, 1)),
        "--logging_steps",
        str(max(steps // 40, 1)),
        "--save_total_limit",
        "1",
    ]
    command = [sys.executable, "-m", "smol_hf.train", *words]
    seen, started = [], time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as run:
        process = psutil.Process(run.pid)
        while run.poll() is None:
            if found := look(process):
                seen.append((time.monotonic() - started, *found))
            time.sleep(0.5)
    if run.returncode:
        raise SystemExit(f"smol-hf train failed with exit code {run.returncode}")
    total = seen[-1][0]
    early = [each for each in seen if 0.2 <= each[0] / total <= 0.3] or seen[:1]
    late = [each for each in seen if each[0] / total >= 0.9]
    memory, files = ([statistics.median(row[column] for row in part) for part in (early, late)] for column in (1, 2))
    return {
        "steps": steps, "seconds": total, "mib": memory, "growth_mib": memory[1] - memory[0], "open_files": files,
        "slowdown": slowdown(folder),
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=positive, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments.steps, arguments.workers, Path(folder) / "run")
    print(f"{result['mib'][0]:.0f} MiB near the beginning, {result['mib'][1]:.0f} MiB at the end", end=", ")
    print("open files {:.0f} and {:.0f}".format(*result["open_files"]))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
