"""The recipes of docs/guides/mixtures.md parse, and its table lists keys that exist."""

import re

import pytest
import yaml
from doc_pages import blocks, read_page

from smol_hf.data.mixture.mixture import MixtureEntry, parse_entries
from smol_hf.training.recipe.recipes import load_arguments

KEYS = read_page("mixtures").partition("\n| Key ")[2].partition("\n\n")[0]


@pytest.mark.parametrize("block", blocks("mixtures", "yaml"))
def test_the_recipes_of_the_page_parse(block, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{block}output_dir: runs/x\n")
    _, _, arguments, _ = load_arguments(["--config", str(path)])
    entries = parse_entries(arguments.mixture)
    shown = yaml.safe_load(block)["mixture"]
    assert len(entries) == (len(shown) if isinstance(shown, list) else 107)


def test_the_table_lists_keys_of_an_entry():
    keys = {key for line in re.findall(r"^\| (`.*?) \|", KEYS, re.MULTILINE) for key in re.findall(r"`(\w+)`", line)}
    assert {"data", "samples", "modality", "available"} <= keys <= set(MixtureEntry.__dataclass_fields__)
