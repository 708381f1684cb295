"""Printed tables of the commands `smol-hf data …`."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from smol_hf.data.stream.record_use import describe_use
from smol_hf.support.formatting import compact, percent

REASONS_SHOWN = 10
BAR = 40


def table(title: str, *columns: str, numbers: bool = False) -> Table:
    """Make a table. With `numbers`, all columns but the first are right-aligned."""
    result = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        result.add_column(column, justify="right" if numbers and index else "left", overflow="fold")
    return result


def print_list(console: Console, facts: dict[str, Any]) -> None:
    datasets = table("Hub datasets", "dataset", "adapter", "record")
    for each in facts["datasets"]:
        datasets.add_row(each["dataset"], each["adapter"], each["records"])
    adapters = table("Adapters", "adapter", "record", "recognised by", "package")
    for each in facts["adapters"]:
        adapters.add_row(each["name"], each["records"], each["known_by"], each["package"])
    for name, why in facts["broken"].items():
        adapters.add_row(name, f"unusable: {why}", "", "")
    console.print(datasets)
    console.print(adapters)
    if "mixture" in facts:
        mixture = table("Mixture", "name", "data", "adapter", "weight", "records")
        for each in facts["mixture"]:
            records = f"{each['records']:,}" if "records" in each else f"unreadable: {each['problem']}"
            adapter = each["adapter"] or ("" if each["data"] == "digits" else "chosen by the records' keys")
            cells = (each["name"], each["data"], adapter, each["weight"], records)
            mixture.add_row(*map(str, cells))
        console.print(mixture)


def print_preview(console: Console, facts: dict[str, Any]) -> None:
    console.print(
        f"{facts['shown']} samples of {facts['drawn']} records, {facts['left_out']} skipped, "
        f"{facts['repeated']} repeated; written to {facts['output']} ({compact(facts['bytes'])}B)",
        soft_wrap=True,
    )


def print_stats(console: Console, facts: dict[str, Any]) -> None:
    sources = facts["sources"]
    rows = [*sources, {"name": "all", **facts["all"]}] if len(sources) > 1 else sources
    if facts["first"] is not None:
        console.print(f"Of the first {facts['first']:,} records of each source:")
    samples = table(
        "Samples", "source", "records", "usable", "unusable", "too long", "filtered", "% samples", "% tokens",
        numbers=True,
    )  # fmt: skip
    for each in rows:
        shares = [percent(each[key]) if key in each else "" for key in ("share_of_samples", "share_of_tokens")]
        samples.add_row(
            each["name"], f"{each['records']:,}", f"{each['usable']:,}",
            *(f"{number:,}" for number in each["left_out"].values()), *shares,
        )  # fmt: skip
    tokens = table("Tokens per sample", "source", "mean", "median", "95 %", "max", "total", "trained", numbers=True)
    for each in rows:
        length, trained = each["tokens"], each["trained_tokens"]["total"]
        numbers = [f"{round(length[key]):,}" for key in ("mean", "median", "p95", "max")]
        share = percent(trained / length["total"]) if length["total"] else ""
        tokens.add_row(each["name"], *numbers, compact(length["total"]), f"{compact(trained)} ({share})")
    others = table("Per sample", "source", "images", "max", "tiles", "max", "turns", "max", numbers=True)
    for each in rows:
        cells = [
            cell
            for key in ("images", "tiles", "turns")
            for cell in (f"{each[key]['mean']:.1f}", f"{each[key]['max']:,}")
        ]
        others.add_row(each["name"], *cells)
    for one in (samples, tokens, others):
        console.print(one)
    console.print(f"tokenizer: {facts['tokenizer']}; context_length: {facts['context_length']:,}", soft_wrap=True)
    print_reasons(console, facts["all"]["reasons"])
    for each in sources:
        for line in describe_use(each, each["name"] if len(sources) > 1 else ""):
            console.print(line, soft_wrap=True)
    print_histogram(console, facts["all"]["histogram"])
    packing = facts["packing"]
    console.print(
        f"Packing (pool of {packing['pool_size']}): a round of {packing['samples']:,} samples fills "
        f"{packing['rows']:,} rows of {packing['context_length']:,} tokens, {percent(packing['fill'])} full, with "
        f"{packing['tiles_per_row']['mean']:.1f} tiles (at most {packing['tiles_per_row']['max']:,}); "
        f"{packing['truncated']} samples are truncated."
    )
    if "plot" in facts:
        console.print(f"plot: {facts['plot']}", soft_wrap=True)


def print_reasons(console: Console, reasons: list[dict[str, Any]]) -> None:
    if not reasons:
        return
    console.print("Skipped:")
    for reason in reasons[:REASONS_SHOWN]:
        example = reason["example"]
        console.print(f"  {reason['number']:,} {reason['kind']}, such as {example['sample']}: {example['reason']}")
    if len(reasons) > REASONS_SHOWN:
        rest = reasons[REASONS_SHOWN:]
        console.print(f"  {sum(reason['number'] for reason in rest):,} with {len(rest)} other reasons")


def print_histogram(console: Console, bars: list[dict[str, int]]) -> None:
    if not bars:
        return
    most = max(bar["number"] for bar in bars)
    width = len(f"{bars[-1]['to']:,}")
    console.print("Samples by number of tokens:")
    for bar in bars:
        length = "█" * -(-bar["number"] * BAR // most)
        console.print(f"  {bar['from']:>{width},} – {bar['to']:>{width},} {length} {bar['number']:,}")


def print_prepared(console: Console, facts: dict[str, Any]) -> None:
    result = table(
        f"Prepared as {facts['format']}", "source", "records", "written", "skipped", "images", "bytes", numbers=True
    )
    for each in facts["sources"]:
        numbers = [f"{each[key]:,}" for key in ("records", "written", "left_out", "images")]
        result.add_row(each["name"], *numbers, compact(each["bytes"]))
    console.print(result)
    several = len(facts["sources"]) > 1
    for each in facts["sources"]:
        for line in describe_use(each, each["name"] if several else ""):
            console.print(line, soft_wrap=True)
        print_reasons(console, each["reasons"])
        if each.get("as_messages"):
            console.print(
                f"{each['as_messages']:,} records of {each['name']} do not fit the LLaVA format (a text contains "
                "<image>, or has several parts): they are written as messages with typed parts"
            )
    if any(each["left_out"] for each in facts["sources"]):
        console.print("skipped.jsonl lists each skipped sample.")
    console.print(f"written to {facts['output']}", soft_wrap=True)
