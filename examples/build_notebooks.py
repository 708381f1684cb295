"""Write the notebooks of this folder from the pages in docs/tutorials: `python examples/build_notebooks.py`.

Each fenced `python` or `bash` block of a page becomes a code cell. The text between them becomes a Markdown cell.
"""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
CODE = re.compile(r"^```(python|bash)\n(.*?)^```\n", flags=re.DOTALL | re.MULTILINE)


def notebook_path(page):
    """The notebook of a page: same name, in this folder."""
    return ROOT / "examples" / f"{page.stem}.ipynb"


def notebook_text(page):
    """The text of the notebook file of `page`."""
    cells, end = [], 0
    text = page.read_text(encoding="utf-8")
    for block in CODE.finditer(text):
        language, code = block.groups()
        add_cell(cells, "markdown", with_links_from_examples(text[end : block.start()]))
        add_cell(cells, "code", code if language == "python" else as_notebook_shell(code))
        end = block.end()
    add_cell(cells, "markdown", with_links_from_examples(text[end:]))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def add_cell(cells, kind, source):
    """Append a cell, unless `source` is blank."""
    if source.strip():
        outputs = {"execution_count": None, "outputs": []} if kind == "code" else {}
        lines = source.strip("\n").splitlines(keepends=True)
        cells.append({"cell_type": kind, "id": f"cell-{len(cells)}", "metadata": {}, **outputs, "source": lines})


def as_notebook_shell(code):
    """Shell lines in a notebook's form: `STEPS=9` → `STEPS = 9`; a command gets `!`, and `$STEPS` works in both."""
    lines, continued = [], False
    for line in code.splitlines():
        if not continued and (setting := re.fullmatch(r"([A-Z_]+)=(\w+)( +#.*)?", line)):
            line = f"{setting[1]} = {setting[2]}{setting[3] or ''}"
        elif not continued and line and not line.startswith("#"):
            line = f"!{line}"
        continued = line.endswith("\\")
        lines.append(line)
    return "\n".join(lines)


def with_links_from_examples(text):
    """Links of docs/tutorials as links from this folder."""
    return re.sub(r"\]\((\w+)\.md", r"](\1.ipynb", text.replace("](../", "](../docs/"))


if __name__ == "__main__":
    for page in PAGES:
        notebook_path(page).write_text(notebook_text(page), encoding="utf-8")
