"""Clips of handwritten digits that appear, move and leave, with questions: any number, a function of the seed.

A clip has one frame per second. Its middle frame tells neither a direction nor an order: opposite directions, and both
orders, have the same distribution of middle frames. It shows one digit for each number of digits that came.

    kind        digits                                     question
    digit       one, which crosses the page                Which digit moves?
    direction   one, which crosses the page                Which way does the digit move?
    order       two; both are in the middle frame          Which digit came first? Which digit came last?
    count       one to three, one after the other          How many digits came?
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from PIL import Image

from smol_hf.data.conversation import Conversation, TextPart, VideoPart
from smol_hf.data.digits.digits import DigitSet, load_digits
from smol_hf.data.digits.drawing import Box, PageDraws, draw_digit, sheet
from smol_hf.data.digits.questions import Asked, Turn, check_options, conversation_of, describe
from smol_hf.processing.video_sampling import FrameTimes
from smol_hf.processing.video_text import STYLES, video_parts

CLIP_KINDS = ("digit", "direction", "order", "count")  # of first questions; "sequence" is only added to them
FRAMES = 5
TIMES = tuple(map(float, range(FRAMES)))
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SPANS = ((0, 3), (1, 4), (0, 4), (1, 3))  # first and last frame of a digit that crosses the page
# First and last frames of two digits. The middle frame shows both digits.
OVERLAPS = (((0, 2), (1, 4)), ((0, 3), (1, 4)), ((0, 2), (2, 4)), ((0, 3), (2, 4)), ((1, 3), (2, 4)), ((0, 2), (1, 3)))
SUCCESSIONS = {  # number of digits → the first and last frames of each
    1: (((0, 4),), ((0, 3),), ((1, 4),)),
    2: (((0, 1), (2, 4)), ((0, 2), (3, 4)), ((0, 1), (2, 3)), ((1, 2), (3, 4))),
    3: (((0, 0), (1, 2), (3, 4)), ((0, 1), (2, 2), (3, 4)), ((0, 1), (2, 3), (4, 4))),
}

# Name → the question, and its answer for the labels of the digits in their order and the direction.
_QUESTIONS: dict[str, tuple[str, Callable[[list[int], str], str]]] = {
    "digit": ("Which digit moves?", lambda labels, direction: str(labels[0])),
    "direction": ("Which way does the digit move?", lambda labels, direction: direction),
    "first": ("Which digit came first?", lambda labels, direction: str(labels[0])),
    "last": ("Which digit came last?", lambda labels, direction: str(labels[-1])),
    "count": ("How many digits came?", lambda labels, direction: str(len(labels))),
    "sequence": ("Name the digits in order.", lambda labels, direction: " ".join(map(str, labels))),
}


@dataclass(frozen=True)
class MovingDigit:
    """One digit of a clip: `boxes` has its box in each frame, as `PlacedDigit.box`, or None."""

    label: int
    index: int
    boxes: tuple[Box | None, ...]


@dataclass(frozen=True)
class Clip(Asked):
    """One clip: the conversation about it, the turns of that conversation, and the digits in their order."""

    digits: tuple[MovingDigit, ...]

    @property
    def video(self) -> VideoPart:
        return self.conversation.videos[0]


def build_clips(
    number: int, *, seed: int, split: str, page_size: int = 32, turns: int = 1, first: int = 0
) -> Iterator[Clip]:
    """Yield `number` clips from the clip `first` on, with the options of `build_pages`.

    A clip has `FRAMES` frames, RGB PNGs of `page_size` x `page_size` pixels. The kinds of the first question
    alternate. A second question asks for what the first leaves open. A sample id is `digits/train/seed0/clip000123`.

    The score without frames, with the likeliest answer to each first question: `digit` and `order` 10 %, `direction`
    25 %, `count` 33.3 %; 19.6 % over all kinds.

    Raises ValueError as `build_pages`.
    """
    digits = load_digits(split)
    check_options(number, seed, page_size, turns)
    return (_build_clip(digits, index, seed, split, page_size, turns) for index in range(first, first + number))


def evaluation_clips(number: int, *, seed: int, page_size: int = 32) -> list[Clip]:
    """Return `number` clips of the test split with one question each, kinds balanced: for scoring by exact match."""
    return list(build_clips(number, seed=seed, split="test", page_size=page_size))


def single_frame(clip: Clip) -> Clip:
    """Return the clip with its middle frame in place of every frame: nothing moves, appears or leaves."""
    video = clip.video
    still = replace(video, frames=(video.frames[FRAMES // 2],) * FRAMES)
    return replace(clip, conversation=conversation_of(clip.conversation.sample_id, still, clip.turns))


def build_stories(
    number: int, *, seed: int, split: str, page_size: int = 32, turns: int = 1, first: int = 0
) -> Iterator[Conversation]:
    """Yield the conversations of `build_clips` with words in place of the frames, which are not drawn."""
    digits = load_digits(split)
    check_options(number, seed, page_size, turns)
    for index in range(first, first + number):
        scene = _build_scene(digits, PageDraws(seed, split, index, stream=1), index, page_size, turns)
        words = iter(
            describe([(each.label, box) for each in scene.digits if (box := each.boxes[frame])], page_size)
            for frame in range(FRAMES)
        )
        parts = video_parts(FrameTimes(TIMES, float(FRAMES)), STYLES["smolvlm"])
        text = "".join(part["text"] if part["type"] == "text" else next(words) for part in parts)
        yield conversation_of(f"digits/{split}/seed{seed}/story{index:06d}", TextPart(text), scene.turns)


@dataclass(frozen=True)
class _Scene:
    """The content of a clip before its frames are drawn; `masks` are the ink of the digits."""

    turns: tuple[Turn, ...]
    digits: tuple[MovingDigit, ...]
    masks: list[Image.Image]
    paper: int
    ink: int


def _build_clip(digits: DigitSet, index: int, seed: int, split: str, page_size: int, turns: int) -> Clip:
    scene = _build_scene(digits, PageDraws(seed, split, index, stream=1), index, page_size, turns)
    frames = []
    for frame in range(FRAMES):
        seen = [(mask, box) for mask, each in zip(scene.masks, scene.digits) if (box := each.boxes[frame])]
        masks, boxes = [mask for mask, _ in seen], [box for _, box in seen]
        frames.append(sheet(masks, boxes, page_size, scene.paper, scene.ink))
    video = VideoPart(frames=tuple(frames), times=TIMES)
    name = f"digits/{split}/seed{seed}/clip{index:06d}"
    return Clip(conversation_of(name, video, scene.turns), scene.turns, scene.digits)


def _build_scene(digits: DigitSet, draws: PageDraws, index: int, page_size: int, turns: int) -> _Scene:
    # Shifted by one in each round of four, so that reading every fourth clip does not give one kind only.
    kind = CLIP_KINDS[(index + index // len(CLIP_KINDS)) % len(CLIP_KINDS)]
    direction = draws.pick(list(DIRECTIONS)) if kind in ("digit", "direction") else ""
    spans = _draw_spans(kind, index, draws)
    labels = _draw_labels(len(spans), draws)
    rows = [draws.pick(digits.rows_by_label[label]) for label in labels]
    paper, ink = round(draws.between(220, 255)), round(draws.between(0, 60))
    writing = draws.between(10.5, 12.5) * page_size / 32
    masks = [draw_digit(digits.images[row], writing, *(draws.between(-0.08, 0.08) for _ in range(2))) for row in rows]
    paths = _draw_paths(kind, direction, spans, draws)
    moving = []
    for row, mask, path in zip(rows, masks, paths, strict=True):
        boxes = tuple(None if at is None else _box(at, mask.size, page_size) for at in path)
        moving.append(MovingDigit(int(digits.label[row]), int(digits.index[row]), boxes))
    names = [draws.pick(("first", "last")) if kind == "order" else kind]
    if turns > 1:
        names.append({"digit": "direction", "direction": "digit"}.get(kind, "sequence"))
    asked = []
    for name in names:
        question, answer_of = _QUESTIONS[name]
        asked.append(Turn("order" if name in ("first", "last") else name, question, answer_of(labels, direction)))
    return _Scene(tuple(asked), tuple(moving), masks, paper, ink)


def _draw_spans(kind: str, index: int, draws: PageDraws) -> tuple[tuple[int, int], ...]:
    """Return the first and last frame of each digit, in the order in which they appear."""
    if kind == "order":
        return draws.pick(OVERLAPS)
    if kind == "count":
        return draws.pick(SUCCESSIONS[1 + index // len(CLIP_KINDS) % len(SUCCESSIONS)])  # equally often
    return (draws.pick(SPANS),)


def _draw_labels(number: int, draws: PageDraws) -> list[int]:
    """Return different labels."""
    left = list(range(10))
    return [left.pop(draws.below(len(left))) for _ in range(number)]


def _draw_paths(
    kind: str, direction: str, spans: tuple[tuple[int, int], ...], draws: PageDraws
) -> list[list[tuple[float, float] | None]]:
    """Return for each digit its centre in each frame, as shares of the page's side, or None."""
    if direction:
        across, down = DIRECTIONS[direction]
        centre, reach = (draws.between(0.45, 0.55), draws.between(0.45, 0.55)), draws.between(0.25, 0.28)
        motions = [(centre, (across * reach, down * reach))]
    else:
        # Two digits are side by side. Each moves a little, up or down.
        columns = draws.pick(((0.27, 0.73), (0.73, 0.27))) if kind == "order" else ()
        motions = [
            (
                (columns[i] if columns else draws.between(0.25, 0.75), draws.between(0.42, 0.58)),
                (0.0, draws.pick((-1, 1)) * draws.between(0.08, 0.16)),
            )
            for i in range(len(spans))
        ]
    paths = []
    for (first, last), ((x, y), (across, down)) in zip(spans, motions, strict=True):
        path: list[tuple[float, float] | None] = [None] * FRAMES
        for frame in range(first, last + 1):
            share = 2 * (frame - first) / max(last - first, 1) - 1  # from -1 to 1
            path[frame] = (x + share * across, y + share * down)
        paths.append(path)
    return paths


def _box(centre: tuple[float, float], size: tuple[int, int], page_size: int) -> Box:
    """Return the box of a digit, at least one pixel inside the page."""
    left, top = (
        min(max(round(at * page_size - side / 2), 1), page_size - 1 - side)
        for at, side in zip(centre, size, strict=True)
    )
    return left, top, left + size[0], top + size[1]
