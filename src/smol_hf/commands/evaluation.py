"""The command evaluate: its options and printed results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smol_hf.commands import printing
from smol_hf.commands.parser import Command, options_of
from smol_hf.support.formatting import counted, duration, percent

if TYPE_CHECKING:
    from rich.table import Table

GROUPS = ("per_source", "per_kind", "per_length")


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", help="folder or Hub id of a checkpoint, an adapter, or a model of transformers")
    add("--data", help="held-out rows in any shape that training reads; the last answer is the reference")
    add("--config", metavar="FILE.yaml", help="instead of --data: a mixture, whose entries may have a metric")
    add_benchmarks(parser)
    output_help = (
        "folder to write (default: evaluation, next to the checkpoint; of benchmarks runs/benchmarks/NAME); an "
        "interrupted evaluation of rows is continued"
    )
    add("--output", help=output_help)
    metric_help = "score of rows and sources without their own; repeatable (default: chosen by the references)"
    add("--metric", action="append", default=[], help=metric_help)
    baseline_help = "all (default), none, or some of blind, shuffled and majority"
    add("--baselines", nargs="+", default=["all"], metavar="NAME", help=baseline_help)
    against_help = "compare with predictions, the folder of another evaluation, or a checkpoint; repeatable"
    add("--against", action="append", default=[], metavar="OTHER", help=against_help)
    add("--adapter", help="reader of the records, as in training (default: chosen by their keys)")
    add("--image-folder", help="folder of relative paths of images (default: that of the data)")
    add("--limit", type=int, help="only the first LIMIT rows of each source, or samples of each benchmark")
    add("--on-bad-sample", choices=("stop", "skip"), default="stop", help="unusable rows: stop (default) or skip them")
    add("--max-skipped-fraction", type=float, default=0.01, help="the most rows that skip leaves out (default 0.01)")
    add("--batch-size", type=int, default=8, help="prompts per batch (default 8); answers stay the same")
    add("--max-new-tokens", type=int, default=64, help="maximum tokens of an answer (default 64)")
    add("--seed", type=int, default=0, help="seed of the shuffled images and the intervals (default 0)")
    add("--device", help="cpu, cuda, cuda:1, mps … (default: the GPU, if any)")
    types = ("auto", "float32", "bfloat16", "float16")
    add("--dtype", choices=types, default="auto", help="data type of the weights (default auto: the saved type)")
    add("--trust-remote-code", action="store_true", help="run code that comes with the checkpoint")


def add_benchmarks(parser: argparse.ArgumentParser) -> None:
    from smol_hf.evaluation.benchmarks.published import PUBLISHED
    from smol_hf.evaluation.benchmarks.suite import BENCHMARKS

    add = parser.add_argument
    add("--benchmarks", metavar="NAMES", help=f"published benchmarks, separated by commas: {', '.join(BENCHMARKS)}")
    own = "interpreter that has {0} (default: an environment that is built in the user's cache)"
    add("--lmms-eval-python", metavar="FILE", help=own.format("lmms-eval, for benchmarks with images and videos"))
    add("--lm-eval-python", metavar="FILE", help=own.format("lm-eval, for benchmarks with text"))
    add("--published", metavar="MODEL", help=f"print the scores of a known model too: {', '.join(PUBLISHED)}")
    add("--dry-run", action="store_true", help="print environments, command lines and datasets; run nothing")
    add("--tasks-folder", metavar="FOLDER", help="your own tasks: YAML files of lmms-eval or lm-eval")


# Options that only rows, or only benchmarks, have. The others are common.
OF_ROWS = (
    "data", "config", "metric", "baselines", "against", "adapter", "image_folder", "on_bad_sample",
    "max_skipped_fraction", "max_new_tokens",
)  # fmt: skip
OF_BENCHMARKS = ("lmms_eval_python", "lm_eval_python", "published", "dry_run", "tasks_folder")
COMMON = ("output", "limit", "batch_size", "device", "dtype", "seed", "trust_remote_code")


def run_evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    refuse_without_effect(arguments)
    if arguments.benchmarks is not None:
        from smol_hf.evaluation.benchmarks.run import run_benchmarks

        return run_benchmarks(
            arguments.checkpoint, arguments.benchmarks, **options_of(arguments, *OF_BENCHMARKS, *COMMON)
        )
    from transformers.utils import logging as transformers_logging

    from smol_hf.evaluation.run import REPORT, Options, evaluate

    transformers_logging.disable_progress_bar()
    names = Options.__dataclass_fields__
    options = Options(**{name: value for name, value in vars(arguments).items() if name in names})
    results = evaluate(options, progress=printing.progress, say=lambda text: sys.stderr.write(f"{text}\n"))
    return {**results, "report": str(Path(options.folder) / REPORT)}


def refuse_without_effect(arguments: argparse.Namespace) -> None:
    """Raise ValueError if an option of rows is given for benchmarks, or one of benchmarks for rows."""
    parser = argparse.ArgumentParser()
    add_evaluate(parser)
    unused, wanted = (OF_BENCHMARKS, "needs") if arguments.benchmarks is None else (OF_ROWS, "has no effect with")
    for name in unused:
        if getattr(arguments, name) != parser.get_default(name):
            raise ValueError(f"--{name.replace('_', '-')} {wanted} --benchmarks")


def describe_evaluate(facts: dict[str, Any]) -> Iterator[str | Table]:
    if "metrics" not in facts:
        from smol_hf.evaluation.benchmarks.report import describe_benchmarks

        yield from describe_benchmarks(facts)
        return
    for name, figures in facts["metrics"].items():
        yield table_of(name, figures, facts)
    if facts["loss"] is not None:
        measured, all_of_them = facts["measured_references"], facts["questions"]
        part = "" if measured == all_of_them else f" (of {measured:,} of {counted(all_of_them, 'reference')})"
        yield f"references: loss {facts['loss']:.4f}, {facts['bits_per_byte']:.4f} bits per byte{part}"
    for other in facts["against"]:
        for name, found in other["metrics"].items():
            questions = counted(found["questions"], "question")
            compared = f"{name} on {questions}: {found['score']:.3f}, and {found['other']:.3f} of {other['name']}"
            if not found["difference"]:
                yield f"{compared}; the scores are equal"
                continue
            interval = f"95 % interval {found['low']:+.3f} to {found['high']:+.3f}"
            sign = "better" if (found["difference"] > 0) == facts["metrics"][name]["higher_is_better"] else "worse"
            yield (
                f"{compared}; difference {found['difference']:+.3f} ({interval}); {sign} with probability "
                f"{percent(found['probability'])} ({other['method']})"
            )
    if facts["skipped"]:
        yield f"{counted(facts['skipped'], 'row')} left out: see skipped.jsonl"
    yield f"open {facts['report']} ({duration(facts['seconds'])})"


def table_of(name: str, figures: dict[str, Any], facts: dict[str, Any]) -> Table:
    """Make the table of a metric: a row for each group of questions with more than one group, then all."""

    def shown(score: float) -> str:
        return percent(score) if figures["higher_is_better"] else f"{score:.3f}"

    baselines = list(figures["baselines"])
    columns = ["questions", "score", "95 % interval", *baselines]
    better = "" if figures["higher_is_better"] else ", lower is better"
    table = printing.table(f"{name}{better}", "", *columns, numbers=True)
    groups = [each for group in GROUPS if len(facts[group]) > 1 for each in facts[group].items()]
    for label, each in [*groups, ("all", facts)]:
        found = each["metrics"].get(name)
        if found is None:
            continue
        if label == "all":
            table.add_section()
        others = [shown(found["baselines"][key]["score"]) if key in found["baselines"] else "" for key in baselines]
        interval = f"{shown(found['low'])} – {shown(found['high'])}"
        table.add_row(label, f"{found['questions']:,}", shown(found["score"]), interval, *others)
    return table


EVALUATE = Command(
    "score a checkpoint on held-out data with baselines and a report, or on published benchmarks",
    "smol-hf evaluate runs/my-model/checkpoint --data held_out.jsonl\n"
    "  smol-hf evaluate runs/my-model/checkpoint --data held_out.jsonl --metric anls --against runs/demo/checkpoint\n"
    "  smol-hf evaluate runs/my-model/checkpoint --benchmarks docvqa,textvqa --published smolvlm2-256m",
    add_evaluate,
    run_evaluate,
    describe_evaluate,
)
