"""Muon for the weights of linear layers, and AdamW for all other parameters, in one optimizer.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) replaces the momentum of a matrix by one with the same
singular vectors, whose singular values are all near 1. Embeddings and the head have a row per token, so AdamW trains
them, like vectors and convolutions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon
from transformers.pytorch_utils import Conv1D

MUON = "muon"  # value of the key `optim`
USE_MUON = "use_muon"  # key of a group
OPTIONS = {"momentum": float, "nesterov": bool, "ns_steps": int, "adjust_lr_fn": str}  # of `optim_args`
BOOLEANS = {"true": True, "false": False}


class MuonWithAdamW(torch.optim.Optimizer):
    """torch's `Muon` and fused `AdamW` as one optimizer.

    Both step groups of this object and share its state. So schedules, checkpoints and gradient scalers find the usual
    `param_groups`, `state` and `state_dict`.

    Args:
        params: groups; Muon steps a group with `use_muon: True`, whose parameters are matrices.
        lr: learning rate of the groups without their own.
        muon, adamw: further options of the two optimizers.
    """

    def __init__(self, params: Iterable[dict], *, lr: float, muon: dict[str, Any], adamw: dict[str, Any]):
        super().__init__(params, {"lr": lr, USE_MUON: False})
        self.members: dict[bool, torch.optim.Optimizer] = {}
        for use_muon, optimizer, options in ((True, Muon, muon), (False, AdamW, adamw)):
            if groups := self.groups_of(use_muon):  # the optimizer adds its options to them
                self.members[use_muon] = optimizer(groups, lr=lr, **options)

    def groups_of(self, use_muon: bool) -> list[dict[str, Any]]:
        return [group for group in self.param_groups if group[USE_MUON] == use_muon]

    def step(self, closure=None):
        """Step both optimizers. A parameter without a gradient keeps its value and its state."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for use_muon, member in self.members.items():
            # Loading a state replaces the groups and the state of this object.
            member.param_groups, member.state = self.groups_of(use_muon), self.state
            member.step()
        return loss


def muon_weights(model: Any) -> frozenset[str]:
    """Return the names of the weights for Muon: those of linear layers, except the head."""
    head = model.get_output_embeddings()
    return frozenset(
        f"{path}.weight"
        for path, layer in model.named_modules()
        if isinstance(layer, (nn.Linear, Conv1D)) and layer is not head
    )


def muon_options(optim_args: str | None) -> dict[str, Any]:
    """Return the options of Muon from `optim_args`, such as `momentum=0.9,ns_steps=6`. Raises ValueError.

    `match_rms_adamw` is the default of `adjust_lr_fn`: it scales an update to the usual size of AdamW's, so learning
    rates and weight decay of AdamW fit (arXiv:2502.16982).
    """
    options: dict[str, Any] = {"adjust_lr_fn": "match_rms_adamw"}
    for pair in filter(None, (optim_args or "").replace(" ", "").split(",")):
        name, equals, value = pair.partition("=")
        if name not in OPTIONS or not equals:
            raise ValueError(f"write name=value, separated by commas; muon has {', '.join(OPTIONS)}")
        kind = OPTIONS[name]
        if kind is bool and value not in BOOLEANS:
            raise ValueError(f"{name} is {value!r}: it must be true or false")
        options[name] = BOOLEANS[value] if kind is bool else kind(value)
    if not 0 < options.get("ns_steps", 5) < 100:
        raise ValueError(f"ns_steps is {options['ns_steps']}: it must be from 1 to 99")
    return options
