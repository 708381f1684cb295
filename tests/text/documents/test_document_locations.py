"""Locations of documents: errors, datasets of the Hub, and the memory that large files need."""

import hashlib
import json
import os
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest
from document_files import write, write_records
from servers import Hub, serve

from smol_hf.data.conversation import SampleError
from smol_hf.text.documents.readers import open_documents


@pytest.mark.parametrize(
    ("files", "keys", "error", "message"),
    [
        ({"a.txt": ""}, {}, SampleError, "a.txt: is empty"),
        ({"all/a.txt": "", "all/b.txt": ""}, {}, SampleError, "all: holds only empty files"),
        ({"all/": ""}, {}, FileNotFoundError, "the data folder .*all holds no files"),
        ({}, {"location": "none.txt"}, FileNotFoundError, "the data file none.txt does not exist"),
        ({}, {"location": "all/*.txt"}, FileNotFoundError, r"there is no data file all/\*.txt"),
        ({"a.txt.gz": "x"}, {}, SampleError, "a.txt.gz: is compressed: uncompress it"),
        ({"a.jsonl.zst": "x"}, {}, SampleError, "a.jsonl.zst: is compressed: uncompress it"),
        ({"all/b.txt": "x", "all/in/a.jsonl": "{}"}, {}, ValueError,
         r"holds text \(b.txt\) and records \(a.jsonl\): .* all/\*.jsonl"),
        ({"all/b.parquet": "x", "all/a.jsonl": "{}"}, {}, ValueError, "files of several kinds"),
        ({"a.tar": ""}, {}, SampleError, "a.tar"),
        ({"a.txt": "x"}, {"text_key": "content"}, ValueError, r"text_key is for records .* a.txt is text"),
        ({"a.jsonl": "{}"}, {"separator": "x"}, ValueError, "document_separator is for text files, but a.jsonl"),
        ({"a.txt": "x"}, {"separator": ""}, ValueError, "document_separator is empty"),
        ({"a.txt": "x"}, {"split": "train"}, ValueError, "split belong to a dataset of the Hub, and a.txt names fil"),
        ({"a.jsonl": ""}, {}, SampleError, "a.jsonl: holds no records"),
        ({"a.json": "[]"}, {}, SampleError, "a.json: holds no records"),
        ({"a.json": "{}"}, {}, SampleError, "a .json data file holds one array"),
        ({"a.parquet": "none"}, {}, SampleError, "a.parquet: not readable as parquet"),
    ],
)  # fmt: skip
def test_what_cannot_be_opened_says_why(files, keys, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in files.items():
        if name.endswith("/"):
            (tmp_path / name).mkdir()
        else:
            write(tmp_path / name, content)
    location = keys.pop("location", next(iter(files), "").partition("/")[0])
    with pytest.raises(error, match=message):
        open_documents(location, **keys)


CARD = """---
configs:
- config_name: web
  default: true
  data_files:
  - {split: train, path: web/train-*}
  - {split: validation, path: web/held-*}
- config_name: books
  data_files: "books/*.txt"
---
"""

# What a child process does with a list of calls: one line of JSON for each.
CHILD = """
import json, sys
from smol_hf.text.documents.readers import open_documents
for keys in json.loads(sys.argv[1]):
    try:
        documents = open_documents(**keys)
        found = [(each.where, "".join(each.chunks)) for each in documents]
        answer = {"found": found, "count": documents.count(), "remote": documents.remote, "name": documents.name,
                  "revision": documents.revision, "fingerprint": documents.fingerprint}
    except (ValueError, OSError) as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer))
"""


@pytest.mark.slow
def test_datasets_of_the_hub_are_read_at_one_commit(tmp_path):
    place = tmp_path / "corpus"
    write(place / "README.md", CARD)
    for name, first in (("train-0", 0), ("train-1", 3), ("held-0", 6)):
        write_records(place / "web" / f"{name}.parquet", [{"text": f"page {first + row}"} for row in range(3)])
    write(place / "books" / "a.txt", "A<s>B")
    hub = Hub({("datasets/me/corpus", "main"): place, ("datasets/me/corpus", "old"): place})
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
    environment = {key: value for key, value in environment.items() if key not in ("HF_TOKEN", "HF_HUB_OFFLINE")}
    calls = [
        {"location": "me/corpus"},
        {"location": "me/corpus", "download": True},
        {"location": "me/corpus", "split": "validation", "revision": "old"},
        {"location": "me/corpus", "config": "books", "separator": "<s>"},
        {"location": "hf://datasets/me/corpus/books/a.txt"},
        {"location": "me/corpus", "text_key": "txt"},
        {"location": "me/corpus", "config": "books", "text_key": "txt"},
        {"location": "me/corpus", "separator": "<s>"},
        {"location": "me/none"},
    ]
    with serve(hub) as address:
        finished = subprocess.run(
            [sys.executable, "-c", CHILD, json.dumps(calls)],
            env={**environment, "HF_ENDPOINT": address}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    streamed, fetched, held, books, file, *refused = map(json.loads, finished.stdout.splitlines())
    names = [f"me/corpus/web/train-{number // 3}.parquet:{number % 3 + 1}" for number in range(6)]
    assert streamed["found"] == [[where, f"page {number}"] for number, where in enumerate(names)]
    assert streamed["remote"] and not fetched["remote"] and fetched["found"] == streamed["found"]
    assert streamed["count"] == 6 and streamed["name"] == "me/corpus/web"
    sha = [hashlib.sha1(f"datasets/me/corpus@{branch}".encode()).hexdigest() for branch in ("main", "old")]
    assert streamed["revision"] == fetched["revision"] == books["revision"] == sha[0]
    assert held["revision"] == sha[1] and [text for _, text in held["found"]] == ["page 6", "page 7", "page 8"]
    assert books["found"] == [["me/corpus/books/a.txt:1", "A"], ["me/corpus/books/a.txt:2", "B"]] and books["remote"]
    assert file["found"] == [["a.txt", "A<s>B"]]
    for answer, message in zip(
        refused,
        ["SampleError: me/corpus/web/train-0.parquet: has no column 'txt': did you mean 'text'?",
         "ValueError: text_key is for records", "ValueError: document_separator is for text files",
         "FileNotFoundError: there is no dataset me/none"],
    ):  # fmt: skip
        assert message in answer["error"]


# Reads all documents of some files and prints their characters and by how much the process grew.
MEASURE = """
import resource, sys
import pyarrow.parquet
from smol_hf.text.documents.readers import open_documents
grown = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
for path in sys.argv[1:]:
    before = grown()
    print(sum(len(piece) for each in open_documents(path) for piece in each.chunks), grown() - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path):
    line, rows = "abcdefghi " * 199 + "abcdefghi\n", 100_000
    text, parquet = tmp_path / "large.txt", tmp_path / "large.parquet"
    with text.open("w") as file:
        for _ in range(100):
            file.write(line * (rows // 100))
    table = pyarrow.table({"text": pyarrow.repeat(line, rows), "id": pyarrow.repeat(1, rows)})
    pyarrow.parquet.write_table(table, parquet, row_group_size=rows, use_dictionary=False, compression="none")
    assert pyarrow.parquet.ParquetFile(parquet).num_row_groups == 1
    assert min(text.stat().st_size, parquet.stat().st_size) >= 200_000_000
    command = [sys.executable, "-c", MEASURE, str(text), str(parquet)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300)
    text.unlink(), parquet.unlink()
    assert finished.returncode == 0, finished.stderr
    for printed in finished.stdout.splitlines():
        characters, grown = map(int, printed.split())
        assert characters == 2000 * rows and grown < 150_000_000
