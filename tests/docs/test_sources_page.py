"""The recipes of docs/guides/sources.md and records.md parse, and their files are opened."""

import pytest
import yaml
from doc_pages import blocks, read_page
from shards import write_tar

from smol_hf.data.mixture.mixture import MixtureEntry
from smol_hf.data.sources.hub_dataset import hub_id
from smol_hf.data.sources.location import KINDS
from smol_hf.training.recipe.recipes import parse_recipe

SOURCES = read_page("sources")
RECIPES = [yaml.safe_load(block) for name in ("sources", "records") for block in blocks(name, "yaml")]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the files that the pages name."""
    monkeypatch.chdir(tmp_path)
    for name in ("shards", "photos", "tables"):
        (tmp_path / name).mkdir()
    for number in range(10):
        write_tar(tmp_path / "shards" / f"train-{number:05d}.tar", [("1.txt", b"x"), ("1.jpg", b"")])
    (tmp_path / "photos" / "cat.jpg").touch()
    (tmp_path / "photos" / "cat.txt").write_text("A cat.")
    return tmp_path


@pytest.mark.parametrize("recipe", RECIPES, ids=[str(recipe)[:40] for recipe in RECIPES])
def test_recipes_of_the_page_are_read(recipe, place):
    _, arguments, _ = parse_recipe({**recipe, "preset": "tiny-vlm", "output_dir": "unused"})
    entries = arguments.mixture or [{"data": arguments.data}]
    for keys in entries:
        entry = MixtureEntry(**keys)
        if entry.data != "cards.parquet" and not entry.data.startswith("s3://") and hub_id(entry.data) is None:
            assert len(entry.open()[0]) == (10 if "shards" in entry.data else 1)


def test_the_page_names_every_kind_and_shows_the_hub_and_a_bucket():
    assert len(RECIPES) == 6
    assert all(f"{kind}`" in SOURCES for kind in KINDS if kind != ".ndjson")
    assert any(hub_id(recipe.get("data", "")) for recipe in RECIPES)
