"""Documents out of records, and the reasons of rows that are none."""

import json
import re

import pyarrow
import pyarrow.parquet
import pytest
from document_files import read, texts_of, write, write_records

from smol_hf.data.conversation import SampleError
from smol_hf.data.sources import json_source
from smol_hf.text.documents.readers import open_documents

TEXTS = ["One.\r\nTwo: é 漢字 🙂\n", "", "x" * 3000, "  \n", 'a "quoted" \\ \t text\x7f']


KINDS = (".jsonl", ".json", ".parquet")


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


def test_fields_that_are_not_read_are_known(tmp_path):
    rows = [{"text": "a", "id": 1, "url": "x", "score": None}, {"text": "b", "id": 2, "url": "y", "score": None}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert set(open_documents(str(tmp_path / "rows.jsonl")).ignored()) == {"url"}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert set(open_documents(str(tmp_path / "rows.parquet")).ignored()) == {"url", "score"}
