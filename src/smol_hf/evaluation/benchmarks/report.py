"""Report of a run on benchmarks, as text and tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def describe_benchmarks(facts: dict[str, Any]) -> Iterator[str | Table]:
    """Yield the parts of the report of `run_benchmarks`."""
    if "planned" in facts:
        yield from describe_plan(facts)
    else:
        yield scores_table(facts)
    yield from notes(facts)


def describe_plan(facts: dict[str, Any]) -> Iterator[str | Table]:
    for harness, each in facts["environments"].items():
        yield f"{harness}: {each['python']}" + (" (will be built)" if each["install"] else "")
        yield from each["install"]
    theirs = facts.get("published")
    table = empty_table(f"Benchmarks for {facts['checkpoint']}", "dataset", "samples", *([theirs] if theirs else []))
    for each in facts["planned"].values():
        samples = "" if each["samples"] is None else f"{each['samples']:,}"
        table.add_row(each["title"], each["dataset"], samples, *([number(each["published"])] if theirs else []))
    yield table
    for each in facts["planned"].values():
        yield each["command"] + (f"  # needs {each['needs']}" if each["needs"] else "")
    yield "A run also puts the plug-in on PYTHONPATH."


def scores_table(facts: dict[str, Any]) -> Table:
    theirs = facts.get("published")
    compared = [theirs, "difference"] if theirs else []
    table = empty_table(f"Benchmarks of {facts['checkpoint']}", "score", *compared, "samples")
    for each in facts["benchmarks"].values():
        published = each["published"]
        difference = "" if published is None else f"{each['score'] - published:+.1f}"
        cells = [number(published), difference] if theirs else []
        table.add_row(each["title"], number(each["score"]), *cells, f"{each['samples']:,}")
    return table


def empty_table(title: str, *columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("benchmark", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")
    return table


def notes(facts: dict[str, Any]) -> Iterator[str]:
    if facts["limit"] is not None:
        yield f"Only the first {facts['limit']:,} samples of each task: not comparable with published scores."
    for each in facts.get("benchmarks", {}).values():
        if drawn := each.get("random_choices"):
            yield f"{each['title']}: {drawn:,} answers name no choice; lmms-eval drew a random one (seeded)."
        if long := each.get("too_long"):
            yield f"{each['title']}: {long:,} prompts exceed the context; their answers are empty."
    if "source" in facts:
        yield f"{facts['published']}: {facts['source']}"


def number(score: float | None) -> str:
    return "" if score is None else f"{score:.1f}"
