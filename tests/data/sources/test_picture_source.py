"""Folders of pictures: each has its caption, or is named."""

import json

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from smol_hf.data.conversation import SampleError
from smol_hf.data.sources.files import list_folder
from smol_hf.data.sources.image_folder_source import ImageFolderSource


@pytest.fixture
def folder(tmp_path):
    for name in ("2.png", "10.png", "deep/a.jpg", ".hidden/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def rows(folder):
    source = ImageFolderSource("x", str(folder), list_folder(str(folder)))
    found = [row for block in range(len(source.block_sizes)) for row in source.read_block(block)]
    good = {where: record for where, record in found if not isinstance(record, SampleError)}
    assert len({where for where, _ in found}) == len(found), "duplicate name"
    return good, {where: record.problem for where, record in found if isinstance(record, SampleError)}


METADATA = [
    {"file_name": "2.png", "caption": "two, and a\nbreak"},
    {"file_name": "deep/a.jpg", "caption": "12"},
    {"file_name": "gone.png", "caption": "none"},
    {"file_name": "../2.png", "caption": "outside"},
    {"caption": "nothing"},
]


def write_metadata(folder, kind):
    path = folder / f"metadata.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in METADATA))
    elif kind == "csv":
        lines = [f'{row.get("file_name", "")},"{row["caption"]}"\n' for row in METADATA]
        path.write_text("file_name,caption\n" + "".join(lines))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(METADATA), path)
    return path.name


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_metadata_say_what_each_picture_is(kind, folder):
    name = write_metadata(folder, kind)
    good, faults = rows(folder)
    assert good == {
        f"{name}:1": {"caption": "two, and a\nbreak", "image": "2.png"},
        f"{name}:2": {"caption": "12", "image": "deep/a.jpg"},
    }
    assert "names the image gone.png" in faults.pop(f"{name}:3")
    assert "names the image ../2.png" in faults.pop(f"{name}:4")
    assert "lacks the field 'file_name'" in faults.pop(f"{name}:5")
    assert list(faults) == ["10.png"] and f"no row of {name} names this image" in faults["10.png"]


def test_metadata_of_several_pictures_and_of_deeper_folders(folder):
    (folder / "metadata.jsonl").write_text(
        '\n{"file_names": ["10.png", "2.png"], "conversations": []}\n{oops\n', encoding="utf-8"
    )
    (folder / "deep" / "metadata.csv").write_text("file_name,text\na.jpg,deep\n")
    good, faults = rows(folder)
    assert good == {
        "metadata.jsonl:2": {"conversations": [], "images": ["10.png", "2.png"]},
        "deep/metadata.csv:1": {"text": "deep", "image": "deep/a.jpg"},
    }
    assert list(faults) == ["metadata.jsonl:3"]


def test_texts_beside_pictures(folder):
    (folder / "2.txt").write_text("two\n")
    (folder / "deep" / "a.json").write_text('{"conversations": []}')
    (folder / "lost.txt").write_text("no picture")
    good, faults = rows(folder)
    assert good == {"2.png": {"caption": "two", "image": "2.png"},
                    "deep/a.jpg": {"conversations": [], "image": "deep/a.jpg"}}  # fmt: skip
    assert "write it into 10.txt" in faults["10.png"] and "no image has this name" in faults["lost.txt"]
    (folder / "2.jpg").write_bytes(b"another")
    assert "share one text" in rows(folder)[1]["2.jpg"]


def test_pictures_elsewhere_come_with_their_rows():
    memory = fsspec.filesystem("memory")
    memory.pipe({"/p/a.png": b"picture", "/p/a.txt": b"A caption.", "/p/b.png": b"other"})
    source = ImageFolderSource("x", "memory:///p", list_folder("memory://p"))
    source.prefix = "s/"
    assert source.read_block(0) == [
        ("s/a.png", {"caption": "A caption.", "image": {"bytes": b"picture", "path": "a.png"}})
    ]
    ((where, fault),) = source.read_block(1)
    assert where == fault.where == "s/b.png"
    memory.rm("/p", recursive=True)


def test_the_fingerprint_knows_captions_and_pictures(folder):
    prints = []
    for name, content in (("2.txt", "two"), ("2.txt", "too"), ("10.png", "longer than it was")):
        (folder / name).write_text(content)
        prints.append(ImageFolderSource("x", str(folder), list_folder(str(folder))).fingerprint)
    assert len(set(prints)) == 3


@pytest.mark.parametrize("key", ["__texts__", "__pictures__"])
def test_a_strangers_keys_are_ordinary_data(key, folder):
    records = [{"file_name": name, "caption": "x", key: ["10.png"]} for name in ("2.png", "10.png", "deep/a.jpg")]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    good, faults = rows(folder)
    assert faults == {}
    assert good["metadata.jsonl:1"] == {"caption": "x", key: ["10.png"], "image": "2.png"}


def test_a_date_that_python_does_not_know_costs_its_field_alone(folder):
    names = ["2.png", "10.png", "deep/a.jpg"]
    times = pyarrow.array([0, 2**58, 0], pyarrow.timestamp("us"))
    table = pyarrow.table({"file_name": names, "caption": names, "when": times})
    pyarrow.parquet.write_table(table, folder / "metadata.parquet")
    good, faults = rows(folder)
    assert faults == {} and [record["image"] for record in good.values()] == names
