"""`smol-hf merge` of training checkpoints in shards: damage is named, and nothing is written."""

import pickle
import shutil

import pytest
import torch
from modeling.builders import build_processor, build_vlm
from processes import call
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemWriter, save

from smol_hf.training.checkpoint.checkpoints import MANIFEST, WEIGHT_SHARDS, write_manifest

SHARD, METADATA = f"{WEIGHT_SHARDS}/__0_0.distcp", f"{WEIGHT_SHARDS}/.metadata"
OF_THE_OPTIMIZER = ("optimizer.bin", "scheduler.pt")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint as FSDP saves it, and the tensors of its model."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoint-4"
    model = build_vlm()
    for each in (model.config, build_processor()):
        each.save_pretrained(folder)
    save({"model": model.state_dict()}, storage_writer=FileSystemWriter(folder / WEIGHT_SHARDS), no_dist=True)
    for name in OF_THE_OPTIMIZER:
        (folder / name).write_text("state")
    write_manifest(folder, 4)
    return folder, model.state_dict()


@pytest.fixture
def checkpoint(saved, tmp_path):
    return shutil.copytree(saved[0], tmp_path / "run" / "checkpoint-4")


def refused(checkpoint):
    """What `smol-hf merge` says in its only line."""
    output = checkpoint.parent / "merged"
    result = call(["merge", checkpoint, output])
    assert result.returncode == 1 and not output.exists()
    (line,) = result.stderr.splitlines()
    return line


def change(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", [SHARD, METADATA, "config.json", "tokenizer.json"])
def test_a_changed_file_is_named(name, checkpoint):
    change(checkpoint / name)
    assert f"checkpoint-4: the content of {name} changed after it was saved: restore it" in refused(checkpoint)


@pytest.mark.parametrize("name", [SHARD, "tokenizer.json", "processor_config.json"])
def test_a_missing_file_of_the_manifest_is_named(name, checkpoint):
    (checkpoint / name).unlink()
    assert f"checkpoint-4: {name} is missing: restore it" in refused(checkpoint)


def test_a_damaged_manifest_is_named(checkpoint):
    (checkpoint / MANIFEST).write_text("{")
    assert "checkpoint-4: manifest.json is damaged" in refused(checkpoint)


@pytest.mark.parametrize("manifest", [True, False], ids=["with a manifest", "without"])
def test_files_that_a_merge_does_not_read_may_be_missing(manifest, saved, checkpoint, tmp_path):
    for name in OF_THE_OPTIMIZER:
        (checkpoint / name).unlink()
    if not manifest:
        (checkpoint / MANIFEST).unlink()
    assert call(["merge", checkpoint, tmp_path / "merged"]).returncode == 0
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert all(torch.equal(saved[1][name], weight) for name, weight in merged.items())


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        (METADATA, None, "/.metadata, the index of the shards, is missing: restore it"),
        (METADATA, 50, "/.metadata, the index of the shards, is damaged ("),
        (METADATA, 0, "/.metadata, the index of the shards, is damaged (EOFError"),
        (SHARD, None, "/__0_0.distcp, a shard of the weights, is missing"),
        (SHARD, 500, "/__0_0.distcp, a shard of the weights, has 500 bytes, not "),
    ],
)
def test_without_a_manifest_the_wrong_file_is_named_too(name, size, said, checkpoint):
    (checkpoint / MANIFEST).unlink()
    content = (checkpoint / name).read_bytes()
    (checkpoint / name).unlink()
    if size is not None:
        (checkpoint / name).write_bytes(content[:size])
    assert f"error: {checkpoint / WEIGHT_SHARDS}{said}" in refused(checkpoint)


def test_an_index_of_other_content_is_damage(checkpoint):
    (checkpoint / MANIFEST).unlink()
    (checkpoint / METADATA).write_bytes(pickle.dumps({"step": 4}))
    assert "the index of the shards, is damaged (AttributeError" in refused(checkpoint)


def test_for_the_output_folder_of_a_run_the_folder_that_is_meant_is_named(checkpoint):
    run = checkpoint.parent
    (run / "checkpoint-5").write_text("no folder")
    assert f"{run} is not an adapter of PEFT: adapter_config.json is missing; did you mean {checkpoint}?" in refused(
        run
    )
    build_vlm().save_pretrained(run / "checkpoint")
    assert f"whose model in {run / 'checkpoint'} is complete and needs no merge" in refused(run)
    assert "its weights are complete, so it needs no merge" in refused(run / "checkpoint")
