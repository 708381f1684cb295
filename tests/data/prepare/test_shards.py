"""Shards of a preparation have together the rows, files and counts of a preparation in one process."""

import json
import os
import signal
import time
import weakref
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from datasets import load_dataset
from media_files import picture
from memory_source import MemorySource
from processes import Forked
from shards import write_tar

from smol_hf.data.conversation import Conversation, ImagePart, Message, SampleError, TextPart
from smol_hf.data.mixture.mixture import Data, open_mixture
from smol_hf.data.prepare import prepare, shards
from smol_hf.data.prepare.shards import rows_of_shard
from smol_hf.text.documents.readers import open_documents

ROWS = 11
BAD = (4, 8)  # rows without a caption
IMAGES = [picture(8, 6 + number % 3) for number in range(ROWS)]


def captions(first, last):
    """Records of rows in a range. Some images are equal; the last is in two shards of three."""
    return [
        {"image": {"bytes": IMAGES[row], "path": None}, "caption": None if row in BAD else f"Image {row}.", "x": row}
        for row in range(first, last)
    ]


def write_lines(folder, name, first, last):
    lines = []
    for record in captions(first, last):
        row = record["x"]
        (folder / f"{row}.png").write_bytes(IMAGES[row])
        lines.append(json.dumps({**record, "image": f"{row}.png"}) + "\n")
    (folder / f"{name}.jsonl").write_text("".join(lines) + "\n")  # a blank line is no row


def write_table(folder, name, first, last, **options):
    table = pyarrow.Table.from_pylist(captions(first, last), schema=SCHEMA)
    pyarrow.parquet.write_table(table, folder / f"{name}.parquet", **options)


def write_members(folder, name, first, last):
    members = []
    for record in captions(first, last):
        content = json.dumps({"caption": record["caption"], "x": record["x"]}).encode()
        members += [(f"{record['x']}.png", IMAGES[record["x"]]), (f"{record['x']}.json", content)]
    write_tar(folder / f"{name}.tar", members)


SCHEMA = pyarrow.schema(
    {
        "image": pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}),
        "caption": pyarrow.string(),
        "x": pyarrow.int64(),
    }
)
KINDS = {"jsonl": write_lines, "parquet": write_table, "tar": write_members}
GROUPS = {"row_group_size": 4}


@pytest.fixture(params=["jsonl 1", "jsonl 3", "parquet 1", "parquet 3", "parquet groups", "tar 1", "tar 3"])
def source(request, tmp_path):
    """The pattern of a source of `ROWS` rows in one file or three."""
    kind, files = request.param.split()
    folder = tmp_path / "source"
    folder.mkdir()
    options = GROUPS if files == "groups" else {}
    number = 3 if files == "3" else 1
    for part in range(number):
        KINDS[kind](folder, f"part{part}", *rows_of_shard(ROWS, (part + 1, number)), **options)
    return f"{folder}/*.{kind}"


def opened(*paths):
    return open_mixture([{"data": str(path), "name": f"s{number}"} for number, path in enumerate(paths)], "quota")


def records(folder):
    """The records of the files in a folder, in the order of the files' names."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".parquet", ".jsonl"))
    found = []
    for path in files:
        if path.suffix == ".parquet":
            found += pyarrow.parquet.read_table(path).to_pylist()
        elif path.name != "skipped.jsonl":
            found += map(json.loads, path.read_text().splitlines())
    return found


def without_files(sources):
    """Counts without the number of parquet files."""
    return [{key: value for key, value in each.items() if key != "shards"} for each in sources]


@pytest.mark.parametrize(("form", "total"), [("parquet", 1), ("parquet", 3), ("parquet", ROWS + 5), ("llava", 3)])
def test_all_shards_have_the_rows_and_counts_of_one_preparation(form, total, source, tmp_path):
    data = opened(source)
    expected = prepare(data, tmp_path / "one", form=form)
    order = [*range(2, total + 1), 1]
    for number in order:
        facts = prepare(data, tmp_path / "shards", form=form, shard=(number, total))
        assert facts["missing"] == [
            each for each in range(1, total + 1) if each not in order[: order.index(number) + 1]
        ]
        (written,) = facts["sources"]
        first, last = rows_of_shard(ROWS, (number, total))
        bad = sum(first <= row < last for row in BAD)
        assert (written["records"], written["left_out"]) == (last - first, bad)
    assert records(tmp_path / "shards") == records(tmp_path / "one") and len(records(tmp_path / "one")) == ROWS - 2
    assert without_files(facts["all"]) == without_files(expected["sources"])
    assert json.loads(json.dumps(facts)) == facts
    skipped = [(tmp_path / name / "skipped.jsonl").read_bytes() for name in ("one", "shards")]
    assert skipped[0] == skipped[1] and skipped[0].count(b"\n") == len(BAD)
    read = [list(open_mixture([{"data": str(tmp_path / name)}], "quota").samples()) for name in ("one", "shards")]
    assert [shown(sample) for _, sample in read[0]] == [shown(sample) for _, sample in read[1]]
    if form == "llava":
        names = [sorted(path.name for path in (tmp_path / name / "images").iterdir()) for name in ("one", "shards")]
        assert names[0] == names[1] and len(names[0]) == 3


def shown(sample):
    """The content of a sample, without the names of files."""
    images = [(image.content or Path(image.path).read_bytes()) for image in sample.images]
    return [
        (each.role, [part.text for part in each.parts if isinstance(part, TextPart)]) for each in sample.messages
    ], images


def content_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("form", ["parquet", "llava"])
def test_a_shard_does_not_depend_on_the_others_or_on_its_place(form, tmp_path):
    """Two machines mount the data at different paths."""
    contents = []
    for name, order in (("a", [1, 2, 3]), ("b", [3, 2, 1])):
        (tmp_path / name).mkdir()
        write_lines(tmp_path / name, "rows", 0, ROWS)
        for number in order:
            data = open_mixture([{"data": str(tmp_path / name / "rows.jsonl")}], "quota")
            prepare(data, tmp_path / name / "out", form=form, shard=(number, 3))
        contents.append(content_of(tmp_path / name / "out"))
    assert contents[0] == contents[1] and len(contents[0]) > 8
    alone = tmp_path / "alone"
    prepare(data, alone, form=form, shard=(2, 3))
    own = {path: content for path, content in content_of(alone).items() if "00002-of-00003" in path.name}
    assert own == {path: contents[0][path] for path in own} and len(own) == 3


def memory(number=ROWS, fingerprint="f"):
    turns = [
        Conversation(
            f"m:{row}",
            (Message("user", (ImagePart(IMAGES[0]), TextPart(f"{row}?"))), Message("assistant", (TextPart("x"),))),
        )
        for row in range(number)
    ]
    return Data(
        [MemorySource("m", [(each.sample_id, each) for each in turns], fingerprint=fingerprint)], [None], [1.0]
    )


def test_a_complete_shard_is_not_written_again(tmp_path):
    first = prepare(memory(), tmp_path / "out", shard=(2, 3))
    before = content_of(tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    read = []
    again = prepare(memory(), tmp_path / "out", shard=(2, 3), advance=lambda: read.append(1))
    assert (first["was_complete"], again["was_complete"], read) == (False, True, [])
    assert {**again, "was_complete": False} == first and "all" not in again
    assert content_of(tmp_path / "out") == before
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == times


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shard": (1, 4)}, r"shards was 3 and is now 4"),
        ({"rows_per_shard": 5}, r"rows_per_shard was null and is now 5"),
        ({"verify_images": True}, r"verify_images was false and is now true"),
        ({"form": "llava"}, r'format was "parquet" and is now "llava"'),
        ({"data": memory(fingerprint="other")}, r"the data has changed since shards were written"),
        ({"shard": None}, "is there already"),
    ],
)
def test_a_shard_of_other_data_or_options_is_refused(changes, message, tmp_path):
    prepare(memory(), tmp_path / "out", shard=(2, 3))
    before = content_of(tmp_path / "out")
    keys = {"data": memory(), "shard": (1, 3), **changes}
    with pytest.raises((ValueError, FileExistsError), match=message):
        prepare(keys.pop("data"), tmp_path / "out", **keys)
    assert content_of(tmp_path / "out") == before


def test_filters_and_folders_of_images_are_options(tmp_path):
    write_lines(tmp_path, "rows", 0, ROWS)
    entry = {"data": str(tmp_path / "rows.jsonl")}
    prepare(open_mixture([entry], "quota"), tmp_path / "out", shard=(2, 3))
    for key, value in (("filters", {"max_turns": 3}), ("image_folder", str(tmp_path / "other"))):
        with pytest.raises(ValueError, match=f"other data or options .{key} was "):
            prepare(open_mixture([{**entry, key: value}], "quota"), tmp_path / "out", shard=(1, 3))


def test_settings_of_a_process_that_started_at_the_same_time_are_noticed(tmp_path):
    """Both find an empty folder. The first to finish is not complete if the other data won."""
    settings = tmp_path / "out" / "shards" / "preparation.json"

    def overwritten():
        settings.write_text(json.dumps({**json.loads(settings.read_text()), "fingerprint": "other"}))

    with pytest.raises(ValueError, match="the data has changed"):
        prepare(memory(), tmp_path / "out", shard=(1, 3), advance=overwritten)
    assert list(content_of(tmp_path / "out")) == [settings.relative_to(tmp_path / "out")]


@pytest.mark.parametrize("shard", [(0, 3), (4, 3), (1, 100_000)])
def test_a_shard_that_does_not_exist_is_refused(shard, tmp_path):
    with pytest.raises(ValueError, match=f"the shard is {shard[0]} of {shard[1]}"):
        prepare(memory(), tmp_path / "out", shard=shard)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="out is there already"):
        prepare(memory(), tmp_path / "out", shard=(1, 3))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def prepared_until_killed(output, form, row):
    def advance():
        rows.append(1)
        if len(rows) == row:
            os.kill(os.getpid(), signal.SIGKILL)

    rows = []
    prepare(memory(), output, form=form, shard=(2, 3), advance=advance)


@pytest.mark.parametrize("form", ["parquet", "llava"])
@pytest.mark.parametrize("row", [1, 3])
def test_a_killed_shard_is_missing_until_it_is_prepared_again(form, row, tmp_path):
    output = tmp_path / "out"
    for number in (1, 3):
        prepare(memory(), output, form=form, shard=(number, 3))
    killed = Forked(prepared_until_killed, tmp_path / "log.txt", output, form, row)
    assert killed.wait()[0] == -signal.SIGKILL
    assert not [path for path in output.rglob("*00002*") if ".shard-" not in str(path)]
    missing = "is incomplete: shard 2 of 3 is missing: run the same smol-hf data prepare with --shard 2/3"
    with pytest.raises(SampleError, match=missing):
        open_mixture([{"data": str(output)}], "quota")
    facts = prepare(memory(), output, form=form, shard=(2, 3))
    assert not facts["was_complete"] and not facts["missing"]
    prepare(memory(), tmp_path / "one", form=form)
    assert records(output) == records(tmp_path / "one")
    assert not list(output.glob(".*")), "what the killed process left is removed with the last shard"


def prepared_slowly(output, form, started, finished):
    """Prepare shard 2, and wait before its last row until another process has prepared it."""

    def advance():
        rows.append(1)
        if len(rows) == 3:
            started.touch()
            while not finished.exists():
                time.sleep(0.01)

    rows = []
    prepare(memory(), output, form=form, shard=(2, 3), advance=advance)


@pytest.mark.parametrize("form", ["parquet", "llava"])
def test_a_shard_may_be_prepared_twice_at_the_same_time(form, tmp_path):
    output, started, finished = tmp_path / "out", tmp_path / "started", tmp_path / "finished"
    for number in (1, 3):
        prepare(memory(), output, form=form, shard=(number, 3))
    slow = Forked(prepared_slowly, tmp_path / "log.txt", output, form, started, finished)
    try:
        while not started.exists():
            assert slow.process.is_alive()
            time.sleep(0.01)
        assert not prepare(memory(), output, form=form, shard=(2, 3))["missing"]
    finally:
        finished.touch()
        assert slow.wait() == (0, "")
    prepare(memory(), tmp_path / "one", form=form)
    assert records(output) == records(tmp_path / "one") and not list(output.glob(".*"))


def test_a_process_may_start_while_another_makes_the_folder(monkeypatch, tmp_path):
    refuse_full = shards.refuse_full

    def refuse_later(folder, *own):
        (folder / "shards").mkdir(parents=True)  # by the other process
        refuse_full(folder, *own)

    monkeypatch.setattr(shards, "refuse_full", refuse_later)
    assert not prepare(memory(), tmp_path / "out", shard=(1, 1))["missing"]


def test_shards_on_a_disk_without_locks(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise NotImplementedError("flock")

    monkeypatch.setattr(shards, "lock_of", refuse)
    (tmp_path / "out").mkdir()
    for number in (1, 2):
        facts = prepare(memory(), tmp_path / "out", shard=(number, 2))
    assert not facts["missing"] and not list((tmp_path / "out").glob(".*"))


def test_files_of_a_shard_that_was_killed_before_its_record_are_replaced(tmp_path):
    prepare(memory(), tmp_path / "out", shard=(1, 1))
    before = content_of(tmp_path / "out")
    (tmp_path / "out" / "shards" / "00001-of-00001.json").unlink()
    (tmp_path / "out" / "shard-00001-of-00001-train-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(SampleError, match="shard 1 of 1 is missing"):
        open_mixture([{"data": str(tmp_path / "out")}], "quota")
    prepare(memory(), tmp_path / "out", shard=(1, 1))
    assert content_of(tmp_path / "out") == before


def test_missing_shards_of_many_are_named(tmp_path):
    prepare(memory(), tmp_path / "out", shard=(2, 40))
    with pytest.raises(SampleError, match=r"shards 1, 3, 4, .*, 11, … of 40 are missing: .* --shard 1/40 and the o"):
        open_mixture([{"data": str(tmp_path / "out")}], "quota")


def test_each_source_of_a_mixture_is_a_folder_of_shards(tmp_path):
    for name, first in (("a", 0), ("b", 5)):
        (tmp_path / name).mkdir()
        write_lines(tmp_path / name, name, first, ROWS)
    data = opened(tmp_path / "a" / "a.jsonl", tmp_path / "b" / "b.jsonl")
    expected = prepare(data, tmp_path / "one", form="llava")
    for number in (2, 1):
        facts = prepare(data, tmp_path / "out", form="llava", shard=(number, 2))
    assert facts["all"] == expected["sources"] and [each["folder"] for each in facts["all"]] == ["s0", "s1"]
    assert (tmp_path / "out" / "skipped.jsonl").read_bytes() == (tmp_path / "one" / "skipped.jsonl").read_bytes()
    read = open_mixture([{"data": str(tmp_path / "out" / name)} for name in ("s0", "s1")], "quota")
    assert len(list(read.conversations())) == sum(each["written"] for each in expected["sources"])
    (tmp_path / "out" / "s1" / "shards" / "00001-of-00002.json").unlink()
    assert prepare(data, tmp_path / "out", form="llava", shard=(2, 2))["missing"] == [1]
    assert not prepare(data, tmp_path / "out", form="llava", shard=(1, 2))["missing"]


def test_shards_without_a_usable_sample(tmp_path):
    rows = [(f"m:{row}", SampleError(f"m:{row}", "is bad")) for row in range(4)]
    data = Data([MemorySource("m", rows)], [None], [1.0])
    assert prepare(data, tmp_path / "out", shard=(1, 2))["missing"] == [2]
    for _ in range(2):
        with pytest.raises(SampleError, match="none of 4 samples can be used; the first: m:0: is bad"):
            prepare(data, tmp_path / "out", shard=(2, 2))


def test_datasets_reads_the_folder(tmp_path):
    for number in (1, 2):
        prepare(memory(), tmp_path / "out", shard=(number, 2))
    rows = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["id"] == [f"m:{row}" for row in range(ROWS)]


def test_skipped_samples_are_not_kept_in_memory(tmp_path):
    alive, most = weakref.WeakSet(), []

    def make(row):
        fault = SampleError(f"m:{row}", "is bad") if row else memory(1).sources[0].rows[0][1]
        alive.add(fault)
        return f"m:{row}", fault

    source = MemorySource("m", range(300), fingerprint="f")
    source.make = make
    facts = prepare(Data([source], [None], [1.0]), tmp_path / "out", advance=lambda: most.append(len(alive)))
    assert facts["sources"][0]["left_out"] == 299 and max(most) <= 5


def test_a_remote_folder_of_shards(tmp_path):
    system = fsspec.filesystem("memory")
    for number in (1, 2):
        prepare(memory(), tmp_path / "out", shard=(number, 2))
        system.put(str(tmp_path / "out"), f"/shards{number}", recursive=True)
    with pytest.raises(SampleError, match="memory://shards1 is incomplete: shard 2 of 2 is missing"):
        open_mixture([{"data": "memory://shards1"}], "quota")
    system.put(str(tmp_path / "out"), "/shards3", recursive=True)
    (file,) = system.glob("/shards3/shard-00002-of-00002-*")
    system.pipe(file, b"PAR1")
    with pytest.raises(SampleError, match=r"shard 2 of 2 is missing .its file memory://.* has 4 bytes instead of"):
        open_mixture([{"data": "memory://shards3"}], "quota")
    read = open_mixture([{"data": "memory://shards2"}], "quota")
    assert [shown(each) for each in read.conversations()] == [shown(each) for each in memory().conversations()]


def test_pretraining_reads_shards_of_texts(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": f"Text {row}."}) + "\n" for row in range(7)))
    data = open_mixture([{"data": str(tmp_path / "rows.jsonl")}], "quota")
    prepare(data, tmp_path / "out", shard=(2, 2))
    with pytest.raises(FileNotFoundError, match="shard 1 of 2 is missing"):
        open_documents(str(tmp_path / "out"))
    prepare(data, tmp_path / "out", shard=(1, 2))
    texts = ["".join(document.chunks) for document in open_documents(str(tmp_path / "out"))]
    assert texts == [f"Text {row}." for row in range(7)]
