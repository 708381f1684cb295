"""Shards whose process is killed, and shards that several processes prepare at the same time."""

import json
import os
import signal
import time

import pytest
from prepared_shards import content_of, memory, records
from processes import Forked

from smol_hf.data.conversation import SampleError
from smol_hf.data.mixture.mixture import open_mixture
from smol_hf.data.prepare import prepare, shards


def prepared_until_killed(output, form, row):
    def advance():
        rows.append(1)
        if len(rows) == row:
            os.kill(os.getpid(), signal.SIGKILL)

    rows = []
    prepare(memory(), output, form=form, shard=(2, 3), advance=advance)


@pytest.mark.parametrize("form", ["parquet", "llava"])
@pytest.mark.parametrize("row", [1, 3])
def test_a_killed_shard_is_missing_until_it_is_prepared_again(form, row, tmp_path):
    output = tmp_path / "out"
    for number in (1, 3):
        prepare(memory(), output, form=form, shard=(number, 3))
    killed = Forked(prepared_until_killed, tmp_path / "log.txt", output, form, row)
    assert killed.wait()[0] == -signal.SIGKILL
    assert not [path for path in output.rglob("*00002*") if ".shard-" not in str(path)]
    missing = "is incomplete: shard 2 of 3 is missing: run the same smol-hf data prepare with --shard 2/3"
    with pytest.raises(SampleError, match=missing):
        open_mixture([{"data": str(output)}], "quota")
    facts = prepare(memory(), output, form=form, shard=(2, 3))
    assert not facts["was_complete"] and not facts["missing"]
    prepare(memory(), tmp_path / "one", form=form)
    assert records(output) == records(tmp_path / "one")
    assert not list(output.glob(".*")), "what the killed process left is removed with the last shard"


def prepared_slowly(output, form, started, finished):
    """Prepare shard 2, and wait before its last row until another process has prepared it."""

    def advance():
        rows.append(1)
        if len(rows) == 3:
            started.touch()
            while not finished.exists():
                time.sleep(0.01)

    rows = []
    prepare(memory(), output, form=form, shard=(2, 3), advance=advance)


@pytest.mark.parametrize("form", ["parquet", "llava"])
def test_a_shard_may_be_prepared_twice_at_the_same_time(form, tmp_path):
    output, started, finished = tmp_path / "out", tmp_path / "started", tmp_path / "finished"
    for number in (1, 3):
        prepare(memory(), output, form=form, shard=(number, 3))
    slow = Forked(prepared_slowly, tmp_path / "log.txt", output, form, started, finished)
    try:
        while not started.exists():
            assert slow.process.is_alive()
            time.sleep(0.01)
        assert not prepare(memory(), output, form=form, shard=(2, 3))["missing"]
    finally:
        finished.touch()
        assert slow.wait() == (0, "")
    prepare(memory(), tmp_path / "one", form=form)
    assert records(output) == records(tmp_path / "one") and not list(output.glob(".*"))


def test_a_process_may_start_while_another_makes_the_folder(monkeypatch, tmp_path):
    refuse_full = shards.refuse_full

    def refuse_later(folder, *own):
        (folder / "shards").mkdir(parents=True)  # by the other process
        refuse_full(folder, *own)

    monkeypatch.setattr(shards, "refuse_full", refuse_later)
    assert not prepare(memory(), tmp_path / "out", shard=(1, 1))["missing"]


def test_settings_of_a_process_that_started_at_the_same_time_are_noticed(tmp_path):
    """Both find an empty folder. The first to finish is not complete if the other data won."""
    settings = tmp_path / "out" / "shards" / "preparation.json"

    def overwritten():
        settings.write_text(json.dumps({**json.loads(settings.read_text()), "fingerprint": "other"}))

    with pytest.raises(ValueError, match="the data has changed"):
        prepare(memory(), tmp_path / "out", shard=(1, 3), advance=overwritten)
    assert list(content_of(tmp_path / "out")) == [settings.relative_to(tmp_path / "out")]


def test_shards_on_a_disk_without_locks(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise NotImplementedError("flock")

    monkeypatch.setattr(shards, "lock_of", refuse)
    (tmp_path / "out").mkdir()
    for number in (1, 2):
        facts = prepare(memory(), tmp_path / "out", shard=(number, 2))
    assert not facts["missing"] and not list((tmp_path / "out").glob(".*"))


def test_files_of_a_shard_that_was_killed_before_its_record_are_replaced(tmp_path):
    prepare(memory(), tmp_path / "out", shard=(1, 1))
    before = content_of(tmp_path / "out")
    (tmp_path / "out" / "shards" / "00001-of-00001.json").unlink()
    (tmp_path / "out" / "shard-00001-of-00001-train-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(SampleError, match="shard 1 of 1 is missing"):
        open_mixture([{"data": str(tmp_path / "out")}], "quota")
    prepare(memory(), tmp_path / "out", shard=(1, 1))
    assert content_of(tmp_path / "out") == before
