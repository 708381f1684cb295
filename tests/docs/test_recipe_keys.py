"""The page and the help of the recipe keys are what the arguments declare."""

import importlib.util
from pathlib import Path

import pytest

from smol_hf.training.recipe.key_help import FILE

DOCS = Path(__file__).resolve().parents[2] / "docs"
AGAIN = "write it again: python docs/recipe_keys.py > docs/recipe_keys.md"


@pytest.fixture(scope="module")
def generator():
    specification = importlib.util.spec_from_file_location("recipe_keys", DOCS / "recipe_keys.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_page_is_that_of_the_declaration(generator):
    assert (DOCS / "recipe_keys.md").read_text("utf-8") == generator.page(), AGAIN


def test_the_help_is_that_of_the_declaration(generator):
    assert FILE.read_text("utf-8") == generator.help_file(), AGAIN
