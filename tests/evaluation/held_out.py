"""Rows of held-out data in a folder, with small images, and evaluations of them."""

import json
from contextlib import contextmanager

import numpy as np
from PIL import Image

from smol_hf.evaluation.run import Options, evaluate


def save_rows(folder, rows=12, **changes):
    """Write `held_out.jsonl` and its images. `changes`: number of a row → keys of it; None removes a key."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 30 + 10 * number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    lines = []
    for number in range(rows):
        row = {
            "image": f"{number % 4}.png",
            "question": f"Which digit is on page {number}, and " + "why? " * (number % 5 + 1),
            "answer": str(number % 3),
            "kind": "digit" if number % 2 else "count",
        }
        if number == rows - 1:
            row = {"messages": [{"role": "user", "content": "How many digits?"}], "answers": ["3", "three"]}
        row |= changes.get(f"row{number}", {})
        lines.append(json.dumps({key: value for key, value in row.items() if value is not None}) + "\n")
    path = folder / "held_out.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    return path


@contextmanager
def no_progress(words, total):
    yield lambda steps=1: None


def evaluated(checkpoint, data, output, *, said=None, **options):
    """The content of `results.json`. `said`: a list that takes the lines of information."""
    given = {
        "data": None if data is None else str(data),
        "output": str(output),
        "device": "cpu",
        "max_new_tokens": 8,
        **options,
    }
    return evaluate(Options(str(checkpoint), **given), progress=no_progress, say=([] if said is None else said).append)


def lines_of(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text("utf-8").split("\n") if line]
