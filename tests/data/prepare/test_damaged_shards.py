"""A shard that lost a file, or whose record is damaged, is reported and written again."""

import json
import re

import pytest
from media_files import picture
from memory_source import MemorySource
from processes import call

from smol_hf.data.conversation import Conversation, ImagePart, Message, SampleError, TextPart
from smol_hf.data.mixture.mixture import Data, open_mixture
from smol_hf.data.prepare import prepare
from smol_hf.data.prepare.writers import WRITERS

ROWS = 11


def memory():
    image = ImagePart(picture(8, 6))
    turns = [
        (Message("user", (image, TextPart(f"{row}?"))), Message("assistant", (TextPart("x"),))) for row in range(ROWS)
    ]
    rows = [(f"m:{row}", Conversation(f"m:{row}", each)) for row, each in enumerate(turns)]
    return Data([MemorySource("m", rows, fingerprint="f")], [None], [1.0])


def content_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def prepared_in_three(tmp_path, form="parquet"):
    """The folder of three shards, and the path of the file of the second."""
    for number in (1, 2, 3):
        prepare(memory(), tmp_path / "out", form=form, shard=(number, 3))
    (file,) = (tmp_path / "out").glob("shard-00002-of-00003-*")
    return tmp_path / "out", file


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("damage", ["lost", "truncated"])
def test_a_shard_with_a_damaged_file_is_missing_until_it_is_prepared_again(damage, form, tmp_path):
    output, file = prepared_in_three(tmp_path, form)
    before = content_of(output)
    if damage == "lost":
        file.unlink()
        problem = f"its file {file} is not there"
    else:
        file.write_bytes(file.read_bytes()[:-1])
        problem = f"its file {file} has {file.stat().st_size} bytes instead of {file.stat().st_size + 1}"
    advice = f"shard 2 of 3 is missing ({problem}): run the same smol-hf data prepare with --shard 2/3"
    facts = prepare(memory(), output, form=form, shard=(3, 3))
    assert (facts["missing"], facts["advice"], "all" in facts) == ([2], advice, False)
    with pytest.raises(SampleError, match=re.escape(advice)):
        open_mixture([{"data": str(output)}], "quota")
    facts = prepare(memory(), output, form=form, shard=(2, 3))
    assert (facts["was_complete"], facts["missing"]) == (False, [])
    assert content_of(output) == before


@pytest.mark.parametrize("content", ["", "[", "[]", "{}", '{"files": 3}', "\udcff"])
def test_a_damaged_record_of_a_shard_is_named_and_written_again(content, tmp_path):
    output, _ = prepared_in_three(tmp_path)
    before = content_of(output)
    record = output / "shards" / "00002-of-00003.json"
    record.write_text(content, errors="surrogateescape")
    advice = rf"shard 2 of 3 is missing \(its record {record} is damaged\): run .* --shard 2/3"
    with pytest.raises(SampleError, match=advice):
        open_mixture([{"data": str(output)}], "quota")
    assert re.fullmatch(advice, prepare(memory(), output, shard=(1, 3))["advice"])
    assert not prepare(memory(), output, shard=(2, 3))["missing"]
    assert content_of(output) == before


@pytest.mark.parametrize("content", ["", "[", "[]", "{}", '{"shards": "3"}', '{"shards": 0}'])
def test_damaged_settings_of_shards_are_named(content, tmp_path):
    output, _ = prepared_in_three(tmp_path)
    settings = output / "shards" / "preparation.json"
    before = content_of(output)
    settings.write_text(content)
    problem = f"{settings}: is damaged: delete it, and run the same smol-hf data prepare with --shard again"
    with pytest.raises(SampleError, match=re.escape(problem)):
        open_mixture([{"data": str(output)}], "quota")
    with pytest.raises(SampleError, match=re.escape(problem)):
        prepare(memory(), output, shard=(1, 3))
    settings.unlink()
    assert not prepare(memory(), output, shard=(1, 3))["missing"] and content_of(output) == before


def test_several_missing_shards_are_named_with_the_first_fault(tmp_path):
    output, file = prepared_in_three(tmp_path)
    file.unlink()
    (output / "shards" / "00001-of-00003.json").unlink()
    expected = f"shards 1, 2 of 3 are missing (shard 2: its file {file} is not there): run the same smol-hf data "
    assert prepare(memory(), output, shard=(3, 3))["advice"] == f"{expected}prepare with --shard 1/3 and the others"


def test_records_without_a_list_of_files_are_read(tmp_path):
    """Earlier versions wrote them."""
    output, _ = prepared_in_three(tmp_path)
    for record in (output / "shards").glob("0*.json"):
        facts = json.loads(record.read_text())
        assert len(facts.pop("files")) == 1
        record.write_text(json.dumps(facts))
    assert not prepare(memory(), output, shard=(3, 3))["missing"]
    assert len(list(open_mixture([{"data": str(output)}], "quota").samples())) == ROWS


def test_files_of_an_earlier_attempt_with_more_files_are_removed(tmp_path):
    output, file = prepared_in_three(tmp_path)
    before = content_of(output)
    for number in range(2):
        file.with_name(f"shard-00002-of-00003-train-0000{number}-of-00002.parquet").write_bytes(file.read_bytes())
    file.unlink()
    prepare(memory(), output, shard=(2, 3))
    assert content_of(output) == before


def test_commands_report_a_lost_file_of_a_shard(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": f"Text {row}."}) + "\n" for row in range(7)))
    command = ["data", "prepare", tmp_path / "rows.jsonl", "--output", tmp_path / "out", "--shard"]
    assert [call([*command, f"{number}/2"]).returncode for number in (1, 2)] == [0, 0]
    next((tmp_path / "out").glob("shard-00001-*")).unlink()
    printed = call([*command, "2/2"])
    assert "shard 1 of 2 is missing (its file " in printed.stdout.replace("\n", " ") and "all 2" not in printed.stdout
    refused = call(["data", "prepare", tmp_path / "out", "--output", tmp_path / "again"])
    assert refused.returncode != 0 and "shard-00001-of-00002" in refused.stderr and "Traceback" not in refused.stderr
