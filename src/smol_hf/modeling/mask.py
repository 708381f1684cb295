"""The mask says which tokens (columns, keys) each token (row, query) sees (x): itself and the tokens before it.

    one sample of four tokens           two packed samples of two tokens
    position_ids = [0, 1, 2, 3]         position_ids = [0, 1, 0, 1]

        x . . .                             x . . .
        x x . .                             x x . .
        x x x .                             . . x .
        x x x x                             . . x x

Packed samples share a row of the batch, and positions that restart at 0 mark where each begins. The mask becomes
block-diagonal, so no sample sees another.
"""

import torch
from torch.nn import functional as F
from transformers.masking_utils import create_causal_mask

from .compatibility import CACHE_NAME, MASK_ARGUMENTS


def causal_mask(
    config, inputs_embeds, attention_mask, cache, position_ids, cache_position, cu_seq_lens_q=None, **kwargs
):  # fmt: skip
    """Build the mask drawn above, in the form that the kernel of `config` takes.

    eager: floats (batch, 1, queries, keys), see `eager_attention`.
    sdpa: bools of this shape, True if the query sees the key; None if the mask is only causal.
    flash_attention_2: (batch, keys), False for padding; None without padding.

    Args:
        inputs_embeds: (batch, queries, hidden); only its shape, dtype and device are read.
        attention_mask: (batch, keys), 0 for padding. Without it, `position_ids` that restart mark packed samples.
        cu_seq_lens_q: see `sample_bounds`. Without it, the search for packed samples waits for the device.
    """
    arguments = {"inputs_embeds" if "inputs_embeds" in MASK_ARGUMENTS else "input_embeds": inputs_embeds}
    if "cache_position" in MASK_ARGUMENTS:
        arguments["cache_position"] = cache_position
    arguments[CACHE_NAME] = cache
    compiling = torch.compiler.is_compiling()  # a compiled graph searches without waiting
    if cu_seq_lens_q is not None and attention_mask is None and cache is None and not compiling:
        bounds, position_ids = cu_seq_lens_q, None
        rows, length = inputs_embeds.shape[:2]
        if len(bounds) - 1 > rows:
            tokens = torch.arange(rows * length, dtype=bounds.dtype, device=bounds.device)
            sample = torch.bucketize(tokens, bounds[1:], right=True).view(rows, length)
            arguments["and_mask_function"] = lambda row, head, query, key: sample[row, query] == sample[row, key]
    return create_causal_mask(config=config, attention_mask=attention_mask, position_ids=position_ids, **arguments)


def sample_bounds(position_ids):
    """Find the samples of packed rows, by positions that do not continue those before them.

    Returns the keywords that kernels for samples of unequal length read. The rows count as one, in their order:

        cu_seq_lens_q, cu_seq_lens_k: (samples + 1,) int32, the first token of each sample, and the end of the last.
        max_length_q, max_length_k: tokens of the longest sample.
    """
    begins = position_ids.diff(dim=1, prepend=position_ids[:, :1] - 2) != 1  # (batch, sequence)
    bounds = F.pad(begins.flatten().nonzero().squeeze(-1), (0, 1), value=position_ids.numel()).int()
    longest = int(bounds.diff().max())
    return {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}
