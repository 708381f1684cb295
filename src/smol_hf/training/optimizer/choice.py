"""The optimizer that a recipe chooses, with the groups of its parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from smol_hf.training.optimizer.muon import MUON, MuonWithAdamW, muon_options


def optimizer_class(arguments: TrainingArguments, model: Any) -> tuple[Any, dict[str, Any]]:
    """Return the class of `optim` and its options. Raises ImportError, ValueError and others of the libraries."""
    if arguments.optim != MUON:
        return Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    adamw = {"betas": (arguments.adam_beta1, arguments.adam_beta2), "eps": arguments.adam_epsilon, "fused": True}
    return MuonWithAdamW, {"lr": arguments.learning_rate, "muon": muon_options(arguments.optim_args), "adamw": adamw}


def build_optimizer(chosen: tuple[Any, dict[str, Any]], groups: list[dict], model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of these groups. With 8 bits, the state of embeddings has 32 bits, as in transformers."""
    kind, options = chosen
    optimizer = kind(groups, **options)
    if options.get("optim_bits") == 8:
        from bitsandbytes.optim.optimizer import GlobalOptimManager

        for layer in model.modules():
            if isinstance(layer, nn.Embedding):
                GlobalOptimManager.get_instance().register_module_override(layer, "weight", {"optim_bits": 32})
    return optimizer
