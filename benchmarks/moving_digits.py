"""Whether a tiny model learns to answer questions about moving digits, from random weights.

    python benchmarks/moving_digits.py
    python benchmarks/moving_digits.py --output runs/moving_digits --max_steps 20 --questions 40

Runs `smol-hf demo --video`: three stages (text, image, video), then answers to held-out questions by generation. One
JSON line at the end has the scores and the targets that are not met:

- video: the score on clips, at least 85 %;
- blind: without the frames, at most 50 %;
- single_frame: with the middle frame in place of every frame, at least 25 points below the score for each kind of
  question that needs several frames (direction, order);
- image: the score on pages after the video stage, at most 3 points below the score before it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from smol_hf.commands.main import main as smol_hf

SEVERAL_FRAMES = ("direction", "order")
LEAST_VIDEO, MOST_BLIND, LEAST_ABOVE_SINGLE, MOST_IMAGE_LOSS = 0.85, 0.50, 0.25, 0.03


def summary_of(metrics: dict) -> dict:
    """Return the figures of the JSON line, with the targets that they miss."""
    kinds = metrics["per_kind"]
    before, after = (metrics["pages"][stage]["exact_match"] for stage in ("image", "video"))
    above = {kind: kinds[kind]["exact_match"] - kinds[kind]["single_exact_match"] for kind in SEVERAL_FRAMES}
    reached = {
        "video": metrics["exact_match"] >= LEAST_VIDEO,
        "blind": metrics["blind_exact_match"] <= MOST_BLIND,
        "single_frame": min(above.values()) >= LEAST_ABOVE_SINGLE,
        "image": before - after <= MOST_IMAGE_LOSS,
    }
    shares = {
        "video": metrics["exact_match"],
        "blind": metrics["blind_exact_match"],
        "single_frame": metrics["single_exact_match"],
        "image_before": before,
        "image_after": after,
        **{f"{kind}_video": each["exact_match"] for kind, each in kinds.items()},
        **{f"{kind}_single_frame": each["single_exact_match"] for kind, each in kinds.items()},
    }
    return {
        **{name: round(share, 4) for name, share in shares.items()},
        "questions": metrics["questions"],
        "steps": metrics["steps"],
        "stage_seconds": {stage: round(seconds, 1) for stage, seconds in metrics["stage_seconds"].items()},
        "missed": [name for name, is_reached in reached.items() if not is_reached],
    }


def measure(output: Path, words: list[str]) -> dict:
    started, used = time.perf_counter(), time.process_time()
    if code := smol_hf(["demo", "--video", "--output", str(output), *words]):
        sys.exit(code)
    metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    times = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - used}
    return {**summary_of(metrics), **{name: round(each, 1) for name, each in times.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder to keep; without it, a temporary one")
    arguments, words = parser.parse_known_args()
    if arguments.output is not None:
        result = measure(arguments.output, words)
    else:
        with tempfile.TemporaryDirectory() as folder:
            result = measure(Path(folder), words)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
