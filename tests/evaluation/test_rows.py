"""Rows of `smol-hf evaluate`: questions, references and metrics; bad rows are named."""

import json

import pytest
from evaluation.held_out import evaluated, lines_of, save_rows

from smol_hf.data.conversation import SampleError
from smol_hf.data.records.filters import Filters, RecordReader
from smol_hf.evaluation.tasks import question_of

BAD = {
    "no reference": ({"answer": None}, "has no reference"),
    "no answer": ({"image": None, "question": None, "messages": [
        {"role": "user", "content": "a"}
    ]}, "has no reference"),
    "empty reference": ({"answer": " "}, "no answer to train"),
    "open conversation": ({"image": None, "question": None, "messages": [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}
    ]}, "has no reference: end the conversation with the right answer"),
    "missing image": ({"image": "gone.png"}, "gone.png"),
    "unknown metric": ({"metric": "exactmatch"}, "unknown metric 'exactmatch': did you mean 'exact_match'"),
    "metric of another type": ({"metric": 3}, "metric is 3: it must be the name"),
    "answers of another type": ({"answers": [["a"]]}, "answers must be a list of texts"),
    "no question": ({"image": None, "question": None, "messages": [
        {"role": "assistant", "content": "b"}
    ]}, "has no question before the answer"),
    "half a character in kind": ({"kind": "\ud800"}, "kind: half of a character at position 0"),
    "half a character in answers": ({"answers": ["a", "\ud800"]}, "answers: half of a character at position 0"),
}  # fmt: skip


@pytest.mark.parametrize(
    "row, references",
    [
        ({"question": "a", "answers": ["b", 3]}, ["b", "3"]),
        ({"question": "a", "answer": "x", "answers": ["b"]}, ["b"]),
        ({"question": "a", "answers": [{"answer": "b", "answer_id": 1}]}, ["b"]),
        ({"prompt": "a", "answers": ["b"]}, ["b"]),
        ({"instruction": "a", "answers": "b"}, ["b"]),
        ({"instruction": "a", "response": "b"}, ["b"]),
        ({"conversations": [{"from": "human", "value": "a"}], "answers": ["b"]}, ["b"]),
        ({"messages": [{"role": "user", "content": "a"}], "answers": ["b"]}, ["b"]),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " b\n"}]}, ["b"]),
    ],
)
def test_references_of_rows(row, references):
    reader = RecordReader(None, None, Filters())
    question = question_of("file:1", {**row, "kind": 0, "metric": "anls"}, reader, "file")
    assert list(question.references) == references and question.text == "a"
    assert (question.kind, question.metrics) == ("0", ("anls",))
    assert [each.role for each in question.conversation.messages] == ["user"]


@pytest.mark.parametrize("more", [{}, {"answers": ["b"]}])
def test_a_plain_text_has_no_question(more):
    reader = RecordReader(None, None, Filters())
    with pytest.raises(SampleError, match="file:1: is a plain text without a question: remove the row, or measure"):
        question_of("file:1", {"text": "a", **more}, reader, "file")


@pytest.mark.parametrize("change, message", BAD.values(), ids=BAD)
def test_a_bad_row_is_named_and_can_be_skipped(vlm, tmp_path, change, message):
    data = save_rows(tmp_path / "data", rows=4, row1=change)
    with pytest.raises(SampleError, match=rf"(?s)1 of 4 samples cannot be used.*held_out.jsonl:2: .*({message})"):
        evaluated(vlm, data, tmp_path / "out")
    results = evaluated(vlm, data, tmp_path / "out", on_bad_sample="skip", baselines=["none"])
    assert (results["questions"], results["skipped"]) == (3, 1)
    [entry] = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert entry["sample"] == "held_out.jsonl:2" and entry["source"] == "held_out.jsonl"


def test_an_image_that_is_found_damaged_later_is_a_bad_row_too(vlm, tmp_path):
    data = save_rows(tmp_path / "data", rows=6)
    path = tmp_path / "data" / "1.png"
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(SampleError, match=r"held_out.jsonl:2: .*1.png is damaged"):
        evaluated(vlm, data, tmp_path / "out", batch_size=2)
    options = {"on_bad_sample": "skip", "max_skipped_fraction": 0.5}
    results = evaluated(vlm, data, tmp_path / "out", batch_size=2, **options)
    assert (results["questions"], results["skipped"]) == (5, 1)  # the last row has no image
    assert {each["sample"] for each in lines_of(tmp_path / "out")} == {
        f"held_out.jsonl:{row}" for row in (1, 3, 4, 5, 6)
    }


def test_data_without_rows_is_refused(vlm, tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(SampleError, match="holds no record"):
        evaluated(vlm, tmp_path / "empty.jsonl", tmp_path / "out")


def test_metrics_of_rows_of_sources_and_of_the_command(vlm, tmp_path):
    data = save_rows(tmp_path / "data", rows=3, row0={"metrics": ["anls", "contains"]})
    config = tmp_path / "mix.yaml"
    entries = [{"data": str(data), "name": "first", "metric": "vqa_match"}, {"data": str(data), "name": "second"}]
    config.write_text(json.dumps({"mixture": entries}))
    results = evaluated(vlm, None, tmp_path / "out", config=str(config), metric=["word_error_rate"])
    counts = {name: each["questions"] for name, each in results["metrics"].items()}
    assert counts == {"anls": 2, "contains": 2, "vqa_match": 2, "word_error_rate": 2}
    assert list(results["per_source"]) == ["first", "second"]
    assert set(results["per_source"]["second"]["metrics"]) == {"anls", "contains", "word_error_rate"}
    config.write_text(json.dumps({"mixture": [{"data": str(data), "weight": 2}]}))
    with pytest.raises(ValueError, match=r"mix.yaml, entry 1: weight has no effect, since each sample is used once"):
        evaluated(vlm, None, tmp_path / "weighted", config=str(config))
    with pytest.raises(ValueError, match="unknown metric 'anlz'"):
        evaluated(vlm, data, tmp_path / "other", metric=["anlz"])


@pytest.mark.parametrize(
    "answers, metric",
    [(["yes"], "yes_no"), (["B"], "multiple_choice"), (["cat"] * 10, "vqa_accuracy"), (["a cat"], "exact_match")],
)
def test_the_default_metric_follows_from_the_references(vlm, tmp_path, answers, metric):
    changes = {f"row{number}": {"answer": None, "answers": answers, "kind": None} for number in range(2)}
    data, said = save_rows(tmp_path / "data", rows=3, **changes), []
    data.write_text("".join(data.read_text().splitlines(keepends=True)[:2]))
    assert list(evaluated(vlm, data, tmp_path / "out", said=said)["metrics"]) == [metric]
    assert said[0].startswith(f"held_out.jsonl: metric {metric}, since ")


def test_earlier_answers_of_a_conversation_are_shown(vlm, tmp_path):
    turns = [("user", "Hi"), ("assistant", "Hello"), ("user", "Again?"), ("assistant", "7")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    (tmp_path / "chat.jsonl").write_text(json.dumps(row) + "\n")
    results = evaluated(vlm, tmp_path / "chat.jsonl", tmp_path / "out")
    assert "Hello" in results["prompt"] and "7" not in results["prompt"]
    assert lines_of(tmp_path / "out")[0]["references"] == ["7"]
