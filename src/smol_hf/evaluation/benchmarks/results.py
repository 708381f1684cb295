"""Result files of lmms-eval and lm-evaluation-harness → a score. Partial results are errors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from smol_hf.evaluation.benchmarks.suite import LMMS_EVAL, Benchmark
from smol_hf.support.formatting import counted


class PartialResultsError(ValueError):
    """The results miss samples, tasks or a score."""


def results_file(folder: Path) -> Path | None:
    """Return the file of results below a folder; None if a harness has not written one."""
    return max(folder.rglob("*results*.json"), key=lambda path: path.stat().st_mtime, default=None)


def read_score(folder: Path, benchmark: Benchmark, limit: int | None) -> dict[str, Any]:
    """Return the facts `score` and `samples` of a finished run.

    Args:
        limit: the number of samples per task that the run was limited to.

    Raises:
        PartialResultsError: if samples are missing, or the score is missing or not finite.
    """
    path = results_file(folder)
    results = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
    values, samples = [], 0
    for task in benchmark.task.split(","):
        leaves = leaf_tasks(results, task)
        samples += sum(answered(folder, results, leaf, benchmark, limit) for leaf in leaves)
        group = results.get("results", {}).get(task, {})
        sources = [group] if metric_values(group, benchmark.metric) else [results["results"][leaf] for leaf in leaves]
        values += [value for source in sources for value in metric_values(source, benchmark.metric) or [math.nan]]
    score = benchmark.scale * sum(values) / len(values)
    if not math.isfinite(score):
        raise PartialResultsError(f"the results have no score {benchmark.metric!r}")
    return {"score": score, "samples": samples}


def leaf_tasks(results: dict[str, Any], task: str) -> list[str]:
    """Return the tasks of a group; a task is its own group.

    Raises:
        PartialResultsError: if the results do not contain the task.
    """
    children = results.get("group_subtasks", {}).get(task) or []
    if children:
        return [leaf for child in children for leaf in leaf_tasks(results, child)]
    if task not in results.get("results", {}):
        raise PartialResultsError(f"the results do not contain the task {task}")
    return [task]


def answered(folder: Path, results: dict[str, Any], task: str, benchmark: Benchmark, limit: int | None) -> int:
    """Return the number of samples of a task that have answers.

    Raises:
        PartialResultsError: if this is less than the task has, or than the limit.
    """
    size = results.get("n-samples", {}).get(task, {}).get("original")
    if not size:
        raise PartialResultsError(f"the results do not state how many samples {task} has")
    pattern = f"*_samples_{task}.jsonl" if benchmark.harness == LMMS_EVAL else f"samples_{task}_*.jsonl"
    lines = [line for path in folder.rglob(pattern) for line in path.read_text(encoding="utf-8").splitlines()]
    number = len({json.loads(line)["doc_id"] for line in lines})
    if number < (wanted := min(size, limit or size)):
        raise PartialResultsError(f"{task} has answers for {number:,} of {counted(wanted, 'sample')}")
    return number


def metric_values(values: dict[str, Any], metric: str) -> list[float]:
    """Return the values of a metric, such as `acc`, `acc,none` or `first+second`; '' is the first metric."""
    found = []
    for name in metric.split("+"):
        for key, value in values.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            first, _, rest = key.partition(",")
            if is_number and not first.endswith("_stderr") and (name in (key, first) or (not name and rest)):
                found.append(float(value))
                break
    return found if len(found) == len(metric.split("+")) else []
