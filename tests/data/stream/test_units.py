"""Conversations of several sequences in the data engine: sequences go into rows independently, and nothing is lost."""

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
from chat_models import QWEN3_LIKE, chat_tokenizer
from helpers import TILE_SIZE
from image_corpus import encoded, half_and_half
from memory_source import MemorySource
from PIL import Image

from smol_hf import SmolHFProcessor
from smol_hf.data.collator import SmolCollator
from smol_hf.data.conversation import Conversation, ImagePart, Message, SampleError, TextPart
from smol_hf.data.report.preview_drawing import draw_samples
from smol_hf.data.report.statistics import packing_forecast
from smol_hf.data.sources.source import BlockCache
from smol_hf.data.stream.packing import PackingPool, Planned
from smol_hf.data.stream.preparation import SampleWork, TooLongError
from smol_hf.data.stream.stream import Plan, RowStream
from smol_hf.data.stream.survey import Measured, count_rows, survey
from smol_hf.modeling.label_loss import IGNORE_INDEX
from smol_hf.processing.chat_format import image_tokens
from smol_hf.processing.chat_turns import rewrites_answers
from smol_hf.training.log.source_counters import sources_of

IMAGES = 4 * "<image>"


def processor_of(template=QWEN3_LIKE):
    tokenizer = chat_tokenizer(template)
    tokenizer.add_tokens(image_tokens(2), special_tokens=True)
    sizes = {"tile_size": TILE_SIZE, "image_seq_len": 4, "longest_edge": 2 * TILE_SIZE}
    return SmolHFProcessor(tokenizer, chat_template=template, **sizes)


def picture(width, height):
    return ImagePart(content=encoded(Image.new("RGB", (width, height), (width, height, 9)), "PNG"))


def talk(name, *turns, thoughts="Hm."):
    """Exchanges of (images, question, answer), each answer with reasoning."""
    messages = []
    for images, question, answer in turns:
        messages.append(Message("user", (*images, TextPart(question))))
        messages.append(Message("assistant", (TextPart(answer),), fields={"reasoning_content": thoughts}))
    return Conversation(name, tuple(messages))


def seen(processor, sample):
    """The text of a ready sample with one mark for the features of a tile, and labelled text between ⟦ and ⟧."""
    text, inside = "", False
    for token, label in zip(sample.input_ids.tolist(), sample.labels.tolist()):
        if (label != IGNORE_INDEX) != inside:
            inside = not inside
            text += "⟦" if inside else "⟧"
        text += processor.tokenizer.decode([token])
    return text.replace(IMAGES, "▣")


def test_answers_about_images_are_trained_each_in_its_own_context():
    processor = processor_of()
    wide, small = picture(64, 32), picture(20, 20)
    conversation = talk("rows:1", ([wide], "Which?", "Red."), ([], "Sure?", "Yes."), ([small], "And this?", "Blue."))
    work = SampleWork(processor, 512, [None])
    sample = work.prepare(0, "rows:1", conversation)
    ready = [work.encode(0, unit) for unit in sample.units]
    blocks = [
        processor.tokenizer.decode(processor.image_block_ids(height, width)).replace(IMAGES, "▣")
        for width, height in ((64, 32), (20, 20))
    ]
    ask, end = "<|im_start|>assistant\n", "<|im_end|>\n"
    first = f"<|im_start|>user\n{blocks[0]}Which?{end}{ask}"
    second = f"{first}Red.{end}<|im_start|>user\nSure?{end}{ask}"
    third = f"{second}Yes.{end}<|im_start|>user\n{blocks[1]}And this?{end}{ask}"
    assert [seen(processor, each) for each in ready] == [
        f"{before}⟦<think>\nHm.\n</think>\n{answer}<|im_end|>⟧\n"
        for before, answer in ((first, "Red."), (second, "Yes."), (third, "Blue."))
    ]
    tiles = processor.tiles([part_image(part) for part in (wide, small)])
    count = processor.tiler.grid(32, 64)
    shown = count[0] * count[1] + 1
    assert [len(each.tiles) for each in ready] == [shown, shown, len(tiles)]
    assert len(tiles) > shown and all(
        torch.equal(each.tiles, torch.from_numpy(tiles)[: len(each.tiles)]) for each in ready
    )
    made = [(unit.num_tokens, unit.num_tiles) for unit in sample.units]
    assert made == [(len(each.input_ids), len(each.tiles)) for each in ready]
    features = [int((each.input_ids == processor.image_token_id).sum()) for each in ready]
    assert features == [processor.image_seq_len * tiles for _, tiles in made]
    assert rewrites_answers(processor)


def part_image(part):
    with Image.open(part.open()) as image:
        image.load()
    return image


def test_the_prompt_of_each_answer_is_that_of_inference():
    processor = processor_of()
    conversation = talk("rows:1", ([picture(64, 64)], "Which?", "Red."), ([picture(20, 20)], "And this?", "Blue."))
    images = [part_image(part) for part in conversation.images]
    units = SampleWork(processor, 512, [None]).prepare(0, "rows:1", conversation).units
    for unit, shown in zip(units, (1, 2)):
        asked, waiting = [], iter(images[:shown])
        for message in conversation.messages[: 2 * shown - 1]:
            parts = [
                {"type": "image", "image": next(waiting)}
                if isinstance(part, ImagePart)
                else {"type": "text", "text": part.text}
                for part in message.parts
            ]
            asked.append({"role": message.role, "content": parts, **message.fields})
        prompt = processor.apply_chat_template(asked, tokenize=True, add_generation_prompt=True)
        assert unit.input_ids[: len(prompt)] == prompt and unit.labels[len(prompt)] != IGNORE_INDEX


def long_talks(number):
    """Conversations of one to five exchanges."""
    return [
        talk(
            f"rows:{index}",
            *[([], f"Question {turn} of {index}?", f"Answer {turn}.") for turn in range(index % 5 + 1)],
        )
        for index in range(1, number + 1)
    ]


def plan_of(conversations, context_length=200, **options):
    rows = [(each.sample_id, each) for each in conversations]
    work = SampleWork(processor_of(), context_length, [None])
    return Plan([MemorySource("talks", rows)], [1.0], work, context_length, **{"lanes": 2, "pool_size": 8, **options})


def rows_of(plan, number, states=None):
    stream = RowStream(plan, states=dict(states or {}))
    iterator = iter(stream)
    rows = [next(iterator) for _ in range(number)]
    return rows, {int(lane): state for lane, state in json.loads(json.dumps(stream.state_dict())).items()}


def until_finished(plan):
    rows, finished = [], set()
    for row in RowStream(plan):
        rows.append(row)
        finished |= {row.lane} if row.finished else set()
        if len(finished) == plan.lanes:
            return rows
    raise AssertionError("the stream ended")


@pytest.mark.parametrize("pool_size", [1, 8])
def test_a_conversation_whose_sequences_fit_is_trained_although_they_do_not_fit_together(pool_size):
    plan = plan_of(long_talks(10), rounds=1, pool_size=pool_size)
    totals = {each.sample_id: plan.work.prepare(0, "", each) for each in long_talks(10)}
    assert any(sample.num_tokens > plan.context_length for sample in totals.values())
    rows = until_finished(plan)
    trained = Counter((sample.sample_id, sample.number) for row in rows for sample in row.samples)
    assert trained == {(name, number): 1 for name, sample in totals.items() for number in range(len(sample.units))}
    assert all(sum(len(sample.input_ids) for sample in row.samples) <= plan.context_length for row in rows)
    found = survey(plan)
    measured = Measured(plan.sources, found)
    assert sum(count_rows(replace(plan, work=measured), 1, measured)) == sum(bool(row.samples) for row in rows)
    assert packing_forecast(plan, found, pool_size)["samples"] == 10
    books = sources_of(rows)
    assert books.counts[0, "samples"] == 10 == len(books.of_samples)
    assert len(books.of_sequences) == sum(trained.values()) > 10
    assert books.counts[0, "tokens"] == sum(sample.num_tokens for sample in totals.values())


def test_one_sequence_that_is_too_long_leaves_its_conversation_out():
    (conversation,) = [each for each in long_talks(5) if len(each.messages) == 10]
    work = SampleWork(processor_of(), 4096, [None])
    lengths = [unit.num_tokens for unit in work.prepare(0, "", conversation).units]
    work.context_length = lengths[-1] - 1
    with pytest.raises(
        TooLongError, match=rf"{lengths[-1]} tokens in sequence 5 of 5 \(one for each answer\), more than"
    ):
        work.prepare(0, "", conversation)


def contents(rows):
    return [
        (row.lane, [(each.sample_id, each.number, each.input_ids.tolist()) for each in row.samples]) for row in rows
    ]


@pytest.mark.parametrize("cut", [1, 4, 9, 16])
def test_it_goes_on_exactly_after_any_row(cut):
    whole, _ = rows_of(plan_of(long_talks(10)), 24)
    _, states = rows_of(plan_of(long_talks(10)), cut)
    assert contents(rows_of(plan_of(long_talks(10)), 24 - cut, states)[0]) == contents(whole[cut:])
    waiting = [entry for state in states.values() for entry in state["pool"]]
    assert any(len(entry) == 5 for entry in waiting), "sequences wait one by one"


def test_a_state_of_older_code_holds_whole_conversations():
    """Its entries have four numbers: source, draw, tokens, tiles."""
    plan = plan_of(long_talks(5), context_length=1000, lanes=1)
    number = next(index for index in range(5) if len(first_units(plan, index)) == 3)
    units = first_units(plan, number)
    old = {"rows": 7, "taken": [5], "pool": [[0, number, sum(unit.num_tokens for unit in units), 0]]}
    row = plan_of(long_talks(5), context_length=1000, lanes=1, pool_size=1).lane(0, cache_of(plan), old).next_row()
    assert [sample.input_ids.tolist() for sample in row.samples] == [unit.input_ids for unit in units]


def cache_of(plan):
    return BlockCache(plan.sources)


def first_units(plan, number):
    return plan.lane(0, cache_of(plan)).units(0, number)


@pytest.mark.parametrize("pool_size", [1, 8])
def test_a_damaged_image_costs_its_conversation_once(pool_size):
    content = encoded(half_and_half(), "PNG")
    damaged = ImagePart(content=content[: len(content) // 2])
    turns = [([damaged] if number == 1 else [], f"Question {number}?", f"Answer {number}.") for number in range(4)]
    talks = [*long_talks(3), talk("rows:damaged", *turns)]
    rows = until_finished(plan_of(talks, context_length=400, rounds=1, pool_size=pool_size))
    faults = [fault for row in rows for fault in row.faults]
    assert [fault.where for fault in faults] == ["rows:damaged"] and isinstance(faults[0], SampleError)
    assert {sample.number for row in rows for sample in row.samples if sample.sample_id == "rows:damaged"} <= {0}
    assert not rows[-1].state["pool"]


def test_discarded_samples_leave_the_pool_as_if_they_had_never_come():
    pools = [PackingPool(100), PackingPool(100)]
    for number in range(6):
        pools[0].add(Planned((0, number // 2, number), 10 + number, number))
        if number // 2 != 1:
            pools[1].add(Planned((0, number // 2, number), 10 + number, number))
    pools[0].discard((0, 1))
    assert pools[0].contents() == pools[1].contents()
    assert (pools[0].tokens, pools[0].tiles) == (pools[1].tokens, pools[1].tiles)
    assert pools[0].next_row() == pools[1].next_row()


def test_a_preview_shows_each_conversation_once_with_all_its_sequences():
    plan = plan_of(long_talks(5))
    drawn = draw_samples(plan, 5)
    assert sorted(sample.conversation.sample_id for sample in drawn.samples) == [
        f"rows:{number}" for number in range(1, 6)
    ]
    tokens = {each.sample_id: plan.work.prepare(0, "", each).num_tokens for each in long_talks(5)}
    assert {sample.conversation.sample_id: sample.num_tokens for sample in drawn.samples} == tokens
    assert not drawn.left_out and not drawn.repeated


@pytest.mark.parametrize("packing", [True, False])
def test_a_batch_has_the_tiles_of_each_sequence(packing):
    processor = processor_of()
    work = SampleWork(processor, 512, [None])
    conversation = talk("rows:1", ([picture(64, 64)], "Which?", "Red."), ([picture(20, 20)], "This?", "Blue."))
    ready = [work.encode(0, unit) for unit in work.prepare(0, "", conversation).units]
    batch = SmolCollator(processor, packing=packing)(ready)
    assert (batch["input_ids"] == processor.image_token_id).sum() == len(batch["pixel_values"]) * 4
    assert torch.equal(batch["pixel_values"], torch.cat([each.tiles for each in ready]))
