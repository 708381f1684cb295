"""Drawn samples → one self-contained HTML file without scripts."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from smol_hf.data.conversation import Conversation, ImagePart, VideoPart
from smol_hf.data.mixture.mixture import Data
from smol_hf.data.records.filters import Filters
from smol_hf.data.report.preview_drawing import Drawn, DrawnSample
from smol_hf.data.report.reasons import reasons_of, skip_kind
from smol_hf.data.stream.stream import Plan
from smol_hf.support.formatting import counted, percent
from smol_hf.support.resources import resource_path

CHARACTERS_SHOWN = 6000  # of a text
TOKENS_SHOWN = 3000  # of a sample
OPEN_UP_TO = 400  # tokens: of longer samples the list of tokens is folded
LEFT_OUT_SHOWN = 50


def write_page(
    path: str | Path, drawn: Drawn, data: Data, plan: Plan, *, title: str, facts: Mapping[str, str]
) -> Path:
    """Write the page to `path` (folders are made) and return the path.

    Args:
        data, plan: the origin of the samples.
        facts: further lines of the head, name → value.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(resource_path("hub_templates", "preview.html.jinja").read_text("utf-8"))
    html = template.render(
        title=title,
        facts=facts,
        sources=[source_facts(index, source, data, plan, drawn) for index, source in enumerate(plan.sources)],
        samples=[
            sample_facts(number, sample, plan.sources[sample.source].name)
            for number, sample in enumerate(drawn.samples, start=1)
        ],
        reasons=[reason.facts() for reason in reasons_of(drawn.left_out)],
        left_out=[
            {"kind": skip_kind(fault), "where": fault.where, "problem": fault.problem}
            for fault in drawn.left_out[:LEFT_OUT_SHOWN]
        ],
        more_left_out=max(len(drawn.left_out) - LEFT_OUT_SHOWN, 0),
        kinds=Counter(skip_kind(fault) for fault in drawn.left_out),
        total_drawn=sum(drawn.drawn.values()),
        total_left_out=len(drawn.left_out),
        repeated=drawn.repeated,
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8", newline="\n")
    return path


def source_facts(index: int, source, data: Data, plan: Plan, drawn: Drawn) -> dict[str, Any]:
    amounts = [weight * len(each) for weight, each in zip(plan.weights, plan.sources)]
    return {
        "name": source.name,
        "records": f"{len(source):,}",
        "share": percent(amounts[index] / sum(amounts)) if sum(amounts) else "",
        "drawn": drawn.drawn[index],
        "shown": sum(sample.source == index for sample in drawn.samples),
        "filters": filters_in_words(getattr(data.readers[index], "filters", None)),
    }


def filters_in_words(filters: Filters | None) -> str:
    """List the filters that differ from the defaults."""
    if filters is None:
        return "none"
    given = {name: value for name, value in vars(filters).items() if value != getattr(Filters(), name)}
    return ", ".join(f"{name} {value}" for name, value in given.items()) or "none"


def sample_facts(number: int, sample: DrawnSample, source: str) -> dict[str, Any]:
    thumbnails, images = iter(sample.thumbnails), itertools.count(1)
    turns = []
    for message in sample.conversation.messages:
        parts = []
        for part in message.parts:
            if isinstance(part, ImagePart):
                parts.append({"image": next(thumbnails), "number": next(images)})
            elif isinstance(part, VideoPart):
                parts.append({"video": next(thumbnails)})
            else:
                parts.append({"text": part.text[:CHARACTERS_SHOWN], "more": len(part.text[CHARACTERS_SHOWN:])})
        turns.append({"role": message.role, "parts": parts})
    spans, left = [], TOKENS_SHOWN
    for span in sample.spans:
        if left <= 0:
            break
        spans.append(dataclasses.replace(span, pieces=span.pieces[:left]))
        left -= len(span.pieces)
    hidden = sum(len(span.pieces) for span in sample.spans) - sum(len(span.pieces) for span in spans)
    return {
        "number": number,
        "id": sample.conversation.sample_id,
        "source": source,
        "subset": sample.conversation.source,
        "tokens": sample.num_tokens,
        "trained": sample.num_trained,
        "tiles": sample.num_tiles,
        "media": media_in_words(sample.conversation),
        "turns": turns,
        "spans": spans,
        "hidden": hidden,
        "lost": sample.lost,
        "open": sample.num_tokens <= OPEN_UP_TO,
    }


def media_in_words(conversation: Conversation) -> str:
    """Return `2 images, 1 video`; `0 images` without any."""
    images, videos = len(conversation.images), len(conversation.videos)
    parts = [counted(images, "image")] if images or not videos else []
    return ", ".join([*parts, counted(videos, "video")] if videos else parts)
