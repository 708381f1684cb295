"""The command publish: what it takes, and what it prints."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table


def add_publish(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="folder of a published checkpoint or adapter")
    parser.add_argument("repository", metavar="OWNER/NAME", help="repository on the Hub; made if it is not there")
    parser.add_argument("--yes", action="store_true", help="upload; without it nothing is sent or written")
    parser.add_argument("--private", action="store_true", help="for its owner alone")
    parser.add_argument("--branch", default="main", help="made from main if it is not there (default main)")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead of committing")
    parser.add_argument("--message", help="of the commit")
    parser.add_argument("--token", help="token of the Hub (default: that of this login)")
    parser.add_argument("--license", help="licence for the card's front matter, for example apache-2.0")
    paths = parser.add_mutually_exclusive_group()
    paths.add_argument("--shorten-paths", action="store_true", help="write absolute paths without their folders")
    paths.add_argument("--allow-paths", action="store_true", help="publish absolute paths of this machine")
    parser.add_argument(
        "--replace-weights", action="store_true", help="delete other weights that the repository holds, if any"
    )


def run_publish(arguments: argparse.Namespace) -> None:
    from smol_hf.publishing.plan import plan
    from smol_hf.publishing.upload import loading_lines, publish

    names = ("branch", "private", "create_pr", "message", "license", "shorten_paths", "allow_paths")
    publication = plan(
        arguments.checkpoint, arguments.repository, **{name: getattr(arguments, name) for name in names}
    )
    console = Console(highlight=False, markup=False, soft_wrap=True)
    print_plan(console, publication)
    if publication.problems:
        raise ValueError("\nerror: ".join(publication.problems))
    if not arguments.yes:
        console.print("nothing was sent: add --yes to upload")
        return
    done = publish(publication, token=arguments.token, replace_weights=arguments.replace_weights)
    console.print(f"{done.address} ({'private' if done.private else 'public'})")
    new = "" if done.is_new else "nothing had changed: "
    console.print(f"{new}{done.verified} files are there as they are here, at commit {done.commit}")
    if done.others:
        console.print(f"it also holds {', '.join(done.others)}, as before")
    console.print(f"\n{loading_lines(publication, done.revision)}")


def print_plan(console: Console, publication) -> None:
    contents = publication.contents
    console.print(f"{contents.folder} → {publication.repository}")
    table = Table()
    for column in ("file", "bytes", ""):
        table.add_column(column, justify="right" if column == "bytes" else "left")
    for name in contents.files:
        notes = ["LFS"] if publication.goes_by_lfs(name) else []
        if name in publication.edits:
            notes.append("changed" if (contents.folder / name).is_file() else "new")
        table.add_row(name, f"{publication.size_of(name):,}", ", ".join(notes))
    table.add_section()
    table.add_row(f"{len(contents.files)} files", f"{publication.size:,}", "")
    console.print(table, soft_wrap=False)
    where = f"a pull request to {publication.branch}" if publication.create_pr else f"branch {publication.branch}"
    visible = "private" if publication.private else "public, unless the repository exists and is private"
    console.print(f"to {where}, {visible}; licence: {', '.join(publication.licenses) or 'none'}")
    for name, reason in contents.left_out.items():
        console.print(f"left out: {name} ({reason})")
    for line in publication.changes():
        console.print(line)
    for warning in publication.warnings:
        console.print(f"mind: {warning}")
