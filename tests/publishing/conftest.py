"""A small checkpoint to publish, and a Hub to publish it to."""

import shutil

import pytest
import torch
from helpers import build_model, build_processor
from huggingface_hub import constants
from publishing.writable_hub import TOKEN, WritableHub
from servers import serve

from smol_hf.publishing.checkpoint import publish_checkpoint


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """A checkpoint with a licence, in three shards."""
    torch.manual_seed(0)
    processor = build_processor(longest_edge=32)
    model = build_model(processor)
    folder = tmp_path_factory.mktemp("published") / "checkpoint"
    publish_checkpoint(folder, model, processor, license="mit", recipe={"data": "digits", "output_dir": "runs/x"})
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="80KB")
    assert len(list(folder.glob("*.safetensors"))) == 3
    return folder


@pytest.fixture
def checkpoint(published, tmp_path):
    return shutil.copytree(published, tmp_path / "run" / "checkpoint")


@pytest.fixture
def hub(monkeypatch):
    """A Hub that this process takes for the Hub."""
    hub = WritableHub()
    with serve(hub) as hub.address:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub
