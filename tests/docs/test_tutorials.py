"""The tutorials run as written, from first to last cell, and each notebook has the text of its page.

The cells run in this process, without a Jupyter kernel: a kernel imports everything again, and each `!smol-hf` line
in it launches a process (5 to 8 seconds of CPU each). The commands run through `main` instead, for two steps each.
"""

import json
import re
import runpy
import shlex
import socket
import string
from pathlib import Path

import pytest
from isolated_runs import run_isolated

from smol_hf.commands.main import main

ROOT = Path(__file__).resolve().parents[2]
BUILD = runpy.run_path(str(ROOT / "examples" / "build_notebooks.py"))
each_page = pytest.mark.parametrize("page", BUILD["PAGES"], ids=[page.stem for page in BUILD["PAGES"]])


def code_cells(page):
    """The source of each code cell. The first sets the numbers of steps, here to 2."""
    notebook = json.loads(BUILD["notebook_path"](page).read_text(encoding="utf-8"))
    first, *others = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert re.fullmatch(r"(\w*STEPS = \d+\n?)+", first), first
    return [re.sub(r"\d+", "2", first), *others]


def run_cell(cell, names):
    """Run a cell with the variables `names`, as Jupyter does; `!smol-hf` lines call `main`."""
    if not cell.startswith("!"):
        exec(compile(cell, "<cell>", "exec"), names)
        return
    for line in cell.replace("\\\n", " ").splitlines():
        program, *words = shlex.split(string.Template(line).substitute(names))
        assert program == "!smol-hf" and main(words) == 0, line


CONNECT = socket.socket.connect


def refuse_connection(self, address):
    if self.family != socket.AF_UNIX:
        raise AssertionError(f"a tutorial contacts {address}")
    CONNECT(self, address)


@pytest.mark.slow
@each_page
def test_a_notebook_runs_from_first_to_last_cell(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.socket.connect", refuse_connection)
    monkeypatch.setattr("smol_hf.conversion.checking.check.subprocess.run", run_isolated)
    names = {"__name__": "__main__"}
    for cell in code_cells(page):
        run_cell(cell, names)


@each_page
def test_a_notebook_has_the_text_of_its_page(page):
    text = BUILD["notebook_path"](page).read_text(encoding="utf-8")
    assert text == BUILD["notebook_text"](page), "the page has changed, run: python examples/build_notebooks.py"
    assert not any(cell.get("outputs") for cell in json.loads(text)["cells"])


def test_each_notebook_has_a_page():
    assert set((ROOT / "examples").glob("*.ipynb")) == {BUILD["notebook_path"](page) for page in BUILD["PAGES"]}
