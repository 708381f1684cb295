"""The commands publish and serve: their options and output."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from smol_hf.commands.parser import Command, options_of
from smol_hf.commands.printing import print_parts
from smol_hf.support.formatting import counted

if TYPE_CHECKING:
    from rich.table import Table


def add_target(parser: Any) -> None:
    """Add the options of an upload, to a parser or a group."""
    add = parser.add_argument
    add("--private", action="store_true", help="make the repository private")
    add("--branch", default="main", help="target branch, created from main if missing (default main)")
    add("--token", help="access token of the Hub (default: the token of this login)")
    add("--license", help="licence for the model card, for example apache-2.0")


def add_publish(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", help="folder of a published checkpoint or adapter")
    add("repository", metavar="OWNER/NAME", nargs="?", help="Hub repository; created if missing")
    add("--yes", action="store_true", help="upload (without --yes, only show what would be uploaded)")
    add_target(parser)
    add("--create-pr", action="store_true", help="open a pull request instead of a commit")
    add("--message", help="commit message")
    paths = parser.add_mutually_exclusive_group()
    paths.add_argument("--shorten-paths", action="store_true", help="replace absolute paths by file names")
    paths.add_argument("--allow-paths", action="store_true", help="publish absolute paths of this machine")
    add("--replace-weights", action="store_true", help="delete older weights in the repository")
    space = parser.add_argument_group("Space")
    space_help = "upload a page that runs the model, as OWNER/NAME-space, instead of the model"
    space.add_argument("--space", action="store_true", help=space_help)
    space.add_argument("--space-name", metavar="OWNER/NAME", help="another name for the Space")
    space.add_argument("--space-output", metavar="FOLDER", help="write the Space to a folder instead")
    add_examples(space)


def run_publish(arguments: argparse.Namespace) -> None:
    if arguments.space or arguments.space_name or arguments.space_output:
        return run_space(arguments)
    if arguments.examples is not None:
        raise ValueError("--examples has no effect without a Space: add --space")
    if arguments.repository is None:
        raise ValueError("OWNER/NAME is missing: name the target repository on the Hub")

    from smol_hf.publishing.plan import plan
    from smol_hf.publishing.upload import loading_lines, publish

    names = ("branch", "private", "create_pr", "message", "license", "shorten_paths", "allow_paths")
    publication = plan(arguments.checkpoint, arguments.repository, **options_of(arguments, *names))
    print_parts(describe_plan(publication))
    if publication.problems:
        raise ValueError("\nerror: ".join(publication.problems))
    if not arguments.yes:
        print_parts(["nothing was uploaded: add --yes to upload"])
        return
    done = publish(publication, token=arguments.token, replace_weights=arguments.replace_weights)
    unchanged = "" if done.is_new else "nothing to change: "
    lines = [
        f"{done.url} ({'private' if done.private else 'public'})",
        f"{unchanged}verified {counted(done.verified, 'file')} at commit {done.commit}",
    ]
    if done.others:
        lines.append(f"the repository also holds {', '.join(done.others)} (unchanged)")
    print_parts([*lines, "", loading_lines(publication, done.revision)])


def run_space(arguments: argparse.Namespace) -> None:
    from smol_hf.publishing.plan import MAIN
    from smol_hf.publishing.space.space import plan_space
    from smol_hf.publishing.upload import publish_space

    for option in ("create_pr", "shorten_paths", "allow_paths", "replace_weights"):
        if getattr(arguments, option):
            raise ValueError(f"--{option.replace('_', '-')} has no effect on a Space: leave it out")
    revision = None if arguments.branch == MAIN else arguments.branch
    options = options_of(arguments, "space_name", "license", "token", "examples")
    space = plan_space(arguments.checkpoint, arguments.repository, revision=revision, **options)
    print_parts(describe_space(space))
    if arguments.space_output:
        folder = space.write(arguments.space_output)
        print_parts([f"written to {folder}: python {folder / 'app.py'} serves it"])
    elif not arguments.yes:
        choice = "add --yes to upload, or --space-output FOLDER to write it to a folder"
        print_parts([f"nothing was uploaded: {choice}"])
    else:
        done = publish_space(space, **options_of(arguments, "private", "message", "token"))
        print_parts([f"{'' if done.is_new else 'nothing to change: '}{done.url}, commit {done.commit}"])
        if done.private:
            warning = f"warning: {space.model_id} is private: give the Space a secret HF_TOKEN with read access"
            print_parts([warning])


def describe_space(space) -> Iterator[str | Table]:
    from rich.table import Column, Table

    yield f"{space.model_id} → {f'spaces/{space.repository}' if space.repository else 'a Space'}"
    table = Table("file", Column("bytes", justify="right"))
    for name, content in space.files.items():
        table.add_row(name, f"{len(content):,}")
    yield table
    yield space.note
    if space.settings["examples"]:
        yield "warning: every visitor of the Space sees the examples"
    yield f"README.md begins with\n{space.front_matter.rstrip()}"


def add_serve(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", help="folder or Hub id of a checkpoint (needs the package gradio)")
    add("--host", default="127.0.0.1", help="host name or IP address (default 127.0.0.1, only this machine)")
    add("--port", type=int, help="port (default: the first free port from 7860)")
    add("--share", action="store_true", help="also serve at a public URL of Gradio")
    add("--revision", help="branch, tag or commit of a Hub id")
    add("--trust-remote-code", action="store_true", help="run code that comes with the checkpoint")
    add_examples(parser)


def add_examples(parser: Any) -> None:
    help_text = (
        "example prompts of the page, as in generate --prompts-file, or none (default: samples of the training data, "
        "if the run is on this machine)"
    )
    parser.add_argument("--examples", metavar="FILE", help=help_text)


def run_serve(arguments: argparse.Namespace) -> None:
    from smol_hf.publishing.space.local_app import serve_locally

    names = ("revision", "host", "port", "share", "trust_remote_code", "examples")
    serve_locally(arguments.checkpoint, **options_of(arguments, *names))


def describe_plan(publication) -> Iterator[str | Table]:
    from rich.table import Column, Table

    contents = publication.contents
    yield f"{contents.folder} → {publication.repository}"
    table = Table("file", Column("bytes", justify="right"), "")
    for name in contents.files:
        notes = ["LFS"] if publication.goes_by_lfs(name) else []
        if name in publication.edits:
            notes.append("changed" if (contents.folder / name).is_file() else "new")
        table.add_row(name, f"{publication.size_of(name):,}", ", ".join(notes))
    table.add_section()
    table.add_row(counted(len(contents.files), "file"), f"{publication.size:,}", "")
    yield table
    where = f"a pull request to {publication.branch}" if publication.create_pr else f"branch {publication.branch}"
    visible = "private" if publication.private else "public, unless the repository exists and is private"
    yield f"to {where}, {visible}; licence: {', '.join(publication.licenses) or 'none'}"
    yield from (f"not uploaded: {name} ({reason})" for name, reason in contents.left_out.items())
    yield from publication.changes()
    yield from (f"warning: {warning}" for warning in publication.warnings)


PUBLISHING_COMMANDS = {
    "publish": Command(
        "upload a checkpoint to the Hub, or a Space for it; without --yes, show what would be uploaded",
        "smol-hf publish runs/demo/checkpoint OWNER/NAME --license apache-2.0\n"
        "  smol-hf publish runs/demo/checkpoint OWNER/NAME --space",
        add_publish,
        run_publish,
    ),
    "serve": Command(
        "serve a web page on this machine that runs a checkpoint",
        "smol-hf serve runs/demo/checkpoint",
        add_serve,
        run_serve,
    ),
}
