"""The causal mask, through transformers' own builder, whose arguments differ between its 4.57 and 5.x lines."""

import inspect

from transformers.masking_utils import create_causal_mask

BUILDER_ARGUMENTS = inspect.signature(create_causal_mask).parameters


def causal_mask(config, inputs_embeds, attention_mask, past_key_values, position_ids, cache_position):
    """The mask in the form that `config`'s attention implementation takes (None where it needs none).

    Without an `attention_mask`, `position_ids` that restart mark packed samples, and the mask becomes
    block-diagonal: each token sees only what stands before it in its own sample.
    """
    arguments = {"inputs_embeds" if "inputs_embeds" in BUILDER_ARGUMENTS else "input_embeds": inputs_embeds}
    if "cache_position" in BUILDER_ARGUMENTS:
        arguments["cache_position"] = cache_position
    return create_causal_mask(
        config=config,
        attention_mask=attention_mask,
        past_key_values=past_key_values,
        position_ids=position_ids,
        **arguments,
    )
