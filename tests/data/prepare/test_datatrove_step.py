"""The step of datatrove, in its own executor: each task prepares a shard, and only failed tasks run again."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet
import pytest
from doc_pages import ROOT, blocks

from smol_hf.data.mixture.mixture import open_mixture
from smol_hf.data.prepare import prepare

pytest.importorskip("datatrove", reason="pip install 'smol_hf[datatrove]'")
dill = pytest.importorskip("dill")

from datatrove.executor import LocalPipelineExecutor  # noqa: E402

from smol_hf.data.prepare.datatrove_step import PrepareShard  # noqa: E402

ROWS = 10


@pytest.fixture
def rows(tmp_path):
    lines = [
        {"messages": [{"role": "user", "content": f"{row}?"}, {"role": "assistant", "content": f"{row}."}]}
        for row in range(ROWS)
    ]
    lines[3] = {"messages": []}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def executor(rows, folder):
    step = PrepareShard([{"data": str(rows)}], folder / "out", rows_per_shard=2)
    made = LocalPipelineExecutor([step], tasks=4, workers=1, logging_dir=str(folder / "log"))
    return dill.loads(dill.dumps(made))  # as for Slurm, which loads it in each job


def test_four_tasks_have_the_rows_of_one_preparation(rows, tmp_path):
    stats = executor(rows, tmp_path).run()
    prepare(open_mixture([{"data": str(rows)}], "quota"), tmp_path / "one")
    files = sorted((tmp_path / "out").glob("*.parquet"))
    assert len(files) == 5 and all("-of-00004-" in path.name for path in files)
    tables = [pyarrow.parquet.read_table(path) for path in files]
    one = pyarrow.parquet.read_table(tmp_path / "one" / "train-00000-of-00001.parquet").to_pylist()
    assert [row for table in tables for row in table.to_pylist()] == one and len(one) == ROWS - 1
    counts = {name: each.total for name, each in stats.stats[0].stats.items()}
    assert counts == {"records": ROWS, "written": ROWS - 1, "left_out": 1}


def test_a_failed_task_runs_again_without_the_others(rows, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run = PrepareShard.run

    def fails(step, data=None, rank=0, world_size=1):
        if rank == 2:
            raise OSError("the disk is gone")
        return run(step, data, rank, world_size)

    monkeypatch.setattr(PrepareShard, "run", fails)
    with pytest.raises(OSError, match="the disk is gone"):
        executor(rows, tmp_path).run()
    ran = []
    monkeypatch.setattr(
        PrepareShard, "run", lambda step, data, rank, size: ran.append(rank) or run(step, data, rank, size)
    )
    executor(rows, tmp_path).run()
    assert 2 in ran and not {0, 1} & set(ran)
    assert len(list(Path(out, "shards").glob("*-of-00004.json"))) == 4


def test_the_program_of_the_documentation_runs(tmp_path, monkeypatch):
    (program,) = blocks("data_commands", "python")
    (tmp_path / "my.jsonl").write_text("".join(blocks("your_data", "json")), encoding="utf-8")
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "page.png", tmp_path / "docs")
    monkeypatch.chdir(tmp_path)
    exec(program.replace("workers=2", "workers=1"), {"__name__": "__main__"})
    assert len(list(open_mixture([{"data": "prepared/tasks"}], "quota").conversations())) == 2
