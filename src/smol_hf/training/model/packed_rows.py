"""Packed rows: a check that a language model keeps their samples apart, and the cost of its attention."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from smol_hf.modeling.configuration_smol_hf_text import SmolHFTextConfig
from smol_hf.modeling.mask import has_kernel_by_sample
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


def describe_attention(model: PreTrainedModel, packs: bool, device: torch.device, dtype: torch.dtype) -> str:
    """Say which kernel computes the language model's attention, and whether it skips other samples of packed rows.

    Args:
        dtype: of queries and keys.
    """
    config = getattr(model, "language_model", model).config
    kernel = config._attn_implementation
    if not packs:
        return f"attention: {kernel}"
    ours = config.model_type == SmolHFTextConfig.model_type
    if kernel not in ("eager", "sdpa") or (kernel == "sdpa" and ours and has_kernel_by_sample(config, device, dtype)):
        return f"attention: {kernel}, for each packed sample separately"
    return f"attention: {kernel}, with a mask over each packed row: its cost is the square of the row's length"
