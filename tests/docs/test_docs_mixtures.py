"""What docs/data.md shows of mixtures is what a recipe takes."""

import re
from pathlib import Path

import pytest
import yaml

from smol_hf.data.mixture.mixture import MixtureEntry, parse_entries
from smol_hf.training.recipe.recipes import load_arguments

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
SECTION = re.search(r"## Mixtures\n(.*?)(\n## |\Z)", PAGE, re.DOTALL).group(1)
BLOCKS = re.findall(r"```yaml\n(.*?)```", SECTION, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_recipes_of_the_page_parse(block, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{block}output_dir: runs/x\n")
    _, _, arguments, _ = load_arguments(["--config", str(path)])
    entries = parse_entries(arguments.mixture)
    shown = yaml.safe_load(block)["mixture"]
    assert len(entries) == (len(shown) if isinstance(shown, list) else 107)


def test_the_table_names_keys_that_there_are():
    keys = {
        key for line in re.findall(r"^\| (`.*?) \|", SECTION, re.MULTILINE) for key in re.findall(r"`(\w+)`", line)
    }
    assert {"data", "samples", "modality", "available"} <= keys <= set(MixtureEntry.__dataclass_fields__)
