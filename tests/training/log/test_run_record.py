"""`run.json`, the record of a run."""

import json
from pathlib import Path

import pytest

from smol_hf.training.log.run_record import write_run


def test_an_error_while_it_is_written_keeps_the_earlier_record(tmp_path, monkeypatch):
    def write_half(path, text, **options):
        path.write_bytes(text.encode()[: len(text) // 2])
        raise OSError("the disk is full")

    write_run(tmp_path, {"seed": 1})
    monkeypatch.setattr(Path, "write_text", write_half)
    with pytest.raises(OSError, match="full"):
        write_run(tmp_path, {"seed": 2})
    assert json.loads((tmp_path / "run.json").read_bytes()) == {"seed": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
