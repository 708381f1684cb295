"""Evaluate a checkpoint on published benchmarks, each in a process of its harness."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smol_hf.conversion.checkpoint_files import read_json
from smol_hf.evaluation.benchmarks import environment
from smol_hf.evaluation.benchmarks.failures import explain
from smol_hf.evaluation.benchmarks.published import published_scores
from smol_hf.evaluation.benchmarks.results import PartialResultsError, read_score, results_file
from smol_hf.evaluation.benchmarks.suite import BENCHMARKS, COUNTS, LM_EVAL, LMMS_EVAL, Benchmark, select
from smol_hf.inference.answering import is_missing

LAUNCH = {LMMS_EVAL: ["lmms_eval"], LM_EVAL: ["smol_hf.evaluation.benchmarks.lm_eval_launch", "run"]}
LOG = "log.txt"

MOST_SEED = 2**32 - 1  # of numpy


@dataclass(frozen=True)
class Settings:
    """Settings of a run on benchmarks.

    Args:
        checkpoint: folder or Hub id.
        output: folder for the harness's files, with a folder for each benchmark.
        limit: the first samples of each task only.
        batch_size: prompts per batch.
        device: of torch; by default the GPU, if any.
        dtype: of the weights, `auto` for the saved one.
        seed: of everything that the harness draws.
        tasks_folder: folder with the user's own tasks, as YAML files of the harness.
    """

    checkpoint: str
    output: Path
    limit: int | None = None
    batch_size: int = 8
    device: str | None = None
    dtype: str = "auto"
    trust_remote_code: bool = False
    seed: int = 0
    tasks_folder: Path | None = None

    def __post_init__(self):
        for name, least in (("limit", 1), ("batch_size", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}: it must be at least {least}")
        if self.seed > MOST_SEED:
            raise ValueError(f"seed is {self.seed}: it must be at most {MOST_SEED}, the limit of the harnesses")
        if self.output.exists() and not self.output.is_dir():
            raise ValueError(f"{self.output} is a file: choose another --output")
        if re.search(r"[,=]", self.checkpoint):
            raise ValueError(f"the path {self.checkpoint} contains ',' or '=', which the harnesses split: rename it")

    def command(self, benchmark: Benchmark, python: Path, folder: Path) -> list[str]:
        """Return the command line of a benchmark."""
        model = {"pretrained": self.checkpoint, "dtype": self.dtype}
        if self.trust_remote_code:
            model["trust_remote_code"] = "True"
        words = [str(python), "-m", *LAUNCH[benchmark.harness]]
        words += ["--model", "smol_hf" if benchmark.harness == LMMS_EVAL else "hf"]
        words += ["--model_args", ",".join(f"{key}={value}" for key, value in model.items())]
        words += ["--tasks", benchmark.task, "--batch_size", str(self.batch_size)]
        words += ["--seed", ",".join([str(self.seed)] * 4), "--log_samples", "--output_path", str(folder)]
        if benchmark.few_shot:
            words += ["--num_fewshot", str(benchmark.few_shot)]
        if benchmark.chat:
            words.append("--apply_chat_template")
        if benchmark.harness == LMMS_EVAL:
            words += ["--process_docs_parallel", "1"]  # threads would change the order of random draws
        for option, value in (("device", self.device), ("limit", self.limit), ("include_path", self.tasks_folder)):
            if value is not None:
                words += [f"--{option}", str(value)]
        return words


def run_benchmarks(
    checkpoint: str | Path,
    benchmarks: str | Sequence[str],
    *,
    lmms_eval_python: str | None = None,
    lm_eval_python: str | None = None,
    published: str | None = None,
    dry_run: bool = False,
    output: str | Path | None = None,
    tasks_folder: str | Path | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Evaluate a checkpoint on benchmarks. Return facts for `describe_benchmarks`.

    Args:
        benchmarks: names of `BENCHMARKS` or of the tasks in `tasks_folder`, as a list or separated by commas.
        lmms_eval_python, lm_eval_python: interpreters with these harnesses; by default built in the user's cache.
        published: a model of `PUBLISHED` to compare with.
        dry_run: return what would run, and run nothing.
        output: folder for logs and answers; by default `runs/benchmarks/NAME`. It also gets `scores.json`.
        settings: further fields of `Settings`.

    Raises:
        ValueError: for an unknown benchmark or model, or a checkpoint that does not fit the benchmarks.
        RuntimeError: if an environment cannot be built, or a benchmark failed. The other benchmarks still run.
    """
    folder = Path(tasks_folder) if tasks_folder is not None else None
    local = local_tasks(folder) if folder is not None else []
    names = select(benchmarks, local)
    source, known = published_scores(published) if published is not None else ("", {})
    name = Path(checkpoint).resolve().name if Path(checkpoint).is_dir() else str(checkpoint).replace("/", "--")
    place = Path(output) if output is not None else Path("runs") / "benchmarks" / name
    plan = Settings(str(checkpoint), place.absolute(), tasks_folder=folder and folder.absolute(), **settings)
    shows_images = sees_images(str(checkpoint))
    if shows_images is None and local:
        raise ValueError(f"{checkpoint} is not a folder: download the checkpoint first to run your own tasks")
    chosen = {name: BENCHMARKS.get(name) or local_benchmark(name, bool(shows_images)) for name in names}
    check_fit(str(checkpoint), chosen, shows_images)
    given = {LMMS_EVAL: lmms_eval_python, LM_EVAL: lm_eval_python}
    facts: dict[str, Any] = {"checkpoint": str(checkpoint), "limit": plan.limit, "output": str(place)}
    if published is not None:
        facts |= {"published": published, "source": source}
    harnesses = sorted({benchmark.harness for benchmark in chosen.values()})
    for harness, python in given.items():
        if python is not None and harness not in harnesses:
            raise ValueError(f"--{harness}-python has no effect with {', '.join(chosen)}: leave it out")
    if dry_run:
        return facts | dry_facts(plan, chosen, {harness: given[harness] for harness in harnesses}, known)
    refuse_missing_judge(chosen)
    pythons = {each: find_interpreter(each, given[each]) for each in harnesses}
    (place / "scores.json").unlink(missing_ok=True)  # of an earlier run
    facts["benchmarks"], failed = {}, {}
    for name, benchmark in chosen.items():
        sys.stderr.write(f"{name}: running, log in {place / name / LOG}\n")
        try:
            result = run_benchmark(plan, name, benchmark, pythons[benchmark.harness])
        except (PartialResultsError, RuntimeError) as error:
            failed[name] = str(error)
            sys.stderr.write(f"{name}: {error}\n")
            continue
        facts["benchmarks"][name] = {"title": benchmark.title, **result, "published": known.get(name)}
        sys.stderr.write(f"{name}: {result['score']:.2f} ({result['samples']:,} samples)\n")
        (place / "scores.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if failed:
        finished = f"; the other scores are in {place / 'scores.json'}" if facts["benchmarks"] else ""
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise RuntimeError(f"{len(failed)} of {len(chosen)} benchmarks failed ({reasons}){finished}")
    return facts


def local_tasks(folder: Path) -> list[str]:
    """Return the names of the tasks in the YAML files of a folder. Raise ValueError if it has none."""
    files = sorted(folder.rglob("*.yaml")) if folder.is_dir() else []
    names = [re.search(r"^task:\s*['\"]?([\w.-]+)", file.read_text(encoding="utf-8"), re.MULTILINE) for file in files]
    if not any(names):
        raise ValueError(f"{folder} has no YAML file with the key task: name a folder with tasks")
    return [match[1] for match in names if match is not None]


def local_benchmark(name: str, shows_images: bool) -> Benchmark:
    return Benchmark(name, LMMS_EVAL if shows_images else LM_EVAL, name, "", scale=1.0)


def sees_images(checkpoint: str) -> bool | None:
    """Return whether a local checkpoint is a vision-language model; None for one on the Hub.

    Raises:
        ValueError: if the folder is not a complete checkpoint.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        if is_missing(folder):
            raise ValueError(f"there is no checkpoint folder {checkpoint}")
        return None
    if (folder / "adapter_config.json").is_file():
        raise ValueError(f"{checkpoint} is an adapter: merge it with its base first (smol-hf merge)")
    if not (folder / "config.json").is_file():
        raise ValueError(f"{checkpoint} has no config.json: name the folder of a checkpoint")
    return "vision_config" in read_json(folder / "config.json")


def check_fit(checkpoint: str, chosen: dict[str, Benchmark], shows_images: bool | None) -> None:
    """Raise ValueError if a benchmark needs another kind of model."""
    if shows_images is None:
        return
    wrong = [name for name, each in chosen.items() if (each.harness == LMMS_EVAL) != shows_images]
    if wrong:
        kind, needed = "a text-only model", "a vision-language model"
        if shows_images:
            kind, needed = needed, kind
        raise ValueError(f"{checkpoint} is {kind}, but {', '.join(wrong)} needs {needed}")


def refuse_missing_judge(chosen: dict[str, Benchmark]) -> None:
    for name, benchmark in chosen.items():
        if benchmark.judge and not os.environ.get("OPENAI_API_KEY"):
            raise ValueError(f"an OpenAI model reads the answers of {name}: set OPENAI_API_KEY, or leave {name} out")


def find_interpreter(harness: str, python: str | None) -> Path:
    return environment.prepare(harness) if python is None else environment.given(harness, python)


def run_benchmark(plan: Settings, name: str, benchmark: Benchmark, python: Path) -> dict[str, Any]:
    """Run one benchmark. Return its score, its number of samples, and the counts of the plug-in.

    Raises:
        PartialResultsError: if the results are not complete.
        RuntimeError: if the harness has not written results.
    """
    folder = plan.output / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    counts = folder / "counts.json"
    with environment.our_modules() as modules, (folder / LOG).open("w", encoding="utf-8") as log:
        paths = [modules, *filter(None, [os.environ.get("PYTHONPATH")])]
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), COUNTS: str(counts)}
        finished = subprocess.run(
            plan.command(benchmark, python, folder), stdout=log, stderr=subprocess.STDOUT, env=variables
        )
    if finished.returncode or results_file(folder) is None:  # lmms-eval returns 0 when it fails
        printed = (folder / LOG).read_text(encoding="utf-8", errors="replace")
        raise RuntimeError(explain(printed, dataset=benchmark.dataset, harness=benchmark.harness, python=python))
    result = read_score(folder, benchmark, plan.limit)
    return {**result, **(json.loads(counts.read_text(encoding="utf-8")) if counts.is_file() else {})}


def dry_facts(plan: Settings, chosen: dict[str, Benchmark], given: dict[str, str | None], known: dict) -> dict:
    """Return the environments, command lines and datasets of a run."""
    environments, pythons = {}, {}
    for harness, python in given.items():
        built = environment.interpreter_of(environment.cache_folder() / environment.environment_name(harness))
        pythons[harness] = built if python is None else Path(python)
        missing = python is None and not built.exists()
        commands = environment.pip_commands(harness, built) if missing else []
        environments[harness] = {"python": str(pythons[harness]), "install": [shlex.join(each) for each in commands]}
    planned = {
        name: {
            "title": each.title,
            "dataset": each.dataset,
            "samples": each.samples,
            "needs": "OPENAI_API_KEY" if each.judge else "",
            "published": known.get(name),
            "command": shlex.join(plan.command(each, pythons[each.harness], plan.output / name)),
        }
        for name, each in chosen.items()
    }
    return {"environments": environments, "planned": planned}
