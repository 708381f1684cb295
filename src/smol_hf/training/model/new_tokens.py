"""Rows of embeddings for new tokens: added as the mean of the others, and trained in every stage.

A row that was never trained has no meaning as an input, and as an output it is as likely as an average token: with a
frozen language model no answer would end with it. So these rows are trained also while the language model is frozen.
`new_tokens` in the model's configuration is [first id, id after the last].
"""

from __future__ import annotations

import torch
from peft import PeftModel
from transformers import PreTrainedModel
from transformers.integrations.fsdp import is_fsdp_enabled

from smol_hf.training.model.parts import NEW_TOKENS, FreezeSchedule


def embedding_rows(model: PreTrainedModel) -> int:
    """Return the number of rows of the embeddings."""
    return next(model.get_input_embeddings().parameters()).shape[0]


@torch.no_grad()
def extend_embeddings(model: PreTrainedModel, rows_in_use: int, vocabulary: int) -> None:
    """Give embeddings and head at least `vocabulary` rows, those from `rows_in_use` on the mean of the ones before.

    A new token then begins as likely as an average one (Hewitt, "Initializing new word embeddings", 2021). A tied head
    stays tied.
    """
    if vocabulary > embedding_rows(model):
        model.resize_token_embeddings(vocabulary, mean_resizing=False)
    head = model.get_output_embeddings()
    tables = {id(layer.weight): layer.weight for layer in (model.get_input_embeddings(), head) if layer is not None}
    bias = getattr(head, "bias", None)
    for table in [*tables.values(), *([] if bias is None else [bias])]:
        table[rows_in_use:vocabulary] = table[:rows_in_use].float().mean(0).to(table.dtype)


def new_token_ids(model: PreTrainedModel | PeftModel) -> range:
    """Return the ids of the tokens that were new to the language model when the model was composed."""
    return range(*(getattr(model.config, "new_tokens", None) or (0, 0)))


def freeze_schedule(arguments, model: PreTrainedModel | PeftModel) -> FreezeSchedule:
    """Return the schedule of the recipe's learning rates.

    With a frozen language model the rows of new tokens get the highest rate of the other parts. This is not possible
    with sharded weights (FSDP) or adapters.
    """
    rates, weights = arguments.part_learning_rates(), []
    adapters = isinstance(model, PeftModel)
    if new_token_ids(model) and rates["text"] == 0 and not adapters and not is_fsdp_enabled():
        tables = (model.get_input_embeddings(), model.get_output_embeddings())
        chosen = {id(weight) for table in tables for weight in (table.parameters() if table is not None else ())}
        weights = [name for name, weight in model.named_parameters() if id(weight) in chosen]
        rates[NEW_TOKENS] = max(rates.values())
    return FreezeSchedule(
        rates,
        arguments.unfreeze_vision_at_step,
        arguments.vision_warmup_steps,
        adapters_only=adapters,
        new_token_weights=frozenset(weights),
    )


def train_rows_of_new_tokens(model: PreTrainedModel | PeftModel, schedule: FreezeSchedule) -> None:
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
