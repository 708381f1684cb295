"""The commands publish and serve: their options and output."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from smol_hf.commands.parser import Command

if TYPE_CHECKING:
    from rich.console import Console


def add_publish(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="folder of a published checkpoint or adapter")
    parser.add_argument("repository", metavar="OWNER/NAME", nargs="?", help="Hub repository; created if missing")
    parser.add_argument("--yes", action="store_true", help="upload (without --yes, only show what would be uploaded)")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--branch", default="main", help="target branch, created from main if missing (default main)")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead of a commit")
    parser.add_argument("--message", help="commit message")
    parser.add_argument("--token", help="access token of the Hub (default: the token of this login)")
    parser.add_argument("--license", help="licence for the model card, for example apache-2.0")
    paths = parser.add_mutually_exclusive_group()
    paths.add_argument("--shorten-paths", action="store_true", help="replace absolute paths by file names")
    paths.add_argument("--allow-paths", action="store_true", help="publish absolute paths of this machine")
    parser.add_argument("--replace-weights", action="store_true", help="delete older weights in the repository")
    space = parser.add_argument_group("Space")
    space.add_argument(
        "--space",
        action="store_true",
        help="upload a page that runs the model, as OWNER/NAME-space, instead of the model",
    )
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

    from rich.console import Console

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
        console.print("nothing was uploaded: add --yes to upload")
        return
    done = publish(publication, token=arguments.token, replace_weights=arguments.replace_weights)
    console.print(f"{done.url} ({'private' if done.private else 'public'})")
    new = "" if done.is_new else "nothing to change: "
    console.print(f"{new}verified {done.verified} files at commit {done.commit}")
    if done.others:
        console.print(f"the repository also holds {', '.join(done.others)} (unchanged)")
    console.print(f"\n{loading_lines(publication, done.revision)}")


def run_space(arguments: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from smol_hf.publishing.plan import MAIN
    from smol_hf.publishing.space.space import plan_space
    from smol_hf.publishing.upload import publish_space

    for option in ("create_pr", "shorten_paths", "allow_paths", "replace_weights"):
        if getattr(arguments, option):
            raise ValueError(f"--{option.replace('_', '-')} has no effect on a Space: leave it out")
    space = plan_space(
        arguments.checkpoint,
        arguments.repository,
        space_name=arguments.space_name,
        revision=None if arguments.branch == MAIN else arguments.branch,
        license=arguments.license,
        token=arguments.token,
        examples=arguments.examples,
    )
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"{space.model_id} → {f'spaces/{space.repository}' if space.repository else 'a Space'}")
    table = Table()
    for column in ("file", "bytes"):
        table.add_column(column, justify="right" if column == "bytes" else "left")
    for name, content in space.files.items():
        table.add_row(name, f"{len(content):,}")
    console.print(table, soft_wrap=False)
    console.print(space.note)
    if space.settings["examples"]:
        console.print("warning: every visitor of the Space sees the examples")
    console.print(f"README.md begins with\n{space.front_matter.rstrip()}")
    if arguments.space_output:
        folder = space.write(arguments.space_output)
        console.print(f"written to {folder}: python {folder / 'app.py'} serves it")
    elif not arguments.yes:
        console.print("nothing was uploaded: add --yes to upload, or --space-output FOLDER to write it to a folder")
    else:
        done = publish_space(space, private=arguments.private, message=arguments.message, token=arguments.token)
        console.print(f"{'' if done.is_new else 'nothing to change: '}{done.url}, commit {done.commit}")
        if done.private:
            console.print(f"warning: {space.model_id} is private: give the Space a secret HF_TOKEN with read access")


def add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="folder or Hub id of a checkpoint (needs the package gradio)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="host name or IP address (default 127.0.0.1, only this machine)"
    )
    parser.add_argument("--port", type=int, help="port (default: the first free port from 7860)")
    parser.add_argument("--share", action="store_true", help="also serve at a public URL of Gradio")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub id")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the checkpoint")
    add_examples(parser)


def add_examples(group) -> None:
    group.add_argument(
        "--examples",
        metavar="FILE",
        help="example prompts of the page, as in generate --prompts-file, or none (default: samples of the training "
        "data, if the run is on this machine)",
    )


def run_serve(arguments: argparse.Namespace) -> None:
    from smol_hf.publishing.space.local_app import serve_locally

    names = ("revision", "host", "port", "share", "trust_remote_code", "examples")
    serve_locally(arguments.checkpoint, **{name: getattr(arguments, name) for name in names})


def print_plan(console: Console, publication) -> None:
    from rich.table import Table

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
        console.print(f"not uploaded: {name} ({reason})")
    for line in publication.changes():
        console.print(line)
    for warning in publication.warnings:
        console.print(f"warning: {warning}")


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
