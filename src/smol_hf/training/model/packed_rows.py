"""A check that a language model keeps the samples of a packed row apart."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from smol_hf.modeling.modeling_smol_hf_text import SmolHFForCausalLM
from smol_hf.training.recipe.values import RecipeError

LENGTH = 8  # tokens of each of two samples
ROUNDING = 1e-5  # of the largest logit: experts sum in another order when other tokens are given to them


@torch.no_grad()
def refuse_seeing_others(model: PreTrainedModel, what: str) -> None:
    """Change the first of two samples of a row and compare the logits of the second.

    Not every architecture separates samples by positions that restart: those with a memory (Mamba, RWKV) and some
    older ones read on.

    Raises:
        RecipeError: if the logits change.
    """
    if isinstance(model, SmolHFForCausalLM):
        return  # its mask is block-diagonal
    vocabulary = model.config.get_text_config().vocab_size
    rows = torch.arange(2 * LENGTH).repeat(2, 1)
    rows[1, :LENGTH] += 1
    positions = torch.arange(LENGTH).repeat(1, 2)
    rows, positions = (rows % vocabulary).to(model.device), positions.to(model.device)
    training, attention = model.training, model.config._attn_implementation
    model.eval()
    if attention is not None and "flash" in attention:  # it needs a GPU
        model.config._attn_implementation = "sdpa"
    try:
        first, second = (
            model(input_ids=row.unsqueeze(0), position_ids=positions, use_cache=False).logits[0, LENGTH:]
            for row in rows
        )
    finally:
        model.train(training)
        model.config._attn_implementation = attention
    allowed = max(ROUNDING, torch.finfo(first.dtype).eps) * float(first.abs().max())
    if float((first - second).abs().max()) > allowed:
        raise RecipeError(
            f"{what} puts several samples into a row, but {model.config.model_type} does not keep them apart: each "
            "would be predicted from those before it. Use another architecture, such as llama"
        )
