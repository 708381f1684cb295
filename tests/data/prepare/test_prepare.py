"""Prepared data: read back by our own sources and adapters as the same conversations, whole or not there at all."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
import pytest
from datasets import load_dataset
from memory_source import MemorySource
from prepared_turns import BLUE, PHOTO, RED, assistant, content_of, data_of, picture, read, shows, user

from smol_hf.commands.main import main
from smol_hf.data.conversation import DOCUMENT, Conversation, ImagePart, Message, SampleError, TextPart, VideoPart
from smol_hf.data.mixture.mixture import Data, open_mixture
from smol_hf.data.prepare import prepare

# What LLaVA's form can say, and what only typed parts can.
SAYABLE = {
    "text": (user("Hi"), assistant("Hello.")),
    "system turn": (Message("system", (TextPart("Be brief."),)), user(shows(RED), "What?"), assistant("Red.")),
    "several images": (user(shows(RED), shows(BLUE), "Which is blue?"), assistant("The second.")),
    "interleaved": (user("This", shows(RED), "and\n", shows(PHOTO), "\nthat:", shows(BLUE)), assistant("Yes.")),
    "only an image": (user(shows(RED)), assistant("Red.")),
    "images in two turns": (user(shows(RED), "?"), assistant("Red."), user("And", shows(RED)), assistant("Same.")),
    "unicode": (user("été 漢字 🙂 \u2028 \x00 ע", shows(RED)), assistant("“ok” \t \\n {{x}} <|im_start|>")),
    "line breaks": (user("\n\nleading", shows(RED), "\n\n\ntrailing\n"), assistant("\nx\n")),
    "marks in answers": (user(shows(RED), "?"), assistant("<image> and <video>")),
    "a mark of videos": (user(shows(RED), "what is <video>?"), assistant("A tag.")),
    "a plain text": (Message(DOCUMENT, (TextPart(" été <image>\n\n"),)),),
    "silence": (user(shows(RED)), Message("assistant", ()), user("?"), assistant("Red.")),
}
UNSAYABLE = {
    "a literal mark": (user(shows(RED), "what does <image> mean?"), assistant("A tag.")),
    "a literal mark in text": (user("what does <image> mean?"), assistant("A tag.")),
    "an empty text": (user(shows(RED), ""), assistant("Red.")),
    "two texts": (user("a", "b"), assistant("c")),
}


def told(conversation):
    """The conversation with its images as bytes, without what names its place."""
    messages = tuple(Message(each.role, tuple(map(content_of, each.parts))) for each in conversation.messages)
    return messages, conversation.source, conversation.turn_ratings


ALL = [*SAYABLE.values(), *UNSAYABLE.values()]


@pytest.mark.parametrize("form", ["llava", "parquet"])
def test_what_is_prepared_reads_back_as_it_was(form, tmp_path):
    data = data_of(ALL)
    facts = prepare(data, tmp_path / "out", form=form)
    back = read(tmp_path / "out" / "data.jsonl" if form == "llava" else tmp_path / "out")
    assert [told(each) for each in back] == [told(each) for each in data.conversations()]
    (source,) = facts["sources"]
    assert source["written"] == source["records"] == len(ALL) and not source["left_out"]
    if form == "llava":
        assert source["as_messages"] == len(UNSAYABLE) and source["images"] == 3
    assert not (tmp_path / "out" / "skipped.jsonl").exists()
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


def test_llavas_form_is_llavas_own_and_its_images_are_the_bytes_that_were(tmp_path):
    prepare(data_of(SAYABLE.values()), tmp_path / "out", form="llava")
    records = [json.loads(line) for line in (tmp_path / "out" / "data.jsonl").read_text("utf-8").split("\n") if line]
    assert records.pop(list(SAYABLE).index("a plain text")).keys() == {"id", "text"}
    assert all({"id", "conversations"} <= set(record) <= {"id", "conversations", "image"} for record in records)
    assert records[1]["conversations"][0] == {"from": "system", "value": "Be brief."}
    assert records[1]["conversations"][1] == {"from": "human", "value": "<image>\nWhat?"}
    assert records[2]["conversations"][0]["value"] == "<image>\n<image>\nWhich is blue?"
    files = {each.name: each.read_bytes() for each in (tmp_path / "out" / "images").iterdir()}
    named = {content: hashlib.sha256(content).hexdigest()[:32] for content in (RED, BLUE, PHOTO)}
    assert files == {f"{named[RED]}.png": RED, f"{named[BLUE]}.png": BLUE, f"{named[PHOTO]}.jpg": PHOTO}


def test_ratings_and_sources_of_records_are_kept(tmp_path):
    ratings = ({"relevance": 5, "formatting": 1}, {})
    turns = (user(shows(RED), "?"), assistant("Red."), user("Sure?"), assistant("Yes."))
    given = Conversation("a:1", turns, "docvqa", ratings)
    data = Data([MemorySource("a", [("a:1", given)])], [None], [1.0])
    for form, path in (("llava", "llava/data.jsonl"), ("parquet", "parquet")):
        prepare(data, tmp_path / form, form=form)
        (back,) = read(tmp_path / path)
        assert (back.source, back.turn_ratings) == ("docvqa", ratings)


def test_shards_and_row_groups_are_small(tmp_path):
    facts = prepare(data_of([SAYABLE["system turn"]] * 25), tmp_path / "out", rows_per_shard=10)
    names = sorted(each.name for each in (tmp_path / "out").iterdir())
    assert names == [f"train-0000{number}-of-00003.parquet" for number in range(3)]
    rows = [pyarrow.parquet.ParquetFile(tmp_path / "out" / name).metadata.num_rows for name in names]
    assert rows == [10, 10, 5] and facts["sources"][0]["shards"] == 3


def test_a_row_group_ends_before_it_grows_large(tmp_path, monkeypatch):
    monkeypatch.setattr("smol_hf.data.prepare.writers.GROUP_BYTES", 3 * len(RED))
    prepare(data_of([SAYABLE["only an image"]] * 8), tmp_path / "out")
    (file,) = (tmp_path / "out").iterdir()
    metadata = pyarrow.parquet.ParquetFile(file).metadata
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [3, 3, 2]


def test_datasets_sees_pictures_in_the_shards(tmp_path):
    prepare(data_of([SAYABLE["several images"]]), tmp_path / "out")
    (row,) = load_dataset("parquet", data_dir=str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert [image.size for image in row["images"]] == [(8, 6), (8, 6)]
    assert [part["type"] for part in row["messages"][0]["content"]] == ["image", "image", "text"]


@pytest.mark.parametrize("form", ["llava", "parquet"])
def test_what_is_left_out_is_named_and_counted(form, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    turns = [
        SAYABLE["text"],
        (user(shows(b"not an image"), "?"), assistant("x")),
        (user(VideoPart(path=str(tmp_path / "clip.mp4")), "?"), assistant("x")),
        (user(ImagePart(path=str(tmp_path / "gone.png")), "?"), assistant("x")),
        (user("?"), Message("assistant", (shows(RED),))),
    ]
    facts = prepare(data_of(turns), tmp_path / "out", form=form)
    lines = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert [line["sample"] for line in lines] == [f"pages:{number}" for number in range(2, 6)]
    for line, problem in zip(lines, ["not an image", "video", "does not exist", "read back"]):
        assert problem in line["reason"]
    (source,) = facts["sources"]
    assert {line["source"] for line in lines} == {source["name"]} != {""}
    assert (source["records"], source["written"], source["left_out"]) == (5, 1, 4)
    assert sum(reason["number"] for reason in source["reasons"]) == 4


def test_filters_and_adapters_of_a_mixture_come_first_and_each_source_has_its_folder(tmp_path):
    for name, texts in (("a", ["one", "a long text"]), ("b", ["two"])):
        answer = {"role": "assistant", "content": "."}
        records = [{"messages": [{"role": "user", "content": text}, answer]} for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    entries = [
        {"data": str(tmp_path / "a.jsonl"), "filters": {"max_characters": 5}, "weight": 3},
        {"data": str(tmp_path / "b.jsonl"), "name": "odd/name"},
    ]
    facts = prepare(open_mixture(entries, "quota"), tmp_path / "out", form="llava")
    assert [(one["folder"], one["written"], one["left_out"]) for one in facts["sources"]] == [
        ("a", 1, 1), ("odd-name", 1, 0),
    ]  # fmt: skip
    assert [told(each)[0][0] for each in read(tmp_path / "out" / "a" / "data.jsonl")] == [user("one")]
    assert facts["sources"][0]["reasons"][0]["kind"] == "filtered"


def test_damaged_pixels_are_found_where_it_is_asked_for(tmp_path):
    cut = picture("red", "PNG", (64, 64))[:-30]
    data = data_of([SAYABLE["text"], (user(shows(cut), "?"), assistant("x"))])
    assert prepare(data, tmp_path / "headers")["sources"][0]["written"] == 2
    assert prepare(data, tmp_path / "decoded", verify_images=True)["sources"][0]["written"] == 1


def test_the_output_is_whole_or_not_there(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="full is there already"):
        prepare(data_of([SAYABLE["text"]]), tmp_path / "full")
    with pytest.raises(SampleError, match="none of 1 sample can be used; the first: pages:1: the embedded image"):
        prepare(data_of([(user(shows(b"x")), assistant("x"))]), tmp_path / "out")

    def stopped():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(data_of([SAYABLE["text"]]), tmp_path / "out", advance=stopped)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["full"]
    (tmp_path / "empty").mkdir()
    prepare(data_of([SAYABLE["text"]]), tmp_path / "empty")
    assert any((tmp_path / "empty").iterdir())


@pytest.mark.parametrize("options", [{"form": "csv"}, {"rows_per_shard": 0}, {"form": "llava", "rows_per_shard": 5}])
def test_options_that_mean_nothing_are_refused(options, tmp_path):
    with pytest.raises(ValueError, match=r"format is 'csv'|rows_per_shard is"):
        prepare(data_of([SAYABLE["text"]]), tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_a_relative_output_is_made_where_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert prepare(data_of([SAYABLE["text"]]), "deep/out")["output"] == str(Path("deep/out"))
    assert read(tmp_path / "deep" / "out")[0].messages == replace(Conversation("x", SAYABLE["text"])).messages


@pytest.mark.parametrize("way", ["absolute", "dots", "link"])
def test_images_outside_the_folder_are_copied_only_when_it_is_allowed(way, tmp_path, monkeypatch, capsys):
    secret = tmp_path / "private" / "secret.png"
    (tmp_path / "rows").mkdir()
    secret.parent.mkdir()
    secret.write_bytes(RED)
    (tmp_path / "rows" / "link.png").symlink_to(secret)
    (tmp_path / "rows" / "own.png").write_bytes(RED)
    path = {"absolute": str(secret), "dots": "../private/secret.png", "link": "link.png"}[way]
    records = [{"image": image, "caption": "x"} for image in ("own.png", path)]
    rows = tmp_path / "rows" / "rows.jsonl"
    rows.write_text("".join(json.dumps(record) + "\n" for record in records))
    monkeypatch.chdir(tmp_path)
    command = ["data", "prepare", str(rows), "--output", "out", "--format", "llava"]
    assert main(command) != 0
    message = capsys.readouterr().err
    assert "rows.jsonl:2: the image " in message and "--allow-outside" in message and "Traceback" not in message
    assert not (tmp_path / "out").exists()
    assert not main([*command, "--allow-outside", "--json"])
    (source,) = json.loads(capsys.readouterr().out)["sources"]
    assert (source["written"], source["media_outside"]) == (2, 1)
    assert "secret.png" in source["example_outside"] or way == "link"
    assert not main(["data", "stats", str(rows), "--preset", "tiny-vlm"])
    assert "images and videos outside the folder of images: 1, such as " in capsys.readouterr().out


def test_a_relative_folder_is_that_of_the_current_directory(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own.png").write_bytes(RED)
        (tmp_path / name / "rows.jsonl").write_text(json.dumps({"image": "own.png", "caption": "x"}) + "\n")
        monkeypatch.chdir(tmp_path / name)
        data = open_mixture([{"data": "rows.jsonl"}], "quota")
        assert prepare(data, "out")["sources"][0]["media_outside"] == 0
