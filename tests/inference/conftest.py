"""Checkpoints that generate: random ones whose answers depend on the prompt, and one that knows a story."""

import pytest
import torch
from helpers import build_model, build_processor
from inference.text_checkpoints import save_text_checkpoint
from modeling.builders import randomise

from smol_hf.publishing.checkpoint import publish_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return save_text_checkpoint(tmp_path_factory.mktemp("random"))


@pytest.fixture(scope="session")
def storyteller(tmp_path_factory):
    """A checkpoint that knows `STORY` by heart."""
    return save_text_checkpoint(tmp_path_factory.mktemp("storyteller"), steps=150)


@pytest.fixture(scope="module")
def loaded():
    """A vision-language model and its processor. Small initial weights would repeat one token whatever they read."""
    torch.manual_seed(0)
    processor = build_processor()
    return randomise(build_model(processor), scale=0.3), processor


@pytest.fixture(scope="session")
def vlm(tmp_path_factory):
    """The folder of a checkpoint as `loaded`."""
    torch.manual_seed(0)
    processor = build_processor()
    model = randomise(build_model(processor), scale=0.3)
    return publish_checkpoint(tmp_path_factory.mktemp("vlm") / "checkpoint", model, processor)
