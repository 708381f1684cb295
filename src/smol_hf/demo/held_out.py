"""Write the held-out pages and clips of the demo as rows for `smol-hf evaluate`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from smol_hf.data.conversation import VideoPart
from smol_hf.data.digits import Asked
from smol_hf.demo.report import frames_of

FOLDER, FILE_NAME = "held_out", "held_out.jsonl"


def write_held_out(output: Path, questions: Sequence[Asked]) -> Path:
    """Write `held_out/held_out.jsonl` and its images into the output folder, and return the path of the rows.

    A page is a PNG file. A clip is a folder of frames, which have their seconds as names.
    """
    folder = output / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, asked in enumerate(questions, start=1):
        [part] = asked.conversation.media
        frames = frames_of(asked)
        if isinstance(part, VideoPart):
            kind, shown = "video", f"{number:04d}"
            (folder / shown).mkdir()
            for time, (png, _) in zip(part.times, frames, strict=True):
                (folder / shown / f"{time:g}.png").write_bytes(png)
        else:
            kind, shown = "image", f"{number:04d}.png"
            (folder / shown).write_bytes(frames[0][0])
        rows.append({kind: shown, "question": asked.question, "answer": asked.answer, "kind": asked.kind})
    path = folder / FILE_NAME
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
