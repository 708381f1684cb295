"""docs/walkthrough.md is what a run writes today, and its links lead to the code that they name."""

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def page():
    specification = importlib.util.spec_from_file_location("walkthrough", DOCS / "walkthrough.py")
    walkthrough = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(walkthrough)
    return walkthrough.text()


def test_the_walkthrough_is_what_a_run_writes(page):
    message = "write it again: python docs/walkthrough.py > docs/walkthrough.md"
    assert page == (DOCS / "walkthrough.md").read_text(encoding="utf-8"), message


def test_it_has_twelve_steps_with_values_and_code(page):
    steps = page.split("\n## ")[1:]
    assert [step.split(".")[0] for step in steps] == [str(number) for number in range(1, 13)]
    assert all("\n- " in step and "\nCode: [" in step for step in steps)


def test_every_link_leads_to_what_it_names(page):
    links = re.findall(r"\[`(?:\w+\.)?(\w+)`, ([\w/.]+):(\d+)\]\(\.\./([\w/.]+)#L(\d+)\)", page)
    assert len(links) == page.count("](../")
    for name, file, line, linked_file, linked_line in links:
        assert (file, line) == (linked_file, linked_line)
        below = (DOCS.parent / file).read_text(encoding="utf-8").splitlines()[int(line) - 1 :]
        definition = next(each for each in below if re.match(r"\s*(def|class) ", each))  # below its decorators
        assert re.match(rf"\s*(def|class) {name}\b", definition), (name, file, line)
