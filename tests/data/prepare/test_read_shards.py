"""A folder of shards is read as one source; missing shards are named."""

import json

import fsspec
import pytest
from datasets import load_dataset
from prepared_shards import ROWS, memory, shown

from smol_hf.data.conversation import SampleError
from smol_hf.data.mixture.mixture import open_mixture
from smol_hf.data.prepare import prepare
from smol_hf.text.documents.readers import open_documents


def test_missing_shards_of_many_are_named(tmp_path):
    prepare(memory(), tmp_path / "out", shard=(2, 40))
    with pytest.raises(SampleError, match=r"shards 1, 3, 4, .*, 11, … of 40 are missing: .* --shard 1/40 and the o"):
        open_mixture([{"data": str(tmp_path / "out")}], "quota")


def test_datasets_reads_the_folder(tmp_path):
    for number in (1, 2):
        prepare(memory(), tmp_path / "out", shard=(number, 2))
    rows = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["id"] == [f"m:{row}" for row in range(ROWS)]


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
