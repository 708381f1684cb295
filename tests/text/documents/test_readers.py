"""Documents out of text files, folders, records and datasets of the Hub: whole, in order, in little memory, and with
the place of whatever is none."""

import codecs
import gzip
import hashlib
import json
import os
import random
import re
import subprocess
import sys

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from servers import Hub, serve

from smol_hf.data.conversation import SampleError
from smol_hf.data.sources import fingerprints, json_source
from smol_hf.text.documents import document, plain_text, records, texts
from smol_hf.text.documents.readers import CHUNK, open_documents

TEXTS = ["One.\r\nTwo: é 漢字 🙂\n", "", "x" * 3000, "  \n", 'a "quoted" \\ \t text\x7f']


@pytest.fixture
def memory():
    """fsspec's files in memory: as far away as a bucket, and nothing is asked of a network."""
    system = fsspec.filesystem("memory")
    yield system
    system.rm("/", recursive=True)


@pytest.fixture
def little_pieces(monkeypatch):
    """Pieces of seven characters, so that every boundary falls somewhere."""
    for module in (document, plain_text, records):
        monkeypatch.setattr(module, "CHUNK", 7)
    monkeypatch.setattr(records, "BATCH", 500)
    return 7


def read(documents):
    """[(where, text)] of each document; of an error, [where, what it says]."""
    found = []
    for each in documents:
        if isinstance(each, SampleError):
            found.append((each.where, f"error: {each.problem}"))
            continue
        pieces = []
        try:
            for piece in each.chunks:
                assert 0 < len(piece) <= CHUNK
                pieces.append(piece)
        except SampleError as error:
            assert error.where == each.where
            pieces = [f"error: {error.problem}"]
        found.append((each.where, "".join(pieces)))
    assert len(found) == documents.count()
    return found


def texts_of(documents):
    return [text for _, text in read(documents)]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


# -- text files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["book.txt", "book.md", "notes.text", "code.py", "no_ending", "odd.xyz"])
def test_a_file_of_any_other_ending_is_one_document(name, tmp_path, little_pieces):
    path = write(tmp_path / name, TEXTS[0])
    assert read(open_documents(path)) == [(name, TEXTS[0])]
    assert read(open_documents(f"file://{path}")) == [(name, TEXTS[0])]
    (only,) = open_documents(path)
    assert max(map(len, only.chunks)) <= little_pieces
    assert "".join(only.chunks) == TEXTS[0]  # read anew


def test_pieces_of_any_size_give_the_text_and_its_characters_whole(tmp_path, monkeypatch):
    source = random.Random(0)
    text = "".join(source.choice(["a", "é", "漢", "🙂", "\n", "\r\n", "\ufeff"]) for _ in range(500))
    path = write(tmp_path / "a.txt", codecs.BOM_UTF8 + text.encode())
    for size in (3, 4, 5, 11, 64, 5000):  # 3: the mark itself is one piece
        monkeypatch.setattr(plain_text, "CHUNK", size)
        (only,) = open_documents(path)
        pieces = list(only.chunks)
        assert "".join(pieces) == text and all(0 < len(piece) <= size for piece in pieces)


def test_a_folder_is_one_document_a_file_with_those_of_its_sub_folders(tmp_path):
    for name, text in {"b.txt": "B", "a.md": "A", "deep/er/c.py": "C", "empty.txt": "", ".hidden": "no"}.items():
        write(tmp_path / "notes" / name, text)
    write(tmp_path / "notes" / "skipped.jsonl", "{}")  # a report of ours
    folder = open_documents(str(tmp_path / "notes"))
    assert folder.name == "notes" and not folder.remote and folder.revision is None
    assert read(folder) == [
        ("notes/a.md", "A"), ("notes/b.txt", "B"), ("notes/deep/er/c.py", "C"), ("notes/empty.txt", ""),
    ]  # fmt: skip
    assert texts_of(open_documents(str(tmp_path / "notes" / "*.txt"))) == ["B", ""]
    assert texts_of(open_documents(str(tmp_path / "notes" / "**" / "*.{md,py}"))) == ["A", "C"]


def test_a_separator_splits_as_str_split_does_wherever_pieces_meet(tmp_path, monkeypatch):
    source = random.Random(1)
    for separator in ("<|endoftext|>", "\n\n", "aa", "é🙂"):
        for size in (3, 7, 4096):
            monkeypatch.setattr(plain_text, "CHUNK", size)
            monkeypatch.setattr(document, "CHUNK", size)
            text = "".join(source.choice([separator, separator[:1], separator[1:], "a", "\n", "é"]) for _ in range(60))
            path = write(tmp_path / "book.txt", text + "end")
            documents = open_documents(path, separator=separator)
            expected = (text + "end").split(separator)
            assert read(documents) == [(f"book.txt:{number}", part) for number, part in enumerate(expected, 1)]
            for each in documents:
                assert all(len(piece) <= size for piece in each.chunks)


def test_a_separator_may_end_the_file_and_documents_may_be_empty(tmp_path):
    path = write(tmp_path / "a.txt", "one<s><s>three<s>")
    assert texts_of(open_documents(path, separator="<s>")) == ["one", "", "three"]
    write(tmp_path / "b.txt", "")
    assert read(open_documents(str(tmp_path), separator="<s>"))[-1] == (f"{tmp_path.name}/b.txt:1", "")


def test_documents_of_one_file_are_read_in_their_order(tmp_path, little_pieces):
    path = write(tmp_path / "a.txt", "first and more<s>second<s>third")
    documents = iter(open_documents(path, separator="<s>"))
    first = next(documents)
    assert "".join(next(documents).chunks) == "second"
    with pytest.raises(RuntimeError, match=r"a\.txt:1 was skipped"):
        list(first.chunks)


def test_text_elsewhere_reads_as_here(memory, tmp_path, little_pieces):
    for name, text in {"a.txt": TEXTS[0], "in/b.txt": TEXTS[2]}.items():
        write(tmp_path / "corpus" / name, text)
        memory.pipe(f"/corpus/{name}", text.encode())
    here, there = open_documents(str(tmp_path / "corpus")), open_documents("memory://corpus")
    assert read(there) == read(here) == [("corpus/a.txt", TEXTS[0]), ("corpus/in/b.txt", TEXTS[2])]
    assert there.remote and not here.remote
    assert texts_of(open_documents("memory://corpus/*.txt")) == TEXTS[:1]
    lines = read(open_documents("memory://corpus/a.txt", separator="\n"))
    assert lines == [("a.txt:1", "One.\r"), ("a.txt:2", TEXTS[0][6:-1])]
    with pytest.raises(FileNotFoundError, match=r"memory://corpus/none.txt does not exist"):
        open_documents("memory://corpus/none.txt")


def test_a_fingerprint_is_of_the_content_and_how_it_is_read(tmp_path, memory, monkeypatch):
    write(tmp_path / "one" / "a.txt", "A<s>B")
    write(tmp_path / "one" / "b.txt", "C")
    write(tmp_path / "two" / "a.txt", "A<s>B")
    write(tmp_path / "two" / "b.txt", "C")
    os.utime(tmp_path / "two" / "a.txt", (1, 1))
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    same = open_documents(one).fingerprint
    assert open_documents(two).fingerprint == same != open_documents(one, separator="<s>").fingerprint
    monkeypatch.setattr(fingerprints, "HASHED_WHOLE", 0)
    monkeypatch.setattr(texts, "ENDS", 1)
    large = open_documents(two).fingerprint
    assert large not in (same, open_documents(one).fingerprint)  # large files are known by their times as well
    write(tmp_path / "two" / "a.txt", "A<s>D")
    os.utime(tmp_path / "two" / "a.txt", (1, 1))
    assert open_documents(two).fingerprint != large
    memory.pipe("/x.txt", b"A")
    first = open_documents("memory://x.txt").fingerprint
    memory.pipe("/x.txt", b"B")
    assert open_documents("memory://x.txt").fingerprint != first
    monkeypatch.setattr(texts, "remote_fingerprint", lambda url: [1])  # a store that knows sizes alone
    second = open_documents("memory://x.txt").fingerprint
    memory.pipe("/x.txt", b"C")
    assert open_documents("memory://x.txt").fingerprint != second


# -- files that are not text

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
NOT_TEXT = {
    "latin": ("caf\xe9 au".encode("latin1"), r"not UTF-8: byte 0xe9 at byte 3 \(line 1\): .*iconv -f latin1 -t utf-8"),
    "late": (b"a\nb\n" * 100 + b"\xff", r"byte 0xff at byte 400 \(line 201\): invalid start byte"),
    "cut off": ("a\né".encode()[:-1], r"byte 0xc3 at byte 2 \(line 2\): unexpected end"),
    "surrogate": (b"ok\xed\xa0\x80", r"byte 0xed at byte 2"),
    "after a mark": (codecs.BOM_UTF8 + b"a\xe9", r"byte 0xe9 at byte 4 \(line 1\)"),
    "utf-16": ("text".encode("utf-16"), "is UTF-16 text instead of UTF-8: .*iconv -f utf-16 -t utf-8"),
    "utf-32": ("text".encode("utf-32"), "is UTF-32 text"),
    "nul": (b"a\nbc\0d", r"is binary or UTF-16: it has a NUL byte at byte 4 \(line 2\)"),
    "gzip": (gzip.compress(b"text"), "looks like a gzip archive"),
    "zip": (b"PK\x03\x04\x14\0\0\0", "looks like a zip archive"),
    "png": (PNG, "looks like a PNG image"),
    "parquet": (b"PAR1\x15\0\x15", "looks like a parquet file: give it the ending .parquet"),
    "elf": (b"\x7fELF\x02\x01\x01\0", "looks like an ELF program"),
    "pdf": (b"%PDF-1.7\nplain", "looks like a PDF"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NOT_TEXT)
def test_what_is_no_text_is_named_with_its_place(kind, tmp_path):
    content, message = NOT_TEXT[kind]
    path = write(tmp_path / "a.txt", content)
    for separator in (None, "<s>"):
        with pytest.raises(SampleError, match=rf"a\.txt(:1)?: .*{message}"):
            for each in open_documents(path, separator=separator):
                if isinstance(each, SampleError):
                    raise each
                "".join(each.chunks)
    for name in ("0", "z"):
        write(tmp_path / name, name)
    first, (where, problem), last = read(open_documents(str(tmp_path)))
    place = tmp_path.name
    assert (first, where, last) == ((f"{place}/0", "0"), f"{place}/a.txt", (f"{place}/z", "z"))
    assert re.search(message, problem) and problem.startswith("error: ")


def test_a_late_fault_is_of_the_document_that_it_stands_in(tmp_path, little_pieces):
    path = write(tmp_path / "a.txt", b"one<s>two and a long rest \xff of it<s>three")
    write(tmp_path / "b.txt", "fine")
    place = tmp_path.name
    found = read(open_documents(str(tmp_path), separator="<s>"))
    assert found[0] == (f"{place}/a.txt:1", "one") and found[2:] == [(f"{place}/b.txt:1", "fine")]
    assert found[1][0] == f"{place}/a.txt:2" and "byte 0xff at byte 26" in found[1][1]
    unread = list(open_documents(path, separator="<s>"))  # nobody reads the texts
    assert isinstance(unread[-1], SampleError) and unread[-1].where == "a.txt:2"


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
        ({"a.jsonl": "{}"}, {"separator": "x"}, ValueError, "separator is for text files, but a.jsonl holds rec"),
        ({"a.txt": "x"}, {"separator": ""}, ValueError, "separator is empty"),
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


def test_compressed_files_stand_in_their_place_among_texts(tmp_path):
    write(tmp_path / "all" / "a.txt", "A")
    write(tmp_path / "all" / "b.txt.gz", gzip.compress(b"B"))
    first, second = read(open_documents(str(tmp_path / "all")))
    assert first == ("all/a.txt", "A") and second[0] == "all/b.txt.gz" and "is compressed" in second[1]


# -- records ----------------------------------------------------------------------------------------------------------

KINDS = (".jsonl", ".json", ".parquet")


def write_records(path, rows, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)
        return str(path)
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    return write(path, "\n".join(lines) + "\n" if path.suffix == ".jsonl" else f"[{','.join(lines)}]")


@pytest.mark.parametrize("kind", KINDS)
def test_each_record_is_a_document(kind, tmp_path, memory, little_pieces, monkeypatch):
    monkeypatch.setattr(json_source, "BLOCK", 100)
    rows = [{"id": number, "body": text} for number, text in enumerate(TEXTS * 3)]
    path = write_records(tmp_path / f"a{kind}", rows, **({"row_group_size": 4} if kind == ".parquet" else {}))
    documents = open_documents(path, text_key="body")
    expected = [(f"a{kind}:{number}", text) for number, text in enumerate(TEXTS * 3, 1)]
    assert read(documents) == expected and documents.name == f"a{kind}"
    assert max(len(piece) for each in documents for piece in each.chunks) <= little_pieces
    memory.pipe(f"/in/a{kind}", (tmp_path / f"a{kind}").read_bytes())
    there = open_documents("memory://in", text_key="body")
    assert read(there) == expected and there.remote
    other = write_records(tmp_path / f"b{kind}", [{"body": "x", "text": "x"}] * 4)
    assert open_documents(other, text_key="body").fingerprint != open_documents(other).fingerprint
    write_records(tmp_path / "deep" / "er" / f"c{kind}", rows[:1])
    assert texts_of(open_documents(str(tmp_path), text_key="body")) == TEXTS * 3 + ["x"] * 4 + TEXTS[:1]
    assert texts_of(open_documents(str(tmp_path / f"b*{kind}"), text_key="body")) == ["x"] * 4


def test_a_row_that_is_no_document_gives_the_reason_in_its_place(tmp_path):
    lines = [
        '{"content": "x", "id": 1}', '{"text": ["a", "b"]}', '{"text": null}', '{"text": 7}', "", "[1]", "{",
        '{"text": "half \\ud83d of a pair"}', '{"text": "a whole \\ud83d\\ude00 pair"}', '{"texts": "near"}',
        '{"text": "a\\u0000b"}', '{}', "null", '{"\\ud83d": "x"}', '"\\ud83d"',
    ]  # fmt: skip
    path = write(tmp_path / "a.jsonl", "\n".join(lines))
    found = dict(read(open_documents(path)))
    assert len(found) == len(lines) - 1  # a blank line is no record
    for line, message in {
        1: "has no key 'text'.*it has content, id", 2: r"'text' is an array \(\['a', 'b'\]\)",
        3: "'text' is null", 4: r"'text' is int \(7\)", 6: "a record is a JSON object, not an array",
        7: "not valid JSON", 8: r"'text' holds \\ud83d, a lone surrogate",
        10: "no key 'text': did you mean 'texts'", 12: "it has none", 13: "not null",
        14: r"it has \\ud83d", 15: r"not str \(\\ud83d",
    }.items():  # fmt: skip
        assert re.search(f"error: .*{message}", found[f"a.jsonl:{line}"]), line
    assert found["a.jsonl:9"] == "a whole 😀 pair" and found["a.jsonl:11"] == "a\0b"


def test_parquet_columns_are_checked_and_their_faults_found(tmp_path):
    rows = [{"content": "a", "number": 1}]
    path = write_records(tmp_path / "a.parquet", rows)
    with pytest.raises(SampleError, match=r"a.parquet: has no column 'contents': did you mean 'content'\?"):
        open_documents(path, text_key="contents")
    with pytest.raises(SampleError, match=r"a\.parquet: its column 'number' holds int64, but a document is a string"):
        open_documents(path, text_key="number")
    large = pyarrow.table({"text": pyarrow.array(["a", None, "c"], pyarrow.large_string()).dictionary_encode()})
    pyarrow.parquet.write_table(large, tmp_path / "a.parquet")
    assert texts_of(open_documents(path))[1:] == ["error: 'text' is null, but a document is a string", "c"]
    offsets = pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0")
    bad = pyarrow.StringArray.from_buffers(2, offsets, pyarrow.py_buffer(b"a\xff"))
    pyarrow.parquet.write_table(pyarrow.table({"text": bad}), tmp_path / "a.parquet")
    first, second = texts_of(open_documents(path))
    assert first == "a" and "unreadable" in second and "0xff" in second
    pyarrow.parquet.write_table(
        pyarrow.table({"text": [str(number) * 50 for number in range(5000)]}), tmp_path / "a.parquet",
        row_group_size=2500, use_dictionary=False, compression="none", data_page_size=10_000,
    )  # fmt: skip
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    at = content.index(b"2000" * 50) - 30_000  # the header of a page before it
    content[at : at + 20_000] = b"\xff" * 20_000
    write(tmp_path / "a.parquet", bytes(content))
    found = read(open_documents(path))
    assert [where for where, _ in found] == [f"a.parquet:{row}" for row in range(1, 5001)]
    broken = [text.startswith("error: its row group is damaged") for _, text in found]
    assert broken == sorted(broken[:2500]) + [False] * 2500 and broken[2499] and not broken[0]


# -- datasets of the Hub ----------------------------------------------------------------------------------------------

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
         "ValueError: text_key is for records", "ValueError: separator is for text files",
         "FileNotFoundError: there is no dataset me/none"],
    ):  # fmt: skip
        assert message in answer["error"]


# -- memory -----------------------------------------------------------------------------------------------------------

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


def test_fields_that_are_not_read_are_known(tmp_path):
    rows = [{"text": "a", "id": 1, "url": "x", "score": None}, {"text": "b", "id": 2, "url": "y", "score": None}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert set(open_documents(str(tmp_path / "rows.jsonl")).ignored()) == {"url"}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert set(open_documents(str(tmp_path / "rows.parquet")).ignored()) == {"url", "score"}
