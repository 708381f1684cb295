"""Run the benchmarks, and write their figures into docs/performance.md with a plot of the ratios.

    python benchmarks/run_all.py
    python benchmarks/run_all.py --only train_step packing
    python benchmarks/run_all.py --nanovlm CLONE --only nanovlm_step
    python benchmarks/run_all.py --page-only

Benchmarks that need a GPU, or a clone of nanoVLM, run only where there is one. The page shows all results that
`--results` has. Without earlier results it loses the other figures: `--docs` writes it elsewhere.

Each benchmark is a process of its own, and its last line of output is JSON. The results are kept in `--results`, with
the facts of the machine, so that one benchmark can be repeated alone. The page shows the results that are there, and
says which benchmarks were not run. The other programs of the machine should be idle.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from functools import reduce
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from listed import BENCHMARKS, Benchmark
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
INTRODUCTION = """\
`make bench` runs the benchmarks and writes this page. Those of nanoVLM and of a GPU run only if there is a clone,
`run_all.py --nanovlm CLONE`, or a GPU.

A figure with × is a ratio of speeds: above 1, ours is faster, or the ingredient helps. On an idle machine, repeated
runs differ by a few percent, so a ratio from 0.95 to 1.05 means equal speed. With fewer samples or other programs,
ratios differ more.

Models that are compared on a CPU are small: `benchmarks/compared_models.py` has their sizes. Images are random noise
of one to five tiles. Peak memory is what a process adds from its first step on. The weights are not counted.
"""
PACKAGES = ("torch", "transformers", "trl", "accelerate", "av", "pillow")


def machine() -> dict[str, str]:
    """Facts that the figures depend on."""
    names = [line.split(":", 1)[1].strip() for line in cpu_lines() if line.startswith("model name")]
    facts = {
        "processor": f"{os.cpu_count()} cores, {names[0] if names else platform.machine()}",
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none: not measured",
        "Python": platform.python_version(),
    }
    return facts | {name: installed(name) for name in PACKAGES}


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def run(benchmark: Benchmark, results: Path, more: tuple[str, ...] = ()) -> None:
    started = time.monotonic()
    script = ROOT / "benchmarks" / f"{benchmark.script}.py"
    command = [sys.executable, script, *benchmark.words, *more]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=benchmark.seconds)
    except subprocess.TimeoutExpired:
        print(f"{benchmark.key}: stopped after {benchmark.seconds} s", flush=True)
        return
    if done.returncode:
        raise SystemExit(f"{script.name} failed with exit code {done.returncode}")
    found = json.loads(done.stdout.splitlines()[-1])
    seconds = round(time.monotonic() - started)
    text = json.dumps({"machine": machine(), "seconds": seconds, "result": found}, indent=1)
    (results / f"{benchmark.key}.json").write_text(text + "\n", encoding="utf-8")
    print(f"{benchmark.key}: {seconds} s", flush=True)


def entry(found: dict, path: str) -> Any:
    return reduce(lambda value, name: value[name], path.split("."), found)


def page(results: Path, picture: str) -> tuple[str, dict[str, float]]:
    """The text of the page, and the ratios for the plot."""
    lines = [
        "# Performance\n",
        INTRODUCTION,
        f"![Ratios to the peers]({picture})\n",
    ]
    ratios: dict[str, float] = {}
    for each in BENCHMARKS:
        path = results / f"{each.key}.json"
        more = ("--nanovlm", "CLONE") * (each.script == "nanovlm_step")
        command = " ".join(["python", f"benchmarks/{each.script}.py", *each.words, *more])
        command = "benchmarks/gpu.sh RESULT.json" if each.gpu else command
        lines.append(f"## {each.title}\n\n{each.text} `{command}` repeats it.\n")
        if not path.is_file():
            lines.append("Not measured.\n")
            continue
        found = json.loads(path.read_text(encoding="utf-8"))["result"]
        shown = {name: entry(found, place) for name, place in (each.ratios | each.figures).items()}
        ratios |= {name: shown[name] for name in each.ratios}
        lines.append("| Figure | Value |\n|---|---:|")
        lines += [
            f"| {name} | {f'{value:.2f}×' if name in ratios else f'{value:.3g}'} |" for name, value in shown.items()
        ]
        lines.append("")
    return "\n".join(lines), ratios


def facts_table(results: Path) -> str:
    """The machines of the results, which may differ."""
    found = [json.loads(path.read_text(encoding="utf-8"))["machine"] for path in sorted(results.glob("*.json"))]
    rows = {name: ", ".join(dict.fromkeys(each[name] for each in found)) for name in (found[0] if found else ())}
    return "## The machine\n\n| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows.items())


def draw(ratios: dict[str, float], path: Path) -> None:
    figure = Figure(figsize=(8, 0.6 + 0.3 * len(ratios)), layout="constrained")
    axes = figure.subplots()
    names = list(reversed(ratios))
    bars = axes.barh(names, [ratios[name] - 1 for name in names], left=1, color="#2f6b3c")
    axes.bar_label(bars, [f"{ratios[name]:.2f}×" for name in names], padding=3, fontsize=8)
    axes.axvline(1, color="#62676e", linewidth=1)
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks([0.5, 1, 2, 5, 10, 20, 50], labels=["0.5×", "1×", "2×", "5×", "10×", "20×", "50×"])
    axes.set_xlim(min([0.6, *ratios.values()]), 1.5 * max([2, *ratios.values()]))
    axes.set_xlabel("times the speed of the peer")
    axes.margins(y=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    names = [each.key for each in BENCHMARKS]
    add("--only", nargs="+", choices=names, default=names, metavar="NAME", help=f"of {', '.join(names)}")
    add("--gpu", action="store_true", help="only the benchmarks that need a GPU")
    add("--nanovlm", type=Path, help="a clone of nanoVLM")
    add("--page-only", action="store_true", help="write the page from earlier results")
    add("--results", type=Path, default=ROOT / "runs" / "performance")
    add("--docs", type=Path, default=ROOT / "docs", help="folder of performance.md and its plot")
    arguments = parser.parse_args(words)
    arguments.results.mkdir(parents=True, exist_ok=True)
    for each in (each for each in BENCHMARKS if each.key in arguments.only):
        possible = each.gpu <= torch.cuda.is_available() and (each.script != "nanovlm_step" or arguments.nanovlm)
        if not possible and not arguments.page_only:
            print(f"{each.key}: not run, it needs {'a GPU' if each.gpu else '--nanovlm CLONE'}", flush=True)
        if possible and arguments.gpu <= each.gpu and not arguments.page_only:
            run(
                each, arguments.results, ("--nanovlm", str(arguments.nanovlm)) if each.script == "nanovlm_step" else ()
            )
    picture = Path("images", "performance.png")
    text, ratios = page(arguments.results, picture.as_posix())
    draw(ratios, arguments.docs / picture)
    (arguments.docs / "performance.md").write_text(f"{text}\n{facts_table(arguments.results)}", encoding="utf-8")
    print(f"written to {arguments.docs / 'performance.md'}")


if __name__ == "__main__":
    main()
