"""The mask says which tokens (columns, keys) each token (row, query) sees (x): itself and the tokens before it.

    one sample of four tokens           two packed samples of two tokens
    position_ids = [0, 1, 2, 3]         position_ids = [0, 1, 0, 1]

        x . . .                             x . . .
        x x . .                             x x . .
        x x x .                             . . x .
        x x x x                             . . x x

Packed samples share a row of the batch, and positions that restart at 0 mark where each begins. The mask becomes
block-diagonal, so no sample sees another. Some kernels compute the blocks separately, without a mask.
"""

import torch
from torch.nn import functional as F
from transformers.masking_utils import create_causal_mask

from .compatibility import CACHE_NAME, MASK_ARGUMENTS, varlen_attn


def mask_and_kernel(config, x, attention_mask, cache, position_ids, cache_position, kwargs):
    """Return the keywords of a layer's attention for embeddings `x` (batch, queries, hidden): its mask, and `kwargs`.

    With `by_sample`, kernels of PyTorch compute each sample of packed rows separately, and need no mask. A mask would
    cost the square of a row's length. Rows of one sample need none either.
    """
    kernel, packed = config._attn_implementation or "", attention_mask is None and cache is None
    if packed and "flash" in kernel and position_ids is not None and "cu_seq_lens_q" not in kwargs:
        kwargs = kwargs | sample_bounds(position_ids)  # transformers searches in each layer, and in single rows only
    bounds = kwargs.get("cu_seq_lens_q") if packed else None
    several = bounds is not None and len(bounds) - 1 > len(x)
    if several and kernel == "sdpa" and has_kernel_by_sample(config, x.device, kernel_dtype(x)):
        return {"attention_mask": None, "by_sample": True, **kwargs}
    mask = causal_mask(config, x, attention_mask, cache, position_ids, cache_position, **kwargs)
    return {"attention_mask": mask, **kwargs}


def has_kernel_by_sample(config, device, dtype):
    """Tell if `attention_by_sample` runs: on a CPU, and on a GPU with flash attention, in half precision."""
    if device.type == "cpu":
        return not torch.compiler.is_compiling()
    if device.type != "cuda" or varlen_attn is None or not torch.backends.cuda.is_flash_attention_available():
        return False
    fits = config.head_dim <= 256 and config.head_dim % 8 == 0 and config.attention_dropout == 0
    return fits and dtype in (torch.bfloat16, torch.float16) and torch.cuda.get_device_properties(device).major >= 8


def kernel_dtype(states):
    """Return the type in which a kernel computes: that of autocast, or else of `states`."""
    device = states.device.type
    casts = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if casts else states.dtype


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
