"""Train the rows of embeddings that a composition added in every stage, also while the language model is frozen.

A row that was never trained has no meaning as an input, and as an output it is as likely as an average token: with a
frozen language model no answer would ever end with it. `new_tokens` in the model's configuration is [first id, id
after the last].
"""

from __future__ import annotations

import torch
from peft import PeftModel
from torch import nn
from transformers.integrations import is_fsdp_enabled

from smol_hf.training.model.parts import NEW_TOKENS, FreezeSchedule


def new_token_ids(model: nn.Module) -> range:
    """The ids of the tokens that were new to the language model when the model was composed."""
    return range(*(getattr(model.config, "new_tokens", None) or (0, 0)))


def freeze_schedule(arguments, model: nn.Module) -> FreezeSchedule:
    """The schedule of the recipe's learning rates. With a frozen language model the rows of new tokens get the
    highest rate of the other parts. Rows of sharded weights (FSDP) and beside adapters cannot be trained so."""
    rates, weights = arguments.part_learning_rates(), []
    adapters = isinstance(model, PeftModel)
    if new_token_ids(model) and rates["text"] == 0 and not adapters and not is_fsdp_enabled():
        tables = (model.get_input_embeddings(), model.get_output_embeddings())
        chosen = {id(weight) for table in tables for weight in table.parameters()}
        weights = [name for name, weight in model.named_parameters() if id(weight) in chosen]
        rates[NEW_TOKENS] = max(rates.values())
    return FreezeSchedule(
        rates,
        arguments.unfreeze_vision_at_step,
        arguments.vision_warmup_steps,
        adapters_only=adapters,
        new_token_weights=frozenset(weights),
    )


def train_rows_of_new_tokens(model: nn.Module, schedule: FreezeSchedule) -> None:
    """Let gradients of the schedule's `new_token_weights` reach the rows of new tokens only.

    Without weight decay an optimizer leaves a row with gradient 0 exactly as it is.
    """
    rows = new_token_ids(model)

    def keep_rows(gradient: torch.Tensor) -> torch.Tensor:
        kept = torch.zeros_like(gradient)
        kept[rows.start : rows.stop] = gradient[rows.start : rows.stop]
        return kept

    for name, weight in model.named_parameters():
        if name in schedule.new_token_weights:
            weight.register_hook(keep_rows)
