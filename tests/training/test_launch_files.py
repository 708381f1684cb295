"""The files in recipes/accelerate, as accelerate reads them."""

from types import SimpleNamespace

import pytest
from accelerate import ParallelismConfig
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType

from smol_hf.support.resources import resource_path
from smol_hf.training.log.processes import refuse_split_sequences
from smol_hf.training.recipe.values import RecipeError

FILES = sorted(resource_path("recipes", "accelerate").glob("*.yaml"))
KINDS = {
    "single_gpu": DistributedType.NO, "ddp": DistributedType.MULTI_GPU, "multi_node": DistributedType.MULTI_GPU,
    "fsdp2": DistributedType.FSDP, "fsdp2_hsdp": DistributedType.FSDP, "fsdp2_offload": DistributedType.FSDP,
    "zero2": DistributedType.DEEPSPEED, "zero3": DistributedType.DEEPSPEED,
}  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_accelerate_reads_each_file(path):
    config = load_config_from_file(str(path))
    assert config.distributed_type == KINDS[path.stem]
    words = ["--config_file", str(path), "-m", "smol_hf.train", "--config", "quickstart/digits"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(words))
    assert arguments.num_processes == config.num_processes and arguments.mixed_precision == "bf16"
    if config.distributed_type == DistributedType.FSDP:
        assert str(arguments.fsdp_version) == "2" and arguments.fsdp_state_dict_type == "SHARDED_STATE_DICT"


def test_each_file_says_when_to_use_it():
    assert {path.stem for path in FILES} == KINDS.keys()
    assert all(path.read_text(encoding="utf-8").startswith("# ") for path in FILES)


@pytest.mark.parametrize("name", ["tp", "cp", "sp"])
def test_split_sequences_are_refused(name):
    with pytest.raises(RecipeError, match=f"parallelism_config_{name}_size is not supported"):
        refuse_split_sequences(SimpleNamespace(**{f"{name}_size": 2}))
    refuse_split_sequences(ParallelismConfig(dp_replicate_size=2, dp_shard_size=8))
