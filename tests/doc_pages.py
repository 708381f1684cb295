"""The pages of the documentation, and what they show: commands, programs, recipes and records."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GUIDES = ROOT / "docs" / "guides"


def read_page(name):
    """The text of a guide, or of the README."""
    return (ROOT / "README.md" if name == "README" else GUIDES / f"{name}.md").read_text(encoding="utf-8")


def blocks(name, language):
    return re.findall(rf"^```{language}\n(.*?)^```", read_page(name), flags=re.DOTALL | re.MULTILINE)


def commands(name):
    """The command lines of a page: those in blocks, and benchmarks in its sentences."""
    lines = [line.partition("  #")[0].strip() for block in blocks(name, "bash") for line in block.splitlines()]
    lines += re.findall(r"`(python benchmarks/[^`]+)`", read_page(name))
    return [line for line in lines if line]


def page_names():
    return ["README", *sorted(path.stem for path in GUIDES.glob("*.md"))]
