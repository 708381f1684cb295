"""Draw the picture of the README: held-out clips with the answers of a checkpoint of `smol-hf demo --video`.

python docs/moving_digits_picture.py runs/demo/video/checkpoint docs/images/moving_digits.png
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from matplotlib import style
from matplotlib.figure import Figure
from PIL import Image

from smol_hf.data.digits import CLIP_KINDS, evaluation_clips
from smol_hf.demo.asking import answer
from smol_hf.demo.report import Answered, frames_of
from smol_hf.demo.run import EVALUATION_SEED

COLOURS = {True: "#2f6b3c", False: "#a8322d"}


def draw(answered: list[Answered], path: Path) -> None:
    """Write a PNG with a row for each clip: its frames with their times, the question, the answer and the truth."""
    columns = len(frames_of(answered[0].page))
    with style.context({"font.size": 10}, after_reset=True):
        figure = Figure(figsize=(8, 1.2 * len(answered)), layout="constrained")
        widths = [1.0] * columns + [3.4]
        rows = figure.subplots(len(answered), columns + 1, width_ratios=widths, squeeze=False)
        for row, each in zip(rows, answered, strict=True):
            for axes, (png, time) in zip(row, frames_of(each.page), strict=False):
                axes.imshow(Image.open(io.BytesIO(png)), interpolation="nearest")
                axes.set_xticks([])
                axes.set_yticks([])
                axes.set_xlabel(time, fontsize=8, color="#62676e", labelpad=2)
                axes.spines[:].set_color("#cfccc5")
            text = row[-1]
            text.axis("off")
            text.text(0.02, 0.72, each.page.question, va="center")
            text.text(0.02, 0.45, each.answer or "(empty)", va="center", weight="bold", color=COLOURS[each.correct])
            text.text(0.02, 0.2, f"truth: {each.page.answer}", va="center", fontsize=8, color="#62676e")
        figure.savefig(path, dpi=100, metadata={"Software": None})


def main(checkpoint: str, path: str) -> None:
    clips = evaluation_clips(len(CLIP_KINDS), seed=EVALUATION_SEED)
    draw(answer(Path(checkpoint), clips), Path(path))


if __name__ == "__main__":
    main(*sys.argv[1:])
