"""The parts of a report, and the HTML file that shows them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from smol_hf.support.atomic import atomic_file
from smol_hf.support.formatting import compact, duration
from smol_hf.support.resources import resource_path

SEEING, BASELINE = "seeing", "blind"  # styles of bars


@dataclass(frozen=True)
class Bar:
    """A score as a bar: `share` from 0 to 1 is its length, `value` its text, `low` and `high` its interval."""

    label: str
    share: float
    value: str
    style: str = SEEING
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Group:
    """The scores of some questions, with lines of text about them."""

    name: str
    notes: Sequence[str]
    bars: Sequence[Bar]


@dataclass(frozen=True)
class ScorePanel:
    """A figure with its caption, the bars of all questions, an explanation, and the bars of groups."""

    figure: str
    caption: str
    bars: Sequence[Bar]
    explanation: str
    groups: Sequence[Group] = ()
    name: str = ""


@dataclass(frozen=True)
class Shown:
    """An image or a frame as a data: URL, with its size in CSS pixels and its time in words."""

    source: str
    width: int
    height: int
    time: str = ""


@dataclass(frozen=True)
class Card:
    """An answered question. `facts`: further lines, label → text."""

    kind: str
    question: str
    answer: str
    truth: str
    is_right: bool
    images: Sequence[Shown] = ()
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Gallery:
    """Cards below a title. `of` is the word for a card's images: "pages" or "clips" (with several frames)."""

    title: str
    cards: Sequence[Card]
    of: str = "pages"
    name: str = "gallery"


@dataclass(frozen=True)
class Table:
    """A table below a title. The first column names the rows."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Page:
    """A report, from top to bottom. `training`: charts and their facts, see `demo.report`."""

    title: str
    subtitle: str
    panels: Sequence[ScorePanel]
    galleries: Sequence[Gallery]
    facts: dict[str, str]
    training: dict[str, Any] | None = None
    tables: Sequence[Table] = ()


def write_page(path: Path, page: Page) -> None:
    """Write a report, in one step."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"compact": compact, "duration": duration}
    template = environment.from_string(
        resource_path("hub_templates", "evaluation_report.html.jinja").read_text("utf-8")
    )
    with atomic_file(path) as file:
        file.write_text(template.render(page=page), encoding="utf-8", newline="\n")


def shown_png(content: bytes, most: int, time: str = "") -> Shown:
    """Show a PNG, enlarged by an integer factor up to `most` CSS pixels, so that all pixels have the same size."""
    with Image.open(io.BytesIO(content)) as image:
        scale = max(1, most // max(image.size))
        width, height = (side * scale for side in image.size)
    return Shown("data:image/png;base64," + base64.b64encode(content).decode(), width, height, time)
