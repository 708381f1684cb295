"""FSDP2 on CPU processes (gloo). accelerate shards on GPUs only, so these processes call the CPU a GPU."""

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from processes import Forked, free_port

from smol_hf.commands.main import main

FSDP2 = {
    "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT", "FSDP_RESHARD_AFTER_FORWARD": "true",
}  # fmt: skip


def sharded_main(words):
    """Run a command of `smol-hf` in a process of FSDP2."""

    def set_device(state):
        state.device = torch.device("cpu")

    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = set_device
    return main(words)


def fork_sharded(count, words, folder, **environment):
    """Run the command in `count` processes of FSDP2. Returns them, not yet finished."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    shared |= {"LOCAL_WORLD_SIZE": str(count), **FSDP2, **environment}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    words = list(map(str, words))
    return [Forked(sharded_main, folder / f"rank{own['RANK']}.txt", words, **shared, **own) for own in ranks]
