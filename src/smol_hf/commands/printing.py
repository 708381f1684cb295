"""Printed results of commands: facts as text or JSON, progress, and the tables of `smol-hf data`.

A function that describes facts yields lines of text and tables.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from smol_hf.support.formatting import compact, counted, percent

if TYPE_CHECKING:
    from rich.table import Table

REASONS_SHOWN = 10
BAR = 40


def print_facts(facts: dict, as_json: bool, describe: Callable[[dict], Iterable[str | Table]]) -> None:
    """Print facts as one line of JSON, or as the lines and tables that `describe` makes of them."""
    if as_json:
        sys.stdout.write(json.dumps(facts) + "\n")
    else:
        print_parts(describe(facts))


def print_parts(parts: Iterable[str | Table]) -> None:
    """Print lines and tables without breaking a word."""
    from rich.console import Console

    from smol_hf.support import tables

    tables.print_parts(Console(highlight=False, markup=False), parts)


@contextmanager
def progress(words: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """Show a progress bar on stderr, if it is a terminal. Yields a function that adds a number of steps, or one.

    Without `total`, the steps are bytes and their number is unknown.
    """
    from rich import progress as bars
    from rich.console import Console

    steps_of_total = (bars.BarColumn(), bars.MofNCompleteColumn(), bars.TimeRemainingColumn())
    columns = (bars.DownloadColumn(), bars.TimeElapsedColumn()) if total is None else steps_of_total
    console = Console(stderr=True)
    look = {"console": console, "transient": True, "disable": not console.is_terminal}
    with bars.Progress(bars.TextColumn("{task.description}"), *columns, **look) as bar:
        task = bar.add_task(words, total=total)
        yield lambda steps=1: bar.advance(task, steps)


def table(title: str, *columns: str, numbers: bool = False) -> Table:
    """Make a table. With `numbers`, all columns but the first are right-aligned."""
    from rich import box
    from rich.table import Table

    result = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        result.add_column(column, justify="right" if numbers and index else "left", overflow="fold")
    return result


def describe_list(facts: dict[str, Any]) -> Iterator[Table]:
    datasets = table("Hub datasets", "dataset", "adapter")
    for each in facts["datasets"]:
        datasets.add_row(each["dataset"], each["adapter"])
    yield datasets
    adapters = table("Adapters", "adapter", "record", "recognised by", "package")
    for each in facts["adapters"]:
        adapters.add_row(each["name"], each["records"], each["known_by"], each["package"])
    for name, why in facts["broken"].items():
        adapters.add_row(name, f"unusable: {why}", "", "")
    yield adapters
    if "mixture" not in facts:
        return
    mixture = table("Mixture", "name", "data", "adapter", "weight", "records")
    from smol_hf.data.digits import EMBEDDED

    for each in facts["mixture"]:
        records = f"{each['records']:,}" if "records" in each else f"unreadable: {each['problem']}"
        adapter = each["adapter"] or ("" if each["data"] in EMBEDDED else "chosen by the records' keys")
        mixture.add_row(each["name"], each["data"], adapter, str(each["weight"]), records)
    yield mixture


def describe_preview(facts: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{counted(facts['shown'], 'sample')} of {counted(facts['drawn'], 'record')}, {facts['left_out']} skipped, "
        f"{facts['repeated']} repeated; written to {facts['output']} ({compact(facts['bytes'])}B)"
    )
    if "videos" in facts:
        yield facts["videos"]


def describe_stats(facts: dict[str, Any]) -> Iterator[str | Table]:
    sources = facts["sources"]
    if facts["first"] is not None:
        yield f"Of the first {facts['first']:,} records of each source:"
    yield from stats_tables([*sources, {"name": "all", **facts["all"]}] if len(sources) > 1 else sources)
    yield f"tokenizer: {facts['tokenizer']}; context_length: {facts['context_length']:,}"
    if facts["held_out"] is not None:
        yield f"held out for validation: {facts['held_out']}"
    yield from reasons_of(facts["all"]["reasons"])
    yield from unused_parts(sources)
    yield from histogram(facts["all"]["histogram"])
    packing, tiles = facts["packing"], facts["packing"]["tiles_per_row"]
    yield (
        f"Packing (pool of {packing['pool_size']}): a round of {packing['samples']:,} samples fills "
        f"{packing['rows']:,} rows of {packing['context_length']:,} tokens, {percent(packing['fill'])} full, with "
        f"{tiles['mean']:.1f} tiles (at most {tiles['max']:,}); no sample is truncated."
    )
    if "plot" in facts:
        yield f"plot: {facts['plot']}"


def stats_tables(sources: list[dict[str, Any]]) -> tuple[Table, Table, Table]:
    """Make the tables of samples, tokens, and images with turns, one row per source."""
    columns = ("records", "usable", "unusable", "too long", "filtered", "% samples", "% tokens")
    samples = table("Samples", "source", *columns, numbers=True)
    tokens = table("Tokens per sample", "source", "mean", "median", "95 %", "max", "total", "trained", numbers=True)
    has_videos = any(each["frames"]["total"] for each in sources)
    counted_parts = ("images", *(("frames", "seconds") if has_videos else ()), "tiles", "turns")
    others = table("Per sample", "source", *(cell for name in counted_parts for cell in (name, "max")), numbers=True)
    for each in sources:
        numbers = [each["records"], each["usable"], *each["left_out"].values()]
        shares = [percent(each[key]) if key in each else "" for key in ("share_of_samples", "share_of_tokens")]
        samples.add_row(each["name"], *(f"{number:,}" for number in numbers), *shares)
        length, trained = each["tokens"], each["trained_tokens"]["total"]
        lengths = [f"{round(length[key]):,}" for key in ("mean", "median", "p95", "max")]
        share = percent(trained / length["total"]) if length["total"] else ""
        tokens.add_row(each["name"], *lengths, compact(length["total"]), f"{compact(trained)} ({share})")
        pairs = [(f"{each[key]['mean']:.1f}", f"{round(each[key]['max'], 1):,}") for key in counted_parts]
        others.add_row(each["name"], *(cell for pair in pairs for cell in pair))
    return samples, tokens, others


def reasons_of(reasons: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the reasons of skipped samples, each with an example."""
    if reasons:
        yield "Skipped:"
    for reason in reasons[:REASONS_SHOWN]:
        example = reason["example"]
        yield f"  {reason['number']:,} {reason['kind']}, such as {example['sample']}: {example['reason']}"
    if rest := reasons[REASONS_SHOWN:]:
        yield f"  {sum(reason['number'] for reason in rest):,} with {len(rest)} other reasons"


def unused_parts(sources: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the unused parts of the records, with the source's name if there are several sources."""
    from smol_hf.data.stream.record_use import describe_use

    for each in sources:
        yield from describe_use(each, each["name"] if len(sources) > 1 else "")


def histogram(bars: list[dict[str, int]]) -> Iterator[str]:
    if not bars:
        return
    yield "Samples by number of tokens:"
    most = max(bar["number"] for bar in bars)
    width = len(f"{bars[-1]['to']:,}")
    for bar in bars:
        length = "█" * -(-bar["number"] * BAR // most)
        yield f"  {bar['from']:>{width},} – {bar['to']:>{width},} {length} {bar['number']:,}"


def describe_prepared(facts: dict[str, Any]) -> Iterator[str | Table]:
    """Yield the counts of the sources, of a shard or of all, and the shards that are missing."""
    title = f"Prepared as {facts['format']}"
    if "shard" in facts:
        name = f"shard {facts['shard']} of {facts['shards']}"
        yield from describe_written(f"{title}: {name}", facts["sources"])
        if facts["was_complete"]:
            yield f"{name} was complete already: nothing was written"
        if facts["missing"]:
            yield facts["advice"]
        else:
            yield from describe_written(f"{title}: all {facts['shards']} shards", facts["all"])
    else:
        yield from describe_written(title, facts["sources"])
    if any(each["left_out"] for each in facts.get("all", facts["sources"])):
        yield "skipped.jsonl lists each skipped sample."
    yield f"written to {facts['output']}"


def describe_written(title: str, sources: list[dict[str, Any]]) -> Iterator[str | Table]:
    media = ("images", *(("videos",) if any(each["videos"] for each in sources) else ()))
    columns = ("source", "records", "written", "skipped", *media, "bytes")
    result = table(title, *columns, numbers=True)
    for each in sources:
        numbers = [f"{each[key]:,}" for key in ("records", "written", "left_out", *media)]
        result.add_row(each["name"], *numbers, compact(each["bytes"]))
    yield result
    yield from unused_parts(sources)
    for each in sources:
        yield from reasons_of(each["reasons"])
        if each.get("as_messages"):
            yield (
                f"{each['as_messages']:,} records of {each['name']} do not fit the LLaVA format (a text contains "
                "<image>, or has several parts): they are written as messages with typed parts"
            )
