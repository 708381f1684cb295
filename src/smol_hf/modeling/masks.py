"""The causal mask, through transformers' own builder, whose arguments differ between its releases."""

from transformers.masking_utils import create_causal_mask

from .compatibility import CACHE_NAME, MASK_ARGUMENTS


def causal_mask(config, inputs_embeds, attention_mask, cache, position_ids, cache_position):
    """The mask in the form that `config`'s attention implementation takes (None where it needs none).

    Without an `attention_mask`, `position_ids` that restart mark packed samples, and the mask becomes
    block-diagonal: each token sees only the tokens before it in its own sample.
    """
    arguments = {"inputs_embeds" if "inputs_embeds" in MASK_ARGUMENTS else "input_embeds": inputs_embeds}
    if "cache_position" in MASK_ARGUMENTS:
        arguments["cache_position"] = cache_position
    arguments[CACHE_NAME] = cache
    return create_causal_mask(config=config, attention_mask=attention_mask, position_ids=position_ids, **arguments)
