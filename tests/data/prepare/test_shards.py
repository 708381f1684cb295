"""Shards of a preparation have together the rows, files and counts of a preparation in one process."""

import json
import weakref

import pyarrow
import pyarrow.parquet
import pytest
from memory_source import MemorySource
from prepared_shards import IMAGES, ROWS, content_of, memory, records, shown
from shards import write_tar

from smol_hf.data.conversation import SampleError
from smol_hf.data.mixture.mixture import Data, open_mixture
from smol_hf.data.prepare import prepare
from smol_hf.data.prepare.shards import rows_of_shard

BAD = (4, 8)  # rows without a caption


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
