"""What docs/data.md shows of samples is what a recipe takes."""

import re
from pathlib import Path

import yaml

from smol_hf.training.recipe.recipes import parse_recipe

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
SAMPLES = DOCS.partition("\n## Samples\n")[2].partition("\n## ")[0]


def test_its_keys_are_keys_of_recipes():
    shown = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", SAMPLES, flags=re.DOTALL)]
    together = {key: value for recipe in shown for key, value in recipe.items()}
    model, data, _ = parse_recipe({**together, "preset": "tiny-vlm", "output_dir": "unused"})
    assert not model.enlarge_images and data.image_resizing == "fast" and data.sample_packing
    assert data.too_long == ["tiles", "pages", "turns"] and data.max_tiles_per_row == 48
