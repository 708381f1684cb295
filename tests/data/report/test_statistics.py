"""What is counted of sources, and the rows that a forecast promises."""

import io
import json

import pytest
from helpers import build_processor
from memory_source import MemorySource
from PIL import Image

from smol_hf.data.conversation import (
    Conversation,
    FilteredOutError,
    ImagePart,
    Message,
    SampleError,
    TextPart,
    TooLongError,
)
from smol_hf.data.report.reasons import reasons_of
from smol_hf.data.report.statistics import distribution, histogram, packing_forecast, statistics
from smol_hf.data.report.statistics_plot import plot_statistics
from smol_hf.data.sources.source import BlockCache, Head, Source
from smol_hf.data.stream.preparation import SampleWork
from smol_hf.data.stream.stream import LaneShare, Plan
from smol_hf.data.stream.survey import survey

PROCESSOR = build_processor()


def conversation(name, words, images=(), turns=1):
    parts = tuple(ImagePart(content=content) for content in images)
    messages = (Message("user", (*parts, TextPart("?"))), Message("assistant", (TextPart("a " * words),)))
    return Conversation(name, messages + (Message("user", (TextPart("?"),)), messages[1]) * (turns - 1))


def encoded(width, height, cut=0):
    stream = io.BytesIO()
    Image.effect_noise((width, height), 50).save(stream, "PNG")
    return stream.getvalue()[: -cut or None]


def plan_of(*sources, weights=None, context_length=120, **options):
    def reader(where, record):
        if isinstance(record, SampleError):
            raise record
        return record

    named = [
        MemorySource(f"source{number}", [(each.where if isinstance(each, SampleError) else each.sample_id, each)
                                         for each in rows])
        for number, rows in enumerate(sources)
    ]  # fmt: skip
    work = SampleWork(PROCESSOR, context_length, [reader] * len(named))
    return Plan(named, weights or [1.0] * len(named), work, context_length, rounds=1, **options)


def test_each_source_is_counted_by_what_becomes_of_its_records():
    pictures = [
        conversation("a:1", 3, [encoded(64, 64)]),
        conversation("a:2", 3, [encoded(32, 32), encoded(64, 32)], turns=2),
        conversation("a:3", 500),
        SampleError("a:4", "the image x/4.png does not exist"),
        SampleError("a:5", "the image x/5.png does not exist"),
        FilteredOutError("a:6", "left out by filters: 3 images, more than max_images 2"),
    ]
    plan = plan_of(pictures, [conversation("b:1", 2)], weights=[1.0, 4.0])
    found = survey(plan)
    facts = statistics(plan, found)
    first, second = facts["sources"]
    assert (first["records"], first["usable"]) == (6, 2)
    assert first["left_out"] == {"unusable": 2, "too long": 1, "filtered": 1}
    assert (first["reasons"][0]["number"], first["reasons"][0]["kind"]) == (2, "unusable")
    assert first["reasons"][0]["reason"] == "the image … does not exist"
    assert first["reasons"][0]["example"] == {"sample": "a:4", "reason": "the image x/4.png does not exist"}
    samples = [plan.work.prepare(0, each.sample_id, each) for each in pictures[:2]]
    lengths = [sample.num_tokens for sample in samples]
    assert first["tokens"]["total"] == sum(lengths) and first["tokens"]["max"] == max(lengths)
    trained = [sum(label != -100 for label in sample.labels) for sample in samples]
    assert first["trained_tokens"]["total"] == sum(trained) > 0
    assert first["images"]["mean"] == 1.5 and first["turns"]["max"] == 2
    assert first["tiles"]["total"] == sum(sample.num_tiles for sample in samples)
    assert second["share_of_samples"] == pytest.approx(4 / 6)
    of_second = 4 * second["tokens"]["total"]
    assert second["share_of_tokens"] == pytest.approx(of_second / (of_second + sum(lengths)))
    assert facts["all"]["usable"] == 3 and facts["all"]["records"] == 7
    json.dumps(facts, allow_nan=False)


def test_pixels_are_decoded_only_where_it_is_asked_for():
    plan = plan_of([conversation("a:1", 3, [encoded(64, 64, cut=40)])])
    assert not survey(plan).faults
    assert "is damaged" in str(survey(plan, verify_images=True).faults[0])


def test_a_source_without_usable_samples_has_numbers_too():
    plan = plan_of([SampleError("a:1", "no")])
    found = survey(plan)
    facts = statistics(plan, found)
    assert facts["sources"][0]["share_of_samples"] == 0 and facts["all"]["histogram"] == []
    assert packing_forecast(plan, found, 8)["rows"] == 0
    json.dumps(facts, allow_nan=False)


@pytest.mark.parametrize("lanes", [1, 4])
def test_the_forecast_is_what_the_run_makes(lanes):
    rows = [conversation(f"a:{number}", 1 + number * 7 % 31, [encoded(32, 32)] * (number % 3)) for number in range(60)]
    plan = plan_of(rows, weights=[2.0], lanes=lanes, pool_size=16, context_length=200)
    forecast = packing_forecast(plan, survey(plan), 16)
    real, finished = [], 0
    for row in LaneShare(plan, 0, 1, {}):
        finished = finished + 1 if row.finished else 0
        if finished == lanes:
            break
        real += [row] if row.samples else []
    tokens = sum(len(sample.input_ids) for row in real for sample in row.samples)
    assert forecast["rows"] == len(real)
    assert forecast["fill"] == pytest.approx(tokens / (len(real) * 200))
    assert forecast["samples"] == 120 and forecast["truncated"] == 0 and forecast["pool_size"] == 16
    assert 0.5 < forecast["fill"] <= 1


def test_distributions_and_bars():
    assert distribution([1, 2, 3, 10]) == {
        "total": 16,
        "mean": 4.0,
        "median": 2.5,
        "p95": pytest.approx(8.95),
        "max": 10,
    }
    values = [5, 5, 6, 40, 99]
    bars = histogram(values)
    assert len(bars) == 10 and sum(bar["number"] for bar in bars) == len(values)
    for bar in bars:
        assert bar["number"] == sum(bar["from"] <= value <= bar["to"] for value in values)
    assert histogram([7]) == [{"from": 7, "to": 7, "number": 1}]


def test_reasons_are_grouped_by_what_they_have_in_common():
    wide = "image/{0}.png is {0}x2, more than 200:1: crop it"
    faults = [
        SampleError("a:1", wide.format(400)),
        SampleError("a:2", wide.format(9000)),
        TooLongError("a:3", "500 tokens, more than context_length 120"),
        TooLongError("a:4", "5,123 tokens, more than context_length 120"),
        SampleError("a:5", "message 3 lacks the key 'value'; it has ['from']"),
    ]  # fmt: skip
    found = [(reason.kind, reason.number, reason.example.where) for reason in reasons_of(faults)]
    assert found == [("unusable", 2, "a:1"), ("too long", 2, "a:3"), ("unusable", 1, "a:5")]


class Blocks(Source):
    name, rows_anywhere, fingerprint, block_sizes = "blocks", False, "x", [3, 2, 4]

    def read_block(self, block):
        return [(f"{block}:{row}", row) for row in range(self.block_sizes[block])]


@pytest.mark.parametrize("rows, sizes", [(1, [1]), (3, [3]), (4, [3, 1]), (9, [3, 2, 4]), (50, [3, 2, 4])])
def test_the_head_of_a_source_is_its_first_rows(rows, sizes):
    head = Head(Blocks(), rows)
    assert head.block_sizes == sizes and len(head) == min(rows, 9)
    cache = BlockCache([head])
    read = [cache.row(0, block, row)[0] for block, size in enumerate(sizes) for row in range(size)]
    assert read == [where for block in range(3) for where, _ in Blocks().read_block(block)][:rows]


def test_the_distributions_are_drawn(tmp_path):
    plan = plan_of([conversation("a:1", 3), conversation("a:2", 20)], [conversation("b:1", 2)])
    path = plot_statistics(tmp_path / "deep" / "plot.png", plan, survey(plan))
    assert Image.open(path).width > 500
    with pytest.raises(ValueError, match="xyz"):
        plot_statistics(tmp_path / "plot.xyz", plan, survey(plan))
