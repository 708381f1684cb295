"""The first samples of a run, prepared for a preview."""

from __future__ import annotations

import base64
import io
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, zip_longest
from typing import Any

from PIL import Image

from smol_hf.data.conversation import Conversation, SampleError, VideoPart
from smol_hf.data.media.images import load_image
from smol_hf.data.media.videos import load_frames
from smol_hf.data.report.label_spans import Span, spans_of
from smol_hf.data.stream.preparation import MeasuredSample, SampleWork
from smol_hf.data.stream.stream import LaneShare, Plan
from smol_hf.modeling.label_loss import IGNORE_INDEX
from smol_hf.processing.video_text import FRAME

SIDES = ((2, 384), (6, 256), (12, 160))  # (up to this number of images, longer side of each in pixels)
SMALLEST_SIDE = 96
IMAGES_SHOWN = 24  # of a sample
FRAMES_SHOWN, FRAME_SIDE = 64, 128  # of a video, and the longer side of each in pixels
LEFT_OUT_SEEN = 500  # unusable records, after which drawing stops
PIXEL_ART = 128  # images up to this side keep every pixel
QUALITY = 80


@dataclass(frozen=True)
class Thumbnail:
    """An image of a sample: size, grid, tokens, and a small copy as a data: URL (empty beyond `IMAGES_SHOWN`)."""

    width: int
    height: int
    rows: int
    columns: int
    tiles: int
    tokens: int
    url: str = ""


@dataclass(frozen=True)
class FrameThumbnails:
    """A video of a sample: its seconds, the tokens of a frame, and its frames as (seconds, data: URL or "")."""

    duration: float
    tokens: int
    frames: Sequence[tuple[Any, str]]


@dataclass(frozen=True)
class DrawnSample:
    source: int
    conversation: Conversation
    spans: list[Span]
    num_tokens: int
    num_trained: int
    num_tiles: int
    thumbnails: list[Thumbnail | FrameThumbnails]  # in reading order
    lost: str = ""


@dataclass
class Drawn:
    """The drawn `samples`, the errors of those `left_out`, and the number of records `drawn` from each source.

    `repeated`: records that a weight above 1 drew again.
    """

    samples: list[DrawnSample] = field(default_factory=list)
    left_out: list[SampleError] = field(default_factory=list)
    drawn: Counter = field(default_factory=Counter)
    repeated: int = 0


@dataclass(frozen=True)
class Whole:
    """A sample with all its sequences."""

    sample: MeasuredSample
    num_tokens: int
    num_tiles: int


@dataclass
class Look:
    """The work of the stream, with a small copy of each image and frame instead of its tiles."""

    work: SampleWork

    def prepare(self, source: int, where: str, record: Any) -> Whole:
        sample = self.work.prepare(source, where, record)
        return Whole(sample, sample.num_tokens, sample.num_tiles)

    def encode(self, source: int, whole: Whole) -> DrawnSample:
        sample, conversation = whole.sample, whole.sample.conversation
        processor = self.work.processor.with_settings(longest_edge=sample.longest_edge)
        side = next((side for most, side in SIDES if len(conversation.images) <= most), SMALLEST_SIDE)
        thumbnails = []
        for number, (part, frames) in enumerate(sample.media):
            if isinstance(part, VideoPart):
                thumbnails.append(frame_thumbnails(part, frames, processor, conversation.sample_id))
                continue
            image = load_image(part, conversation.sample_id)
            height, width = image.height, image.width
            rows, columns = processor.tiler.grid(height, width)
            thumbnails.append(
                Thumbnail(
                    width, height, rows, columns,
                    tiles=rows * columns + 1,
                    tokens=len(processor.image_block_ids(height, width)),
                    url=data_url(image, side) if number < IMAGES_SHOWN else "",
                )
            )  # fmt: skip
        return DrawnSample(
            source,
            conversation,
            spans_of(processor, sample.input_ids, sample.labels),
            sample.num_tokens,
            sum(label != IGNORE_INDEX for label in sample.labels),
            sample.num_tiles,
            thumbnails,
            sample.lost,
        )


def frame_thumbnails(part: VideoPart, chosen: Any, processor, where: str) -> FrameThumbnails:
    images = load_frames(part, chosen, where)
    urls = [data_url(image, FRAME_SIDE) for image in islice(images, FRAMES_SHOWN)]
    frames = list(zip_longest(chosen.times, urls, fillvalue=""))
    return FrameThumbnails(chosen.duration, len(processor.image_blocks([FRAME])[0]), frames)


def draw_samples(plan: Plan, number: int) -> Drawn:
    """Return the first `number` samples of a round of the mixture, in the order of a run, each once.

    They are fewer if the round ends, or if hundreds of records cannot be used.
    """
    result, seen, finished = Drawn(), set(), 0
    looking = replace(plan, work=Look(plan.work), context_length=sys.maxsize, rounds=1, pool_size=1)
    for row in LaneShare(looking, 0, 1, {}):
        result.drawn.update(row.drawn)
        named: list[tuple[str, Any, list]] = [(fault.where, fault, result.left_out) for fault in row.faults]
        named += [(sample.conversation.sample_id, sample, result.samples) for sample in row.samples]
        for name, each, where in named:
            if name in seen:
                result.repeated += 1
            else:
                seen.add(name)
                where.append(each)
        finished = finished + 1 if row.finished else 0
        enough = len(result.samples) >= number or len(result.left_out) >= LEFT_OUT_SEEN
        if enough or finished == plan.lanes:
            break
    return result


def data_url(image: Image.Image, side: int) -> str:
    """Return a copy of at most `side` pixels as a data: URL."""
    form, options = ("png", {"optimize": True}) if max(image.size) <= PIXEL_ART else ("jpeg", {"quality": QUALITY})
    image = image.copy()
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return f"data:image/{form};base64," + base64.b64encode(stream.getvalue()).decode("ascii")
