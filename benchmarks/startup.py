"""Seconds until a command or a model is ready, compared with TRL and transformers.

    python benchmarks/startup.py [--rounds 5]

Each case is a new Python process; the two sides take turns in each round:

    help     `smol-hf --help` and `trl --help`
    import   the model class of smol_hf, and that of transformers' SmolVLM
    load     the import and `from_pretrained` of the same small model: our checkpoint with the package, and its native
             export with transformers
    anyone   the same checkpoint by `trust_remote_code`, without the package's classes being imported first

The last line is JSON: for each case the median seconds of both sides, and the median ratio of theirs to ours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from evaluate import build_checkpoint
from options import positive

HELP = "import sys; sys.argv = ['{0}', '--help']; from {1} import main; main()"
OURS = "from smol_hf import SmolHFForConditionalGeneration as Model"
THEIRS = "from transformers import SmolVLMForConditionalGeneration as Model"
ANYONE = "from transformers import AutoModelForImageTextToText as Model"


def cases(checkpoint: Path, native: Path) -> dict[str, tuple[str, str]]:
    load = "{}; Model.from_pretrained({!r}{})"
    theirs = load.format(THEIRS, str(native), "")
    return {
        "help": (HELP.format("smol-hf", "smol_hf.commands.main"), HELP.format("trl", "trl.cli.main")),
        "import": (OURS, THEIRS),
        "load": (load.format(OURS, str(checkpoint), ""), theirs),
        "anyone": (load.format(ANYONE, str(checkpoint), ", trust_remote_code=True"), theirs),
    }


def seconds_of(code: str, folder: Path) -> float:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    if done.returncode:
        raise SystemExit(f"{code} failed:\n{done.stderr}")
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=positive, default=5, help="after one that warms up")
    arguments = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, sides in cases(*build_checkpoint(folder)).items():
            pairs = [[seconds_of(code, folder) for code in sides] for _ in range(arguments.rounds + 1)][1:]
            ours, theirs = (round(statistics.median(column), 2) for column in zip(*pairs))
            ratio = round(statistics.median(theirs / ours for ours, theirs in pairs), 2)
            figures[name] = {"ours_seconds": ours, "theirs_seconds": theirs, "ratio": ratio}
            print(f"{name:8} {ours:6.2f} s, theirs {theirs:6.2f} s, ratio {ratio:.2f}", flush=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
