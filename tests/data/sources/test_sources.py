"""Rows of files, in any order: the same as read from the beginning, whatever the chunks they are read in."""

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from memory_source import MemorySource

from smol_hf.data.conversation import SampleError, TextPart
from smol_hf.data.records import Place, adapt
from smol_hf.data.sources import fingerprints, json_source, parquet_source
from smol_hf.data.sources.json_source import JsonArraySource, JsonLinesSource
from smol_hf.data.sources.parquet_source import ParquetSource, Unreadable
from smol_hf.data.sources.source import BlockCache, JoinedSource, MadeSource

NASTY = [
    {"text": 'quotes " and \\ and \\" and {[,]}'}, {"text": "é漢🙂\n\t"}, {"a": [1, [2, {"b": "]"}], "}"]}, {"": ""},
    {"text": "," * 50}, {"long": "x" * 300}, [], "a string, with [brackets]", 12, False, True, {"deep": [[[[]]]]},
]  # fmt: skip


@pytest.fixture(params=[1, 7, 64, 1 << 24])
def chunk(request, monkeypatch):
    monkeypatch.setattr(json_source, "CHUNK", request.param)


def all_rows(source):
    rows = [row for block in range(len(source.block_sizes)) for row in source.read_block(block)]
    assert len(rows) == len(source)
    return rows


@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_is_read_row_by_row(indent, chunk, tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps(NASTY, ensure_ascii=False, indent=indent), encoding="utf-8")
    assert all_rows(JsonArraySource("x", path)) == [
        (f"data.json:{number}", record) for number, record in enumerate(NASTY, start=1)
    ]


def test_an_array_of_random_records(chunk, tmp_path):
    choose = random.Random(0)
    records = [
        {"id": number, "text": "".join(choose.choice('"\\{}[],:a ') for _ in range(choose.randrange(30)))}
        for number in range(100)
    ]
    path = tmp_path / "data.json"
    path.write_text("\ufeff \n" + json.dumps(records), encoding="utf-8")
    assert [record for _, record in all_rows(JsonArraySource("x", path))] == records


@pytest.mark.parametrize("text", ["[]", " [ ] \n"])
def test_an_empty_array_has_no_rows(text, chunk, tmp_path):
    (tmp_path / "data.json").write_text(text)
    assert all_rows(JsonArraySource("x", tmp_path / "data.json")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}', "holds one array"), ("", "ends before its array does"), ('[{"a": 1}, {"b"', "was it cut off"),
        ('[{"a": "never ends', "was it cut off"), ("[1] [2]", "more after the array's end"),
        ("[[1]", "was it cut off"), ("[1]x", "more after the array's end, at byte 3"),
        ("[1] \n 2", "more after the array's end, at byte 6"), ("[1}", "the array ends with } at byte 2"),
        ("[{}}", "the array ends with } at byte 3"), ("[1]]", "more after the array's end"),
        (" " * 4096 + '{"a": 1}', "the array begins at byte 4096"),
        (" " * 4096 + "x [1]", "begins at byte 4098, and other text before it"),
    ],
)  # fmt: skip
def test_what_is_no_array_is_refused(text, message, chunk, tmp_path):
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(SampleError, match=message):
        JsonArraySource("x", tmp_path / "data.json")


def test_a_comma_too_many_is_an_element_that_is_none(tmp_path):
    (tmp_path / "data.json").write_text("[1, ]")
    (_, first), (_, second) = all_rows(JsonArraySource("x", tmp_path / "data.json"))
    assert first == 1 and isinstance(second, SampleError)


def test_a_bad_element_is_that_elements_fault(tmp_path):
    (tmp_path / "data.json").write_text('[{"a": 1}, {"a": 1, "a": 2}, {oops}, {"b": 2}]')
    (_, first), (_, second), (_, third), (_, fourth) = all_rows(JsonArraySource("x", tmp_path / "data.json"))
    assert first == {"a": 1} and fourth == {"b": 2}
    assert isinstance(second, SampleError) and "duplicate key" in second.problem
    assert isinstance(third, SampleError) and third.where == "data.json:3"


def test_lines_keep_the_numbers_of_an_editor(chunk, tmp_path):
    lines = [
        "\ufeff" + json.dumps({"a": 1}),
        "",
        json.dumps({"b": "\u2028é"}, ensure_ascii=False),
        "{oops",
        "  ",
        '"x"',
    ]
    path = tmp_path / "data.jsonl"
    path.write_bytes("\r\n".join(lines).encode("utf-8"))
    source = JsonLinesSource("x", path)
    rows = all_rows(source)
    assert [where for where, _ in rows] == [f"data.jsonl:{number}" for number in (1, 3, 4, 5, 6)]
    assert [record for _, record in rows[:2]] == [{"a": 1}, {"b": "\u2028é"}]
    assert isinstance(rows[2][1], SampleError) and rows[3][1] is None and rows[4][1] == "x"


def test_invalid_utf8_is_that_lines_fault(tmp_path):
    (tmp_path / "data.jsonl").write_bytes(b'{"a": 1}\n{"a": "\xff"}\n{"a": 3}\n')
    _, (_, bad), (_, good) = all_rows(JsonLinesSource("x", tmp_path / "data.jsonl"))
    assert isinstance(bad, SampleError) and bad.where == "data.jsonl:2" and good == {"a": 3}


def test_an_empty_file_has_no_lines(tmp_path):
    (tmp_path / "data.jsonl").write_bytes(b"")
    assert len(JsonLinesSource("x", tmp_path / "data.jsonl")) == 0


def test_the_fingerprint_is_of_the_content(tmp_path):
    prints = set()
    for text in ('{"a": 1}\n', '{"a": 2}\n'):
        (tmp_path / "data.jsonl").write_text(text)
        prints.add(JsonLinesSource("x", tmp_path / "data.jsonl").fingerprint)
    assert len(prints) == 2


def write_parquet(folder, sizes, group):
    for number, size in enumerate(sizes):
        table = pyarrow.table(
            {"id": [number * 1000 + row for row in range(size)],
             "image": [{"bytes": bytes([row % 256]) * 10, "path": None} for row in range(size)]}
        )  # fmt: skip
        pyarrow.parquet.write_table(table, folder / f"part-{number}.parquet", row_group_size=group)
    return [str(path) for path in folder.glob("*.parquet")]


def test_parquet_blocks_are_row_groups(tmp_path):
    source = ParquetSource("x", write_parquet(tmp_path, [10, 4, 7], 4))
    assert list(source.block_sizes) == [4, 4, 2, 4, 4, 3] and len(source) == 21
    rows = all_rows(source)
    assert [record["id"] for _, record in rows] == [*range(10), *range(1000, 1004), *range(2000, 2007)]
    assert rows[9][0] == "part-0.parquet:10" and rows[0][1]["image"] == {"bytes": b"\0" * 10, "path": None}


def test_a_file_that_is_no_parquet_is_named(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(SampleError, match=r"bad\.parquet: not readable as parquet"):
        ParquetSource("x", [str(tmp_path / "bad.parquet")])


def test_a_damaged_row_group_is_the_fault_of_its_rows(tmp_path):
    (url,) = write_parquet(tmp_path, [300], 100)
    source = ParquetSource("x", [url])
    content = bytearray(Path(url).read_bytes())
    start = source.open(url).metadata.row_group(1).column(0).data_page_offset
    content[start : start + 60] = bytes(60)
    Path(url).write_bytes(content)
    assert all(isinstance(record, dict) for _, record in source.read_block(0))
    bad = source.read_block(1)
    assert len(bad) == 100 and all(isinstance(record, SampleError) for _, record in bad)
    assert bad[0][1].where == "part-0.parquet:101"


def messages(text):
    return [{"role": "user", "content": text}, {"role": "assistant", "content": text}]


def struct_with_a_field_twice(rows):
    values = pyarrow.array(["x"] * rows)
    return pyarrow.StructArray.from_arrays([values, values], names=["k", "k"])


UNREADABLE = {
    "a date after all years": pyarrow.array([0] * 49 + [2**58], pyarrow.timestamp("us")),
    "a field twice": struct_with_a_field_twice(50),
    "no UTF-8": pyarrow.array([b"fine"] * 49 + [b"\xff"], pyarrow.binary()).view(pyarrow.string()),
}


@pytest.mark.parametrize("column", UNREADABLE.values(), ids=UNREADABLE)
def test_a_column_that_python_has_no_values_for_costs_nothing_else(column, tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(
        pyarrow.table({"messages": [messages(str(row)) for row in range(50)], "x": column}), path
    )
    rows = all_rows(ParquetSource("x", [str(path)]))
    assert [record["messages"] for _, record in rows] == [messages(str(row)) for row in range(50)]
    assert isinstance(rows[49][1]["x"], Unreadable)
    assert adapt(rows[49][1], Place(rows[49][0])).messages[1].parts == (TextPart("49"),)


@pytest.mark.parametrize("needed", ["messages", "images"])
def test_a_column_that_is_needed_and_unreadable_is_named(needed, tmp_path):
    path = tmp_path / "a.parquet"
    columns = {"messages": [messages("x")], needed: struct_with_a_field_twice(1)}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    ((where, record),) = all_rows(ParquetSource("x", [str(path)]))
    with pytest.raises(SampleError, match=rf"a\.parquet:1: {needed} "):
        adapt(record, Place(where))


def test_names_of_columns_that_cannot_be_are_the_files_fault(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"qqqq": [1]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"qqqq", b"q\xff\xfeq"))
    with pytest.raises(SampleError, match=r"^a\.parquet: .*decode"):
        ParquetSource("x", [str(path)])
    pyarrow.parquet.write_table(pyarrow.table([[1], [2]], names=["a", "a"]), path)
    with pytest.raises(SampleError, match=r"^a\.parquet: has two columns called 'a'"):
        ParquetSource("x", [str(path)])


@pytest.mark.parametrize("whole", [True, False])
def test_parquet_of_other_content_and_the_same_size_is_other_data(whole, tmp_path, monkeypatch):
    if not whole:  # a file that is too large: its footer alone, which holds the least and greatest value
        monkeypatch.setattr(fingerprints, "HASHED_WHOLE", 0)
    path, prints, sizes = tmp_path / "a.parquet", [], set()
    for words in (["one", "two"], ["one", "six"], ["one", "two"]):
        pyarrow.parquet.write_table(pyarrow.table({"text": words}), path, compression=None, use_dictionary=False)
        prints.append(ParquetSource("x", [str(path)]).fingerprint)
        sizes.add(path.stat().st_size)
    assert len(sizes) == 1 and prints[0] == prints[2] != prints[1]


def test_made_rows_and_rows_in_memory():
    made = MadeSource("x", 5, lambda number: (f"page{number}", number * number), fingerprint="f")
    assert all_rows(made)[3] == ("page3", 9)
    memory = MemorySource("x", [("a", 1), ("b", 2)])
    assert all_rows(memory) == [("a", 1), ("b", 2)]
    assert memory.fingerprint != MemorySource("x", [("a", 1), ("b", 3)]).fingerprint


def test_blocks_are_read_once_while_they_are_needed(tmp_path):
    source = ParquetSource("x", write_parquet(tmp_path, [10, 10], 5))
    reads = []
    read_block = source.read_block
    source.read_block = lambda block: reads.append(block) or read_block(block)
    cache = BlockCache([source], kept=1)
    for block in np.random.default_rng(0).permutation([0, 1, 2, 3] * 5):
        assert cache.row(0, int(block), 2)[1]["id"] % 5 == 2
    assert sorted(reads) == [0, 1, 2, 3]  # small: all stay
    source.rows_anywhere, reads[:] = False, []
    cache = BlockCache([source], kept=2, bytes_kept=0)
    for block in (0, 0, 1, 0, 2, 1):
        cache.row(0, block, 0)
    assert reads == [0, 1, 2, 1]


@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
@pytest.mark.parametrize("chunk", [1, 2, 3, 1 << 24])
def test_blank_lines_count_as_lines_and_are_no_rows(tmp_path, monkeypatch, line_break, chunk):
    monkeypatch.setattr(json_source, "CHUNK", chunk)
    lines = ["", '{"a": 1}', "", "", '{"a": 2}', "1", '{"a": 3}', ""]
    for end in ("", line_break):
        path = tmp_path / "rows.jsonl"
        path.write_bytes((line_break.join(lines) + end).encode())
        source = JsonLinesSource("rows", path)
        rows = [source.read_block(block)[0] for block in range(len(source.block_sizes))]
        assert [where for where, _ in rows] == [f"rows.jsonl:{line}" for line in (2, 5, 6, 7)]
        assert [record for _, record in rows] == [{"a": 1}, {"a": 2}, 1, {"a": 3}]


@pytest.mark.parametrize("kind", ["lines", "array", "joined", "parquet", "made"])
def test_a_range_of_rows(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(json_source, "BLOCK", 100)
    monkeypatch.setattr(parquet_source, "AT_A_TIME", 2)
    if kind == "parquet":
        source = ParquetSource("x", write_parquet(tmp_path, [7, 3], 4))
    elif kind == "made":
        source = MadeSource("x", 10, lambda number: (f"page{number}", number), fingerprint="f")
    else:
        lines = [json.dumps({"a": "x" * (number * 7 % 40)}) for number in range(10)]
        (tmp_path / "a.jsonl").write_text("\n\n".join(lines))
        (tmp_path / "b.jsonl").write_text("\n".join(lines[:3]))
        (tmp_path / "a.json").write_text(f"[{','.join(lines)}]")
        parts = [JsonLinesSource("x", tmp_path / f"{name}.jsonl") for name in ("b", "a", "b")]
        source = {"lines": parts[1], "joined": JoinedSource("x", parts)}.get(kind) or JsonArraySource(
            "x", tmp_path / "a.json"
        )
    rows = list(source.all_rows())
    assert len(rows) == len(source) >= 10
    for first, last in itertools.combinations_with_replacement(range(len(rows) + 2), 2):
        assert list(source.rows_between(first, last)) == rows[first:last]


def test_a_range_reads_only_its_blocks(tmp_path):
    source = ParquetSource("x", write_parquet(tmp_path, [20, 20], 5))
    read, read_part = [], source.read_part
    source.read_part = lambda block, first, last: read.append((block, first, last)) or read_part(block, first, last)
    list(source.rows_between(13, 21))
    assert read == [(2, 3, 5), (3, 0, 5), (4, 0, 1)]
