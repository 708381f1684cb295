"""Draw the gallery of the README: held-out pages with the answers of a checkpoint of `smol-hf demo`.

python docs/gallery_picture.py runs/demo/checkpoint docs/gallery.png
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from matplotlib import style
from matplotlib.figure import Figure
from PIL import Image

from smol_hf.auto import AutoProcessor
from smol_hf.data.digits import evaluation_questions
from smol_hf.demo.asking import answer
from smol_hf.demo.report import Answered, frames_of
from smol_hf.demo.run import EVALUATION_SEED

COLUMNS, PAGES = 3, 6
COLOURS = {True: "#2f6b3c", False: "#a8322d"}
GREY = "#62676e"


def draw(answered: list[Answered], path: Path) -> None:
    """Write a PNG with a card for each page: the page, the question, the answer and the truth."""
    rows = -(-len(answered) // COLUMNS)
    with style.context({"font.size": 10}, after_reset=True):
        figure = Figure(figsize=(3.2 * COLUMNS, 3.4 * rows), layout="constrained")
        cards = figure.subplots(rows, COLUMNS, squeeze=False).flat
        for axes, each in zip(cards, answered, strict=False):
            [(png, _)] = frames_of(each.page)
            axes.imshow(Image.open(io.BytesIO(png)), interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_color("#cfccc5")
            place = {"transform": axes.transAxes, "ha": "center"}
            axes.text(0.5, -0.09, each.page.question, **place)
            axes.text(0.5, -0.19, each.answer or "(empty)", weight="bold", color=COLOURS[each.correct], **place)
            axes.text(0.5, -0.28, f"truth: {each.page.answer}", fontsize=8, color=GREY, **place)
        figure.savefig(path, dpi=100, metadata={"Software": None})


def main(checkpoint: str, path: str) -> None:
    page_size = AutoProcessor.from_pretrained(checkpoint).longest_edge
    pages = evaluation_questions(PAGES, seed=EVALUATION_SEED, page_size=page_size)
    draw(answer(Path(checkpoint), pages), Path(path))


if __name__ == "__main__":
    main(*sys.argv[1:])
