"""A vision-language checkpoint whose answers depend on what it reads, and held-out rows."""

import pytest
import torch
from evaluation.held_out import save_rows
from helpers import build_model, build_processor
from modeling.builders import randomise

from smol_hf.publishing.checkpoint import publish_checkpoint


@pytest.fixture(scope="session")
def vlm(tmp_path_factory):
    """Its answers end early, by the end token, or at the limit."""
    torch.manual_seed(0)
    processor = build_processor()
    model = randomise(build_model(processor), scale=0.3)
    return publish_checkpoint(tmp_path_factory.mktemp("vlm") / "checkpoint", model, processor)


@pytest.fixture
def held_out(tmp_path):
    """A file of 12 rows about 4 images, two kinds of questions, and one row with several answers."""
    return save_rows(tmp_path / "data")
