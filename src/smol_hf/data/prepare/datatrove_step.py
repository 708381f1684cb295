"""A step of datatrove that prepares a shard in each task, for its executors (local, Slurm, Ray)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

try:
    from datatrove.pipeline.base import PipelineStep
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}: pip install 'smol_hf[datatrove]'", name=error.name) from error

from smol_hf.data.mixture.mixture import open_mixture
from smol_hf.data.prepare.folder import prepare


class PrepareShard(PipelineStep):
    """The only step of a pipeline: the task of each rank prepares its shard, one of `world_size`.

    Args:
        mixture: entries as in a recipe, such as `[{"data": "my.jsonl"}]`. Each task opens them.
        output: folder that all tasks reach.
        options: keyword arguments of `prepare`.
    """

    type, name = "PREPARE", "smol_hf"

    def __init__(self, mixture: Sequence[dict[str, Any]], output: str | Path, **options: Any):
        super().__init__()
        self.mixture, self.output, self.options = list(mixture), str(output), options

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Prepare shard `rank` + 1. datatrove runs a failed task again, and skips complete ones."""
        opened = open_mixture(self.mixture, "quota")
        facts = prepare(opened, self.output, shard=(rank + 1, world_size), **self.options)
        for name in ("records", "written", "left_out"):
            self.stat_update(name, value=sum(source[name] for source in facts["sources"]))
