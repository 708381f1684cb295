"""The recipes of docs/guides/samples.md parse."""

import yaml
from doc_pages import blocks

from smol_hf.training.recipe.recipes import parse_recipe


def test_its_keys_are_keys_of_recipes():
    shown = [yaml.safe_load(block) for block in blocks("samples", "yaml")]
    together = {key: value for recipe in shown for key, value in recipe.items()}
    model, data, _ = parse_recipe({**together, "preset": "tiny-vlm", "output_dir": "unused"})
    assert not model.enlarge_images and data.image_resizing == "fast" and data.sample_packing
    assert data.video_fps == 1 and data.video_max_frames == 64
    assert data.too_long == ["tiles", "frames", "pages", "turns"] and data.max_tiles_per_row == 48
