"""Marks and columns of a record that change what it means: honoured, or the record is refused by name."""

import json

import pytest
from chat_models import chat_tokenizer
from modeling.builders import build_processor

from smol_hf.commands.main import main
from smol_hf.data.conversation import SampleError
from smol_hf.data.mixture import mixture
from smol_hf.data.mixture.mixture import MixtureEntry
from smol_hf.data.prepare import prepare
from smol_hf.data.records import Place, adapt
from smol_hf.data.report.skipped import SkippedSamples
from smol_hf.data.stream.preparation import SampleWork, template_messages
from smol_hf.modeling.label_loss import IGNORE_INDEX
from smol_hf.text.chat import TextChat
from smol_hf.training.data import measure_data, open_data, plan_of
from smol_hf.training.log.startup_summary import describe_samples
from smol_hf.training.model.chat_template import CHATML, SMOLLM2
from smol_hf.training.recipe.arguments import SmolTrainingArguments
from smol_hf.training.recipe.data_arguments import DataArguments

PLACE = Place("rows.jsonl:1")
UNMARKED = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOL_CALL = [{"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **keys):
    return {"role": "assistant", "content": text, **keys}


def sharegpt(*texts, **keys):
    turns = [{"from": role, "value": text} for role, text in zip(("human", "gpt") * 2, texts)]
    turns[1] |= keys
    return {"conversations": turns}


def trained(record):
    """What a vision-language model learns of the record."""
    processor = build_processor()
    ids, labels = processor.encode_text(template_messages(adapt(record, PLACE))[0], [])
    assert all(label in (token, IGNORE_INDEX) for token, label in zip(ids, labels))
    return processor.tokenizer.decode([label for label in labels if label != IGNORE_INDEX])


def problem_of(record):
    with pytest.raises(SampleError) as error:
        adapt(record, PLACE)
    return error.value.problem


MARKS = [("weight", 0), ("weight", 0.0), ("train", False), ("training", False), ("loss_mask", 0), ("loss", False)]


@pytest.mark.parametrize(("key", "value"), MARKS)
def test_a_turn_that_is_marked_as_not_trained_gets_no_label(key, value):
    messages = [user("first?"), assistant("WRONG", **{key: value}), user("again?"), assistant("right")]
    assert trained({"messages": messages}) == " right<end_of_utterance>"
    parts = [{**each, "content": [{"type": "text", "text": each["content"]}]} for each in messages]
    assert trained({"messages": parts}) == " right<end_of_utterance>"
    assert trained(sharegpt("first?", "WRONG", "again?", "right", **{key: value})) == " right<end_of_utterance>"
    texts = [{"user": "first?", "assistant": "WRONG", key: value}, {"user": "again?", "assistant": "right"}]
    assert trained({"images": [], "texts": texts}) == " right<end_of_utterance>"


@pytest.mark.parametrize(("key", "value"), [("weight", 1), ("train", True), ("loss_mask", None)])
def test_a_turn_that_is_marked_as_trained_is_trained(key, value):
    both = " one<end_of_utterance> two<end_of_utterance>"
    assert trained({"messages": [user("a"), assistant("one", **{key: value}), user("b"), assistant("two")]}) == both


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"weight": 0.5}, "'weight' is 0.5, which cannot be honoured"),
        ({"train": "no"}, "'train' is 'no'"),
        ({"weight": 1, "train": False}, "'weight' and 'train' contradict each other"),
        ({"function_call": {"name": "weather"}}, "'function_call', which cannot be trained on yet"),
        ({"refusal": "No."}, "'refusal'"),
        ({"tool_calls": [{"function": {}}]}, "a call in 'tool_calls' has no name"),
        ({"tool_calls": "weather()"}, "'tool_calls' must be a list of objects, or the JSON text of one"),
        ({"reasoning": "a", "thinking": "b"}, "'reasoning' and 'thinking' contradict each other"),
    ],
)
def test_a_key_that_cannot_be_honoured_is_refused(keys, problem):
    found = problem_of({"messages": [user("?"), assistant("", **keys), user("?"), assistant("!")]})
    assert found.startswith("message 2") and problem in found
    assert problem in problem_of(sharegpt("?", "", "?", "!", **keys))


@pytest.mark.parametrize("template", [CHATML, SMOLLM2, UNMARKED])
def test_a_text_model_does_not_learn_an_unmarked_turn(template):
    tokenizer = chat_tokenizer(template)
    record = {"messages": [user("first?"), assistant("WRONG", weight=0), user("again?"), assistant("right")]}
    ids, labels = TextChat(tokenizer).encode_text(template_messages(adapt(record, PLACE))[0])
    learned = tokenizer.decode([label for label in labels if label != IGNORE_INDEX])
    assert learned.startswith("right<|im_end|>") and "WRONG" in tokenizer.decode(ids)
    bare = [{key: each[key] for key in ("role", "content")} for each in record["messages"]]
    whole, _ = TextChat(tokenizer).encode_text(bare)
    assert ids == whole, "only labels differ"


@pytest.mark.parametrize("key", ["system", "system_prompt"])
def test_a_system_prompt_in_a_column_comes_first(key):
    chat = adapt({key: "You are a pirate.", "messages": [user("hi"), assistant("arr")]}, PLACE)
    assert chat == adapt(
        {"messages": [{"role": "system", "content": "You are a pirate."}, user("hi"), assistant("arr")]}, PLACE
    )
    assert adapt({key: "You are a pirate.", **sharegpt("hi", "arr")}, PLACE) == chat
    texts = [{"user": "hi", "assistant": "arr"}]
    assert adapt({key: "You are a pirate.", "images": [], "texts": texts}, PLACE) == chat
    assert adapt({key: "", "messages": [user("hi"), assistant("arr")]}, PLACE).messages == chat.messages[1:]
    other = {"messages": [{"role": "system", "content": "Be kind."}, user("hi"), assistant("arr")]}
    assert "another one in its messages" in problem_of({key: "You are a pirate.", **other})


def test_tools_that_no_template_is_given_are_refused_and_empty_ones_are_not():
    chat = {"messages": [user("weather?"), assistant("sunny")]}
    texts = {"texts": [{"user": "a", "assistant": "b"}], "images": None}
    assert "'tools', which cannot be trained on yet" in problem_of({**texts, "tools": [{"name": "weather"}]})
    for key, value in (("functions", [{"name": "weather"}]), ("tool_choice", "weather")):
        assert f"{key!r}, which cannot be trained on yet" in problem_of({**chat, key: value})
    for record in (chat, sharegpt("weather?", "sunny")):
        assert "tools must be a list of objects" in problem_of({**record, "tools": {"a": 1}})
    for empty in (None, [], "", "[]", "null", {}, {"python_tools": [], "enable_thinking": False}):
        assert adapt({**chat, "tools": empty}, PLACE).ignored == ()


def test_fields_that_are_not_used_are_named():
    turn = user("?") | {"name": "Ann"}
    record = {"id": 7, "messages": [turn, assistant("!", score=0)], "score": 5, "url": None, "source": "web"}
    assert adapt(record, PLACE).ignored == ("messages[].name", "messages[].score", "score")
    assert adapt({"image": "a.png", "caption": "x", "tags": ["a"]}, Place("a:1", ".")).ignored == ("tags",)
    marked = {"messages": [user("?") | {"train": True}, assistant("!", train=True)]}
    assert adapt(marked, PLACE).ignored == ("messages[].train of other turns than answers",)
    part = {"type": "text", "text": "?", "cache_control": {"type": "ephemeral"}}
    assert adapt({"messages": [user([part]), assistant("!")]}, PLACE).ignored == (
        "messages[].content[].cache_control",
    )


def rows_in(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_record_without_anything_to_train_is_refused(tmp_path):
    rows = rows_in(
        tmp_path,
        {"messages": [user("hi?"), assistant("  ")]},
        {"messages": [user("hi?"), assistant("a", train=False)]},
        {"messages": [user("hi?"), assistant(""), user("?"), assistant("b")]},
    )
    *refused, good = [sample for _, sample in open_data(DataArguments(data=rows), 0).samples()]
    assert [fault.problem[:18] for fault in refused] == ["no answer to train"] * 2
    processor = build_processor()
    _, labels = processor.encode_text(template_messages(good)[0], [])
    assert processor.tokenizer.decode([each for each in labels if each != IGNORE_INDEX]) == " b<end_of_utterance>"


def test_ignored_fields_are_left_out_on_demand(tmp_path):
    row = {
        "tools": [{"name": "w"}],
        "messages": [user("a"), assistant("", tool_calls=TOOL_CALL), user("b"), assistant("c")],
    }
    path = rows_in(tmp_path, row)
    (whole,) = open_data(DataArguments(data=path), 0).conversations()
    with pytest.raises(SampleError, match=r"message 2 has 'tool_calls', .* \(ignore_fields: \[tool_calls\]\)"):
        SampleWork(build_processor(), 512, [None]).prepare(0, "", whole)
    keys = {"data": path, "ignore_fields": ["tools", "tool_calls"]}
    for arguments in (DataArguments(**keys), DataArguments(mixture=[keys])):
        (sample,) = open_data(arguments, 0).conversations()
        assert [message.is_learned for message in sample.messages] == [False, False, False, True]


@pytest.mark.parametrize("form", ["llava", "parquet"])
def test_prepared_files_keep_the_marks(tmp_path, form):
    turns = [user("a"), assistant("b", train=False), user("c"), assistant("d"), {"role": "tool", "content": "5"}]
    path = rows_in(tmp_path, {"messages": turns})
    before = list(open_data(DataArguments(data=path), 0).conversations())
    prepare(open_data(DataArguments(data=path), 0), tmp_path / "out", form=form)
    source, reader = MixtureEntry(str(tmp_path / "out")).open()
    ((where, record),) = source.read_block(0)
    assert reader(where, record).messages == before[0].messages
    assert [message.trained for message in before[0].messages] == [True, False, True, True, True]


def test_stats_name_what_is_ignored(tmp_path, capsys):
    rows = rows_in(
        tmp_path,
        {"messages": [user("hi?"), assistant(""), user("?"), assistant("b"), user("?"), assistant("c", weight=0)]},
        {"messages": [user("hi?"), assistant("a")], "score": 1},
    )
    assert main(["data", "stats", rows, "--preset", "tiny-vlm", "--json"]) in (0, None)
    (source,) = json.loads(capsys.readouterr().out)["sources"]
    assert source["ignored_fields"] == {"score": 1}
    assert (source["empty_answers"], source["untrained_turns"]) == (1, 1)
    main(["data", "stats", rows, "--preset", "tiny-vlm"])
    printed = capsys.readouterr().out
    assert "ignored fields, with the number of records: score (1)" in printed
    assert "empty answers, not trained: 1" in printed and "turns that are marked as not trained: 1" in printed


@pytest.mark.parametrize("surveyed", [True, False])
def test_the_summary_before_a_run_names_what_is_ignored(surveyed, tmp_path, monkeypatch):
    if not surveyed:
        monkeypatch.setattr(mixture, "MOST_SURVEYED", 0)
    rows = [{"messages": [user("hi?"), assistant("a", train=False), user("?"), assistant("b")], "score": 1}] * 3
    arguments = DataArguments(data=rows_in(tmp_path, *rows), context_length=256)
    data, skipped = open_data(arguments, 0), SkippedSamples("stop")
    training = SmolTrainingArguments(output_dir="unused", max_steps=1, use_cpu=True)
    _, data = measure_data(plan_of(data, build_processor(), arguments, training, 1), data, arguments, skipped)
    lines = describe_samples(data, arguments, skipped, None)
    assert "ignored fields, with the number of records: score (3)" in lines
    assert "turns that are marked as not trained: 3" in lines
