"""Each image that is used is decoded once, and one that is not used never."""

import io
from collections import Counter

import pytest
from helpers import build_processor
from memory_source import MemorySource
from PIL import Image, ImageFile

from smol_hf.data.conversation import Conversation, ImagePart, Message, TextPart
from smol_hf.data.stream.preparation import SampleWork
from smol_hf.data.stream.stream import Plan, RowStream
from smol_hf.data.stream.survey import survey


@pytest.fixture
def decoded(monkeypatch):
    """How often the pixels of each size were decoded, at the place where Pillow does it."""
    counts, load = Counter(), ImageFile.ImageFile.load

    def counted(image):
        counts[image.size] += bool(image.tile)  # without tiles the pixels are there already
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", counted)
    return counts


def sample(number, kind, words=1):
    stream = io.BytesIO()
    Image.new("RGB", (40 + number, 50), (number, 9, 9)).save(stream, kind)
    asked = Message("user", (ImagePart(content=stream.getvalue()), TextPart("What? " * words)))
    return Conversation(f"rows:{number}", (asked, Message("assistant", (TextPart("Red."),))))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("image_resizing", ["exact", "fast"])
def test_once_each_and_never_what_is_left_out(decoded, kind, image_resizing):
    samples = [sample(number, kind, words=500 if number % 5 == 0 else 1) for number in range(20)]
    work = SampleWork(build_processor(), 200, [None], image_resizing=image_resizing)
    rows = [(each.sample_id, each) for each in samples]
    plan = Plan([MemorySource("m", rows)], [1.0], work, 200, rounds=1, lanes=2, pool_size=4)
    survey(plan)
    assert not decoded, "planning reads headers"
    used = []
    for row in RowStream(plan):
        used += [each.sample_id for each in row.samples]
        if row.finished and len(used) >= 16:
            break
    assert sorted(used) == sorted(each.sample_id for number, each in enumerate(samples) if number % 5)
    assert decoded == {(40 + number, 50): 1 for number in range(20) if number % 5}
