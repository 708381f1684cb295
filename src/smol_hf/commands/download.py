"""`smol-hf data download`: options, plan, confirmation and output."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from smol_hf.commands.printing import print_parts
from smol_hf.support.formatting import counted

if TYPE_CHECKING:
    from rich.table import Table


def add_download(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("what", nargs="*", metavar="DATASET_OR_URL", help="Hub ids of datasets, or URLs")
    add("--config", metavar="RECIPE", help="download the datasets of this recipe")
    add("--output", required=True, metavar="FOLDER", help="folder to write, with a subfolder per dataset")
    add("--dataset-config", metavar="NAME", help="download only the files of this configuration")
    add("--revision", metavar="REVISION", help="branch, tag or commit (default: main)")
    add("--include", action="append", metavar="PATTERN", help="download only matching files; repeatable")
    add("--extract", action="store_true", help="extract each archive into a folder of the same name")
    add("--yes", action="store_true", help="accept licences and sizes without a question")


def run_download(arguments: argparse.Namespace) -> None:
    from smol_hf.data.prepare.download import doubts, download_all, extract_all, refuse_full_disk

    output = Path(arguments.output)
    downloads = plans(arguments, output)
    refuse_duplicates(downloads)
    print_parts(describe(downloads, output, arguments.extract))
    refuse_full_disk(downloads, output, extract=arguments.extract)
    if (found := doubts(downloads)) and not arguments.yes:
        confirm(found)
    for download in downloads:
        download_all(download, say)
        extracted = extract_all(download, say) if arguments.extract else 0
        fetched, present = len(download.missing), len(download.files) - len(download.missing)
        more = f", {counted(extracted, 'archive')} extracted" if arguments.extract else ""
        say(f"{download.name}: {counted(fetched, 'file')} downloaded and verified, {present:,} already present{more}")


def plans(arguments: argparse.Namespace, output: Path) -> list:
    from smol_hf.data.prepare.download import plan_dataset, plan_url

    if bool(arguments.what) == bool(arguments.config):
        raise ValueError("nothing to download is named: give a dataset's id, URLs, or --config RECIPE")
    if arguments.config is not None:
        return [plan_dataset(name, output, **keys) for name, keys in datasets_of(arguments.config)]
    keys = {"config": arguments.dataset_config, "revision": arguments.revision, "include": arguments.include}
    return [plan_url(what, output) if "://" in what else plan_dataset(what, output, **keys) for what in arguments.what]


def datasets_of(recipe: str) -> list[tuple[str, dict]]:
    """Return (id, config and revision) of each Hub dataset of a recipe."""
    from smol_hf.data.sources.hub_dataset import hub_id, repository_of
    from smol_hf.training.recipe.data_arguments import DataArguments
    from smol_hf.training.recipe.recipes import parse_recipe, read_recipe

    (arguments,) = parse_recipe(read_recipe(recipe), (DataArguments,))
    single = {"data": arguments.data, "config": arguments.dataset_config, "revision": arguments.dataset_revision}
    found: dict[tuple, tuple[str, dict]] = {}
    for entry in arguments.mixture or [single]:
        name = hub_id(entry["data"])
        name = repository_of(entry["data"]) if name is None else name
        if name is not None:
            name, _, revision = name.partition("@")
            chosen = {"config": entry.get("config"), "revision": entry.get("revision") or revision or None}
            found[(name, *chosen.values())] = (name, chosen)
    if not found:
        raise ValueError(f"{recipe} has no Hub dataset: name a recipe that reads one")
    return list(found.values())


def refuse_duplicates(downloads: list) -> None:
    """Refuse two URLs that would become the same file. Raises ValueError."""
    of_urls = [download for download in downloads if not download.revision]
    places = [str(download.folder / file.name) for download in of_urls for file in download.files]
    for place in places:
        if places.count(place) > 1:
            raise ValueError(f"two URLs would both become {place}: download them into different folders")


def describe(downloads: list, output: Path, extract: bool) -> Iterator[str | Table]:
    from rich.table import Table

    from smol_hf.data.prepare.download import free_bytes, needed_bytes

    table = Table("dataset", "files", "size", "to download", "licence", "gated")
    for download in downloads:
        unknown = any(file.size is None for file in download.files)
        size = "unknown" if unknown else f"{download.size / 1e9:,.2f} GB"
        missing = f"{download.missing_size / 1e9:,.2f} GB"
        gated = ("yes, with access" if download.gated else "no") if download.revision else ""
        licence = download.licence or "unknown"
        table.add_row(download.name, f"{len(download.files):,}", size, missing, licence, gated)
    yield table
    needed = needed_bytes(downloads, extract=extract)
    yield f"needs {needed / 1e9:,.2f} GB at {output}; {free_bytes(output) / 1e9:,.1f} GB are free"


def confirm(found: list[str]) -> None:
    """Ask the user. Raises ValueError if the answer is not yes."""
    for doubt in found:
        say(f"warning: {doubt}")
    if not sys.stdin.isatty():
        raise ValueError("this needs a confirmation, and the input is not a terminal: agree with --yes")
    if input("Download? [y/N] ").strip().lower() not in ("y", "yes"):
        raise ValueError("not downloaded")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
