"""The commands `smol-hf runs …`: runs in tables, and on one HTML page with their curves, from their logs."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smol_hf.commands.parser import Command
from smol_hf.commands.printing import print_parts, table
from smol_hf.support.atomic import atomic_file
from smol_hf.support.formatting import compact, counted, duration

if TYPE_CHECKING:
    from rich.table import Table

    from smol_hf.training.log.run_log import RunLog

ROWS = {
    "steps": "steps", "epoch": "epochs", "total_tokens": "tokens", "total_samples": "samples",
    "first_loss": "first loss", "last_loss": "last loss",
    "unknown_losses": "steps whose loss is no number", "median_tokens_per_second": "tokens/s, median",
    "median_trained_tokens_per_second": "trained tokens/s, median", "median_samples_per_second": "samples/s, median",
    "total_skipped_samples": "skipped samples", "total_skipped_steps": "skipped steps", "total_spikes": "spikes",
}  # fmt: skip
LOOKS = [(colour, dashes) for dashes in ("solid", "dashed", "dotted") for colour in (1, 2, 3)]  # of lines of a chart


def add_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="*", metavar="DIR", help="folders to search (default: runs)")


def add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs=1, metavar="DIR", help="output folder of a run, or of a chain's stages")
    parser.add_argument("--follow", action="store_true", help="print new lines of the log until the run ends")
    add_html(parser)


def add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", metavar="DIR", help="output folders of runs")
    add_html(parser)
    parser.set_defaults(follow=False)


def add_html(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page with the curves")


def open_runs(folders: Iterable[str], skips: bool = False) -> list[RunLog]:
    """Read the runs in folders. Raises FileNotFoundError, ValueError for a folder without one.

    Args:
        skips: leave out logs that are not of a run.
    """
    from smol_hf.training.log.run_log import find_runs, read_run

    runs: list[RunLog] = []
    for each in folders:
        folder = Path(each)
        if not folder.exists():
            raise FileNotFoundError(f"there is no folder {folder}")
        for place in (list(find_runs(folder)) if folder.is_dir() else []) or [folder]:
            try:
                name = place.name if place == folder else f"{folder.name}/{place.relative_to(folder).as_posix()}"
                runs.append(read_run(place, name))
            except (ValueError, FileNotFoundError):
                if not skips:
                    raise
    if len({run.name for run in runs}) < len(runs):
        for run in runs:
            run.name = str(run.folder)
    return runs


def run_list(arguments: argparse.Namespace) -> dict[str, Any]:
    from smol_hf.training.log.run_log import facts_of

    runs = open_runs(arguments.folders or ["runs"], skips=True)
    if not runs:
        raise ValueError(
            f"no run is in {', '.join(arguments.folders) or 'runs'}: name the folders with output folders"
        )
    return {"runs": [facts_of(run) for run in runs]}


def run_summary(arguments: argparse.Namespace) -> dict[str, Any]:
    """Summarise runs, and write their page if it is asked for. `--follow` first follows the run to its end."""
    from smol_hf.training.log.run_log import facts_of, follow

    if arguments.html is not None and arguments.html.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--html is {arguments.html}: name a file that ends with .html")
    if arguments.follow:
        if arguments.json:
            raise ValueError("--follow and --json exclude each other: follow log.jsonl, whose lines are JSON")
        print_parts(follow(Path(arguments.folders[0])))
    runs = open_runs(arguments.folders)
    facts = [facts_of(run) for run in runs]
    result: dict[str, Any] = {"runs": facts}
    if arguments.html is not None:
        write_page(arguments.html, runs, facts)
        result["page"] = str(arguments.html)
    return result


def state_of(facts: dict[str, Any]) -> str:
    if facts["state"] == "ended":
        return "ended"
    return f"no end yet, last line {duration(facts['seconds_since'])} ago"


def shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e6):
        return f"{int(value):,}"
    return compact(value) if abs(value) >= 1000 else f"{value:.4g}"


def describe_list(result: dict[str, Any]) -> Iterator[str | Table]:
    rows = table("", "run", "state", "steps", "last loss", "validation loss")
    for facts in result["runs"]:
        loss = facts["scores"].get("eval_loss", {}).get("last")
        rows.add_row(facts["folder"], state_of(facts), shown(facts["steps"]), shown(facts["last_loss"]), shown(loss))
    yield rows


def rows_of(runs: list[dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows of a summary: a label, and the value of each run. Rows without any value are left out."""
    yield "state", [state_of(facts) for facts in runs]
    cells = {label: [shown(facts[key]) for facts in runs] for key, label in ROWS.items()}
    for rate in dict.fromkeys(key for facts in runs for key in facts["learning_rates"]):
        cells[rate.replace("_", " ")] = [shown(facts["learning_rates"].get(rate)) for facts in runs]
    for score in dict.fromkeys(key for facts in runs for key in facts["scores"]):
        found = [facts["scores"].get(score) for facts in runs]
        name = score.removeprefix("eval_").replace("_", " ")
        cells[f"validation {name}, last"] = [shown(each and each["last"]) for each in found]
        best = [f"{shown(each['best'])} (step {each['best_step']:,})" if each else "–" for each in found]
        cells[f"validation {name}, best"] = best
    for source in dict.fromkeys(name for facts in runs for name in facts["sources"]):
        for kind in dict.fromkeys(kind for facts in runs for kind in facts["sources"].get(source, ())):
            name = kind.replace("eval_", "validation ").replace("_", " ")
            cells[f"{source}: {name}"] = [shown(facts["sources"].get(source, {}).get(kind)) for facts in runs]
    cells[ROWS["unknown_losses"]] = [shown(facts["unknown_losses"] or None) for facts in runs]
    yield from ((label, values) for label, values in cells.items() if set(values) != {"–"})


def describe_summary(result: dict[str, Any]) -> Iterator[str | Table]:
    runs = result["runs"]
    rows = table("", "", *(facts["name"] for facts in runs), numbers=True)
    for label, values in rows_of(runs):
        rows.add_row(label, *values)
    yield rows
    yield from notes_of(runs)
    if "page" in result:
        yield f"the page is {result['page']}"


def notes_of(runs: list[dict[str, Any]]) -> Iterator[str]:
    for facts in runs:
        if number := facts["unreadable_lines"]:
            yield f"{facts['folder']}: {counted(number, 'line')} of the log cannot be read: left out"


def write_page(path: Path, runs: list[RunLog], facts: list[dict[str, Any]]) -> None:
    """Write the page of runs: the table of the summary and the curves. It has no scripts and no external files."""
    import jinja2

    from smol_hf.support.resources import resource_path

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(resource_path("hub_templates", "runs.html.jinja").read_text("utf-8"))
    names = [run.name for run in runs]
    title = names[0] if len(names) == 1 else f"{len(names)} runs"
    html = template.render(
        title=title, names=names, rows=list(rows_of(facts)), notes=list(notes_of(facts)), charts=list(charts_of(runs))
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write_text(html, encoding="utf-8", newline="\n")


def charts_of(runs: list[RunLog]) -> Iterator[dict[str, Any]]:
    """Yield the charts: losses and scores of all runs together; rates and losses of sources of each run."""
    from smol_hf.training.log.run_log import is_score

    keys = list(dict.fromkeys(key for run in runs for key in run.names()))
    shared = ["loss", *(key for key in keys if is_score(key) and "/" not in key), "tokens_per_second"]
    for key in shared:
        title = key.replace("eval_", "validation ").replace("_", " ").capitalize()
        yield from chart(title, {run.name: run.values(key) for run in runs})
    for run in runs:
        of = f" of {run.name}" if len(runs) > 1 else ""
        rates = [key for key in keys if key.startswith("learning_rate")]
        yield from chart(
            f"Learning rates{of}", {each.removeprefix("learning_rate_"): run.values(each) for each in rates}
        )
        for kind, title in (("loss/", "Loss of each source"), ("eval_loss/", "Validation loss of each source")):
            found = [key for key in keys if key.startswith(kind)]
            yield from chart(title + of, {each.removeprefix(kind): run.values(each) for each in found})


def chart(title: str, lines: dict[str, dict[int, float]]) -> Iterator[dict[str, Any]]:
    """Yield a chart of lines (label → value by step), if any has a value. The page draws its legend."""
    from markupsafe import Markup
    from matplotlib.axes import Axes

    from smol_hf.evaluation.report.charts import COLOURS, svg

    drawn = [(label, values) for label, values in lines.items() if values]
    if not drawn:
        return
    looks = dict(zip([label for label, _ in drawn], LOOKS))  # further lines are only in the table

    def draw(axes: Axes) -> None:
        for label, values in drawn[: len(LOOKS)]:
            colour, dashes = looks[label]
            mark = "o" if len(values) <= 60 else None
            look = {"color": COLOURS[f"series-{colour}"], "linestyle": dashes, "linewidth": 1.6}
            axes.plot(list(values), list(values.values()), marker=mark, markersize=2.6, **look)

    legend = [{"label": label, "colour": colour, "dashes": dashes} for label, (colour, dashes) in looks.items()]
    picture = svg(draw, name=title, label="Values over the training steps")
    yield {"title": title, "svg": Markup(picture), "legend": legend, "left_out": len(drawn) - len(legend)}


RUN_COMMANDS = {
    "list": Command(
        "list runs with their state and losses", "smol-hf runs list runs", add_list, run_list, describe_list
    ),
    "show": Command(
        "summarise a run, also while it goes on",
        "smol-hf runs show runs/digits --html digits.html",
        add_show,
        run_summary,
        describe_summary,
    ),
    "compare": Command(
        "compare runs: losses, scores, rates and sources",
        "smol-hf runs compare runs/one runs/two --html both.html",
        add_compare,
        run_summary,
        describe_summary,
    ),
}
