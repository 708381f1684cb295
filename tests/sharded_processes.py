"""FSDP2 on CPU processes (gloo). accelerate shards on GPUs only, so these processes call the CPU a GPU."""

import torch
from accelerate import PartialState
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env
from processes import Forked, free_port
from torch.distributed.fsdp import CPUOffloadPolicy

from smol_hf.commands.main import main
from smol_hf.support.resources import resource_path


def launched(file, *options):
    """The variables that `accelerate launch` sets for a file of recipes/accelerate, without bf16."""
    words = ["--config_file", str(resource_path("recipes", "accelerate", f"{file}.yaml")), "--main_process_port", "0"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args([*words, *options, "-m", "smol_hf"]))
    kinds = ("ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_")
    variables = {name: value for name, value in prepare_multi_gpu_env(arguments).items() if name.startswith(kinds)}
    return variables | {"ACCELERATE_MIXED_PRECISION": "no"}


def sharded_main(words):
    """Run a command of `smol-hf` in a process of FSDP2."""

    def set_device(state):
        state.device = torch.device("cpu")

    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = set_device
    CPUOffloadPolicy.__init__.__defaults__ = (False,)  # memory can be pinned for a GPU only
    return main(words)


def fork_sharded(count, words, folder, file="fsdp2", options=(), **environment):
    """Run the command in `count` processes of FSDP2. Returns them, not yet finished."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    shared |= {"LOCAL_WORLD_SIZE": str(count), **launched(file, *options), **environment}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    words = list(map(str, words))
    return [Forked(sharded_main, folder / f"rank{own['RANK']}.txt", words, **shared, **own) for own in ranks]
