"""The pages of the documentation, and what they show: commands, programs, recipes and records."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GUIDES = ROOT / "docs" / "guides"
OTHERS = ("run_anywhere", "vision_for_your_model")  # pages of docs/ that are not guides


def read_page(name):
    """The text of a guide, or of the README."""
    other = {"README": ROOT / "README.md", **{each: ROOT / "docs" / f"{each}.md" for each in OTHERS}}
    return other.get(name, GUIDES / f"{name}.md").read_text(encoding="utf-8")


def blocks(name, language):
    return re.findall(rf"^```{language}\n(.*?)^```", read_page(name), flags=re.DOTALL | re.MULTILINE)


def commands(name):
    """The command lines of a page: those in blocks, and benchmarks in its sentences."""
    lines = "\n".join(blocks(name, "bash")).replace("\\\n", " ").splitlines()
    lines = [line.partition("  #")[0].strip() for line in lines]
    lines += re.findall(r"`(python benchmarks/[^`]+)`", read_page(name))
    return [line for line in lines if line]


def page_names():
    return ["README", *OTHERS, *sorted(path.stem for path in GUIDES.glob("*.md"))]
