"""What a sample may lose to fit the context: as little as suffices, in the order of the recipe, and never unnamed."""

import io
import json

import pytest
from helpers import build_processor, plan_for
from PIL import Image

from smol_hf.data.conversation import Conversation, ImagePart, Message, TextPart, TooLongError
from smol_hf.data.report.shortened_samples import ShortenedSamples
from smol_hf.data.stream.preparation import SampleWork
from smol_hf.data.stream.stream import RowStream
from smol_hf.training.recipe.data_arguments import DataArguments


def picture(width=64, height=64):
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (10, 200, 30)).save(stream, "PNG")
    return ImagePart(content=stream.getvalue())


def exchange(number, parts=()):
    question = Message("user", (*parts, TextPart(f"Question {number}?")))
    return question, Message("assistant", (TextPart(f"Answer {number}."),))


def conversation(exchanges=1, pictures=1, system=False):
    first, *others = [exchange(number, [picture()] * pictures if not number else ()) for number in range(exchanges)]
    head = (Message("system", (TextPart("Be brief."),)),) if system else ()
    return Conversation("rows:1", (*head, *first, *(message for pair in others for message in pair)))


def measured(sample, context_length, too_long=()):
    work = SampleWork(build_processor(), context_length, [None], too_long=list(too_long))
    return work, work.prepare(0, sample.sample_id, sample)


def text_of(work, sample):
    return work.processor.tokenizer.decode(sample.input_ids)


def test_what_fits_stays_whole():
    work, sample = measured(conversation(3, 2), 10_000, ["tiles", "pages", "turns"])
    assert sample.lost == "" and sample.num_tiles == 10 and "Answer 2." in text_of(work, sample)


def test_without_a_policy_it_is_left_out():
    with pytest.raises(TooLongError, match=r"rows:1: \d+ tokens, more than context_length 20"):
        measured(conversation(), 20)


def test_tiles_go_first_and_the_pictures_are_really_smaller():
    _, whole = measured(conversation(), 10_000)
    work, sample = measured(conversation(), whole.num_tokens - 1, ["tiles", "turns"])
    assert sample.lost == "longest_edge 32" and sample.num_tiles == 1
    ready = work.encode(0, sample)
    assert ready.tiles.shape == (1, 3, 32, 32) and ready.lost == sample.lost
    assert sample.input_ids.count(work.processor.image_token_id) == work.processor.image_seq_len
    assert text_of(work, sample).endswith(text_of(work, whole)[-30:]), "the texts are whole"


def test_pages_go_from_the_end():
    _, whole = measured(conversation(pictures=4), 10_000)
    _, three = measured(conversation(pictures=3), 10_000)
    work, sample = measured(conversation(pictures=4), whole.num_tokens - 1, ["pages"])
    assert sample.lost == "3 of 4 pages" and sample.input_ids == three.input_ids
    assert len(work.encode(0, sample).tiles) == 15


def test_turns_go_from_the_end_and_the_system_stays():
    _, two = measured(conversation(2, system=True), 10_000)
    work, sample = measured(conversation(9, system=True), two.num_tokens + 2, ["turns"])
    assert sample.lost == "2 of 9 turns" and sample.input_ids == two.input_ids
    assert "Be brief." in text_of(work, sample)


def test_the_second_loss_comes_on_top_of_the_first():
    _, small = measured(conversation(2), 10_000, [])
    work = SampleWork(build_processor(longest_edge=32), 10_000, [None])
    one_tile = work.prepare(0, "rows:1", conversation(2))
    _, sample = measured(conversation(5), one_tile.num_tokens, ["tiles", "turns"])
    assert sample.lost == "longest_edge 32, 2 of 5 turns" and sample.input_ids == one_tile.input_ids
    assert small.num_tokens > one_tile.num_tokens


def test_what_no_loss_mends_is_left_out():
    with pytest.raises(TooLongError):
        measured(conversation(1), 8, ["tiles", "pages", "turns"])


@pytest.mark.parametrize("wrong", [["tile"], ["tiles", "tiles"], "tiles", [3]])
def test_a_policy_that_there_is_not(wrong):
    with pytest.raises(ValueError, match="too_long is"):
        DataArguments(too_long=wrong)


def test_rows_carry_what_was_lost_and_go_on_after_a_resume():
    processor = build_processor()
    samples = [conversation(4 + number % 3) for number in range(6)]
    samples = [Conversation(f"rows:{n}", each.messages) for n, each in enumerate(samples, start=1)]
    plan = plan_for(samples, processor, context_length=120, pool_size=3)
    plan.work.too_long = ["tiles", "turns"]

    def rows(states, number):
        stream = RowStream(plan, states=states)
        lines = iter(stream)
        taken = [[(each.sample_id, each.lost, len(each.tiles)) for each in next(lines).samples] for _ in range(number)]
        return taken, stream.states

    whole, _ = rows({}, 12)
    first, states = rows({}, 5)
    second, _ = rows(json.loads(json.dumps(states), object_hook=with_numbers), 7)
    assert first + second == whole
    assert all(lost for row in whole for _, lost, _ in row)


def with_numbers(mapping):
    return {int(key) if key.isdigit() else key: value for key, value in mapping.items()}


def test_the_ledger_names_each_once(tmp_path):
    path = tmp_path / "shortened.jsonl"
    ledger = ShortenedSamples(path)
    ledger.note([("a:1", "1 of 2 turns"), ("a:2", "longest_edge 512")])
    ledger.note([("a:1", "1 of 2 turns")])
    ShortenedSamples(path).note([("a:2", "longest_edge 512"), ("a:3", "1 of 9 pages")])
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [entry["sample"] for entry in entries] == ["a:1", "a:2", "a:3"]
    assert entries[1]["shortened"] == "longest_edge 512"
    ShortenedSamples(path, keeps_earlier=False)
    assert not path.exists()


def test_a_question_keeps_its_first_picture():
    """Pages are what several pictures in one message are; a later question is never left without its own."""
    turns = [exchange(number, [picture()] * pictures) for number, pictures in enumerate([3, 1, 2])]
    asked = Conversation("rows:1", tuple(message for pair in turns for message in pair))
    _, whole = measured(asked, 10_000)
    _, sample = measured(asked, whole.num_tokens - 1, ["pages"])
    assert sample.lost == "5 of 6 pages"
    assert [len(message.parts) for message in sample.conversation.messages] == [4, 1, 2, 1, 2, 1]
    least = whole.num_tokens - 3 * (whole.num_tokens - sample.num_tokens)
    _, sample = measured(asked, least, ["pages"])
    assert sample.lost == "3 of 6 pages" and len(sample.conversation.images) == 3
    with pytest.raises(TooLongError):
        measured(asked, least - 1, ["pages"])
