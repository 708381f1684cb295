"""Files here and elsewhere: found by patterns, read in ranges, told apart from what a network does to them."""

import json
import pickle
import sys
import types

import pyarrow
import pyarrow.parquet
import pytest
from fsspec.registry import known_implementations

from smol_hf.data.sources import files, json_source, parquet_source
from smol_hf.data.sources.files import (
    UnreachableError,
    expand_braces,
    find_files,
    labels_of,
    open_file,
    remote_fingerprint,
)
from smol_hf.data.sources.json_source import JsonArraySource, JsonLinesSource
from smol_hf.data.sources.parquet_source import ParquetSource
from smol_hf.data.sources.source import JoinedSource

RECORDS = [{"id": number, "text": "é" * (number % 40)} for number in range(300)]


def rows(source):
    return [row for block in range(len(source.block_sizes)) for row in source.read_block(block)]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("s-{008..011}.tar", ["s-008.tar", "s-009.tar", "s-010.tar", "s-011.tar"]),
        ("{a,b}/{0..1}", ["a/0", "a/1", "b/0", "b/1"]),
        ("plain", ["plain"]),
    ],
)
def test_braces(pattern, expected):
    assert expand_braces(pattern) == expected


def test_patterns_find_files_and_name_what_is_missing(tmp_path):
    for number in (0, 1, 3):
        (tmp_path / f"s-{number}.tar").touch()
    (tmp_path / "s-9.tar").mkdir()
    assert find_files(f"{tmp_path}/s-*.tar") == [f"{tmp_path}/s-{number}.tar" for number in (0, 1, 3)]
    assert find_files(f"{tmp_path}/s-{{0..1}}.tar") == [f"{tmp_path}/s-{number}.tar" for number in (0, 1)]
    with pytest.raises(FileNotFoundError, match=r"no data file .*s-2\.tar \(of .*s-\{0\.\.3\}\.tar\)"):
        find_files(f"{tmp_path}/s-{{0..3}}.tar")
    with pytest.raises(FileNotFoundError, match="no data file"):
        find_files(f"{tmp_path}/*.parquet")


def test_files_of_one_name_are_told_apart():
    assert labels_of(["/x/a.tar", "/x/b.tar"]) == {"/x/a.tar": "a.tar", "/x/b.tar": "b.tar"}
    assert set(labels_of(["s3://x/1/a.tar", "s3://x/2/a.tar"]).values()) == {"1/a.tar", "2/a.tar"}


def test_a_protocol_whose_package_is_missing_says_which(monkeypatch):
    monkeypatch.setitem(known_implementations, "far", {"class": "no_such_package.FarSystem"})
    with pytest.raises(ImportError, match="needs a package that is not installed: pip install no_such_p"):
        open_file("far://a/b.tar")
    with pytest.raises(ValueError, match="unknown protocol 'nowhere'"):
        open_file("nowhere://a/b.tar")


def test_json_elsewhere_reads_as_here_in_blocks(memory, tmp_path, monkeypatch):
    monkeypatch.setattr(json_source, "BLOCK", 1000)
    monkeypatch.setattr(json_source, "SMALL", 0)
    lines = "\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS)
    array = json.dumps(RECORDS, ensure_ascii=False, indent=1)
    for kind, name, text in ((JsonLinesSource, "a.jsonl", lines), (JsonArraySource, "a.json", array)):
        (tmp_path / name).write_text(text, encoding="utf-8")
        memory.pipe(f"/{name}", text.encode())
        here, there = kind("x", tmp_path / name), kind("x", f"memory://{name}")
        assert rows(there) == rows(here) and there.fingerprint == here.fingerprint
        assert here.rows_anywhere and not there.rows_anywhere
        assert 10 < len(there.block_sizes) < 100 < len(here.block_sizes)
        sizes = [there.bytes_of(block) for block in range(len(there.block_sizes))]
        assert max(sizes) <= 1000 < 2 * sum(sizes) / len(sizes)
        assert rows(pickle.loads(pickle.dumps(there))) == rows(here)


def test_only_the_bytes_of_a_block_are_asked_for(memory, monkeypatch):
    monkeypatch.setattr(json_source, "BLOCK", 1000)
    memory.pipe("/a.jsonl", "".join(json.dumps(record) + "\n" for record in RECORDS).encode())
    source, asked = JsonLinesSource("x", "memory://a.jsonl"), []
    cat_file = type(memory).cat_file

    def counted(self, path, version_id=None, **span):  # the order of arguments that s3fs has
        assert version_id is None
        asked.append(span["end"] - span["start"])
        return cat_file(self, path, **span)

    monkeypatch.setattr(type(memory), "cat_file", counted)
    source.read_block(3)
    assert asked == [source.bytes_of(3)]


def test_several_files_are_one_source(tmp_path):
    for name, part in (("a.jsonl", RECORDS[:100]), ("b.jsonl", RECORDS[100:])):
        (tmp_path / name).write_text("".join(json.dumps(record) + "\n" for record in part))
    parts = [JsonLinesSource("x", tmp_path / name) for name in ("a.jsonl", "b.jsonl")]
    source = JoinedSource("x", parts)
    source.prefix = "p/"
    assert [record for _, record in rows(source)] == RECORDS and source.rows_anywhere
    assert rows(source)[100][0] == "p/b.jsonl:1"
    assert source.fingerprint not in [part.fingerprint for part in parts]


def write_parquet(memory, path, records):
    with memory.open(path, "wb") as file:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), file, row_group_size=50)


def test_parquet_elsewhere_is_read_by_row_groups(memory, monkeypatch):
    monkeypatch.setattr(parquet_source, "SMALL", 0)
    for number in range(2):
        write_parquet(memory, f"/{number}/part.parquet", RECORDS[number::2])
    source = ParquetSource("x", ["memory:///1/part.parquet", "memory:///0/part.parquet"])
    assert list(source.block_sizes) == [50] * 6 and not source.rows_anywhere
    assert [where for where, _ in rows(source)][:151:150] == ["0/part.parquet:1", "1/part.parquet:1"]
    assert [record["id"] for _, record in rows(source)] == [*range(0, 300, 2), *range(1, 300, 2)]
    assert pickle.loads(pickle.dumps(source)).read_block(4) == source.read_block(4)


def test_the_fingerprint_of_a_remote_file_changes_when_it_is_written_anew(memory):
    write_parquet(memory, "/a.parquet", RECORDS)
    before = remote_fingerprint("memory://a.parquet"), ParquetSource("x", ["memory://a.parquet"]).fingerprint
    write_parquet(memory, "/a.parquet", RECORDS)
    after = remote_fingerprint("memory://a.parquet"), ParquetSource("x", ["memory://a.parquet"]).fingerprint
    assert before[0] != after[0] and before[1] != after[1] and before[0][0] == after[0][0]


def test_what_the_network_does_is_no_fault_of_a_sample(memory, monkeypatch):
    write_parquet(memory, "/a.parquet", RECORDS)
    memory.pipe("/a.jsonl", b'{"a": 1}\n' * 3)
    sources = [ParquetSource("x", ["memory://a.parquet"]), JsonLinesSource("x", "memory://a.jsonl")]
    for name in ("open", "cat_file"):

        def broken(self, path, *more, **keys):
            raise ConnectionResetError("the line is dead")

        monkeypatch.setattr(type(memory), name, broken)
    for source in sources:
        with pytest.raises(UnreachableError, match=r"memory://a\.\w+ cannot be read .*the line is dead"):
            source.read_block(0)


def test_a_row_group_that_is_lost_on_the_way_is_no_fault_of_its_rows(memory, monkeypatch):
    write_parquet(memory, "/a.parquet", RECORDS)
    source = ParquetSource("x", ["memory://a.parquet"])
    read, asked, allowed = files.RemoteFile.read, [], [100]

    def noted(self, size=-1):
        asked.append(size)
        if len(asked) > allowed[0]:
            with files.reaching(self.url):
                raise ConnectionResetError("the line is dead")
        return read(self, size)

    monkeypatch.setattr(files.RemoteFile, "read", noted)
    assert len(source.read_block(2)) == 50
    for number in range(len(asked)):
        allowed[0] = number
        asked.clear()
        with pytest.raises(UnreachableError, match="the line is dead"):
            source.read_block(2)


def test_errors_of_libraries_that_are_loaded_are_known(monkeypatch):
    class BotoCoreError(Exception):
        pass

    module = types.ModuleType("botocore.exceptions")
    module.BotoCoreError = BotoCoreError
    monkeypatch.setitem(sys.modules, "botocore.exceptions", module)
    message = r"s3://b/a cannot be read \(BotoCoreError: no credentials\)"
    with pytest.raises(UnreachableError, match=message), files.reaching("s3://b/a"):
        raise BotoCoreError("no credentials")


def test_a_line_that_dies_while_a_file_is_read(memory):
    memory.pipe("/a.jsonl", b'{"a": 1}\n' * 3)
    file = open_file("memory://a.jsonl")

    class Dead:
        def read(self, length):
            raise TimeoutError("too slow")

        def close(self):
            pass

    file.inner = Dead()
    with pytest.raises(UnreachableError, match="too slow"):
        file.read(10)
    file.close()
    with pytest.raises(FileNotFoundError, match="memory://none"):
        files.open_file("memory://none")
