"""A checkpoint is resumed from only with every file of every process: weights, optimizer, shards."""

import json

import pytest

from smol_hf.training.checkpoint.checkpoints import MANIFEST, CheckpointError, layout_of, verify, write_manifest

STATE = ["trainer_state.json", "scheduler.pt", "data_state.json", "rng_state_0.pth", "rng_state_1.pth"]
ZERO = "global_step4/{}zero_pp_rank_{}_mp_rank_00_{}_states.pt"
PIECES = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
KINDS = {
    "DDP": ["model.safetensors", "optimizer.pt"],
    "adapters": ["adapter_model.safetensors", "optimizer.pt"],
    "pieces": ["model.safetensors.index.json", *PIECES, "optimizer.pt"],
    "full": ["pytorch_model_fsdp.bin", "optimizer.bin"],
    "zero2": ["global_step4/mp_rank_00_model_states.pt", ZERO.format("", 0, "optim"), ZERO.format("", 1, "optim")],
    "zero3": [ZERO.format(*each) for rank in (0, 1) for each in (("", rank, "model"), ("bf16_", rank, "optim"))],
}
LAYOUTS = {"full": "FSDP with FULL_STATE_DICT", "zero2": "DeepSpeed", "zero3": "DeepSpeed"}
INDEX = json.dumps({"weight_map": {"a": PIECES[0], "b": PIECES[1]}})


def checkpoint(folder, kind, without=None):
    for name in [*STATE, *KINDS[kind]]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name != without:
            (folder / name).write_text(INDEX if name.endswith("index.json") else name)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_that_was_saved_without_a_file_is_not_resumed(kind, tmp_path):
    complete = checkpoint(tmp_path / "checkpoint-4", kind)
    write_manifest(complete, 4, 2)
    verify(complete)
    assert layout_of(complete) == LAYOUTS.get(kind, "")
    for number, name in enumerate([*STATE[:3], *KINDS[kind]]):
        lacking = checkpoint(tmp_path / str(number), kind, without=name)
        with pytest.raises(CheckpointError, match=f"{name} is missing|which resuming needs"):
            write_manifest(lacking, 4)  # when the number of processes is not compared
            verify(lacking)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("DDP", "rng_state_1.pth"), ("pieces", PIECES[1]), ("zero2", KINDS["zero2"][2])]
    + [("zero3", name) for name in KINDS["zero3"]],
)
def test_a_checkpoint_without_the_file_of_a_process_is_not_completed(kind, name, tmp_path):
    lacking = checkpoint(tmp_path / "checkpoint-4", kind, without=name)
    with pytest.raises(CheckpointError, match=f"checkpoint-4: {name} is missing: a process wrote it elsewhere"):
        write_manifest(lacking, 4, 2)
    assert not (lacking / MANIFEST).exists()
