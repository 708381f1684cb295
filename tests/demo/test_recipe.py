"""The recipe of the demo: other engines see its pages as it does."""

import io

import numpy as np
import torch
import yaml
from helpers import build_processor
from PIL import Image
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from smol_hf.data.digits import evaluation_questions
from smol_hf.support.resources import resource_path


def test_a_page_becomes_a_grid_and_an_overview_as_in_other_engines():
    """llama.cpp always writes both. A page has the size of the grid, so no engine resizes it before it cuts tiles."""
    recipe = yaml.safe_load(resource_path("recipes", "quickstart", "digits.yaml").read_text(encoding="utf-8"))
    side, longest = recipe["vision_config"]["image_size"], recipe["longest_edge"]
    assert recipe["page_size"] == longest == 2 * side
    ours = build_processor(tile_size=side, longest_edge=longest)
    theirs = Idefics3ImageProcessorPil(
        size={"longest_edge": longest}, max_image_size={"longest_edge": side}, do_rescale=False, do_normalize=False
    )
    for page in evaluation_questions(5, seed=1, page_size=longest):
        image = Image.open(io.BytesIO(page.conversation.images[0].content))
        tiles = torch.from_numpy(ours.tiles([image]))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        assert tiles.shape == (5, 3, side, side)
        assert torch.equal(tiles[0], pixels[:, :side, :side]) and torch.equal(tiles[3], pixels[:, side:, side:])
        native = torch.as_tensor(np.asarray(theirs(image, return_tensors="pt")["pixel_values"]))[0]
        assert torch.equal(tiles.float(), native.float())
