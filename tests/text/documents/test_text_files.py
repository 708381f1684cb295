"""Documents out of text files: complete, in order, in little memory, and with the place of whatever is none."""

import codecs
import gzip
import os
import random
import re

import pytest
from document_files import read, texts_of, write

from smol_hf.data.conversation import SampleError
from smol_hf.data.sources import fingerprints
from smol_hf.text.documents import document, plain_text, texts
from smol_hf.text.documents.readers import open_documents

TEXTS = ["One.\r\nTwo: é 漢字 🙂\n", "", "x" * 3000, "  \n", 'a "quoted" \\ \t text\x7f']


@pytest.mark.parametrize("name", ["book.txt", "book.md", "notes.text", "code.py", "no_ending", "odd.xyz"])
def test_a_file_of_any_other_ending_is_one_document(name, tmp_path, little_pieces):
    path = write(tmp_path / name, TEXTS[0])
    assert read(open_documents(path)) == [(name, TEXTS[0])]
    assert read(open_documents(f"file://{path}")) == [(name, TEXTS[0])]
    (only,) = open_documents(path)
    assert max(map(len, only.chunks)) <= little_pieces


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
    unread = [each.where for each in open_documents(path, separator="<s>")]  # nobody reads the texts
    assert unread == ["a.txt:1", "a.txt:2"]


def test_compressed_files_stand_in_their_place_among_texts(tmp_path):
    write(tmp_path / "all" / "a.txt", "A")
    write(tmp_path / "all" / "b.txt.gz", gzip.compress(b"B"))
    first, second = read(open_documents(str(tmp_path / "all")))
    assert first == ("all/a.txt", "A") and second[0] == "all/b.txt.gz" and "is compressed" in second[1]
