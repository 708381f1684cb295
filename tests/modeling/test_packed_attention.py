"""Packed samples do not see each other, and attention to other samples is not computed."""

import pytest
import torch
from modeling.builders import build_decoder, one_row, random_text
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface

from smol_hf.modeling import compatibility
from smol_hf.modeling.attention import attention_by_sample, eager_attention
from smol_hf.modeling.mask import sample_bounds

LENGTHS = (7, 9, 5, 11)  # of four samples in two rows


def stacked_rows():
    """Two rows of two samples: (samples, ids, positions)."""
    samples = [random_text(length, seed=length) for length in LENGTHS]
    ids = torch.tensor([samples[0] + samples[1], samples[2] + samples[3]])
    positions = [list(range(length)) for length in LENGTHS]
    return samples, ids, torch.tensor([positions[0] + positions[1], positions[2] + positions[3]])


@torch.no_grad()
def alone(model, samples):
    """The logits of each sample in a row of its own, one behind the other."""
    return torch.cat([model(one_row(sample), use_cache=False).logits[0] for sample in samples])


@pytest.mark.parametrize("style", ["rotary", "gpt"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("located", [True, False])
@torch.no_grad()
def test_samples_of_stacked_rows_do_not_see_each_other(implementation, located, style):
    """(Flex attention in `test_compile`.)"""
    model = build_decoder(style)
    samples, ids, positions = stacked_rows()
    expected = alone(model, samples)
    model.set_attn_implementation(implementation)
    found = model(ids, position_ids=positions, use_cache=False, **(sample_bounds(positions) if located else {})).logits
    torch.testing.assert_close(found.flatten(0, 1), expected, rtol=0, atol=1e-5)


class AttentionSizes(TorchDispatchMode):
    """Records (queries, keys) of each call of a kernel."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if "scaled_dot_product" in function.name() and "backward" not in function.name():
            query, key = arguments[:2]
            self.found.append((query.shape[0] * query.shape[2], key.shape[2]))
        return function(*arguments, **(keywords or {}))


def test_attention_to_other_samples_is_not_computed():
    model = build_decoder(num_hidden_layers=1)
    _, ids, positions = stacked_rows()
    with AttentionSizes() as sizes:
        model(ids, position_ids=positions, use_cache=False, **sample_bounds(positions))
    assert sizes.found == [(length, length) for length in LENGTHS]


@pytest.mark.parametrize("located", [True, False])
@torch.no_grad()
def test_flash_attention_gets_the_bounds_of_samples(located):
    """transformers finds samples only if the batch has one row: stacked rows would see each other."""
    given = []

    def flash(module, query, key, value, attention_mask, **keywords):
        assert attention_mask is None
        given.append([keywords[name] for name in ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")])
        return attention_by_sample(module, query, key, value, None, **keywords)

    AttentionInterface.register("flash_of_a_test", flash)
    model = build_decoder()
    samples, ids, positions = stacked_rows()
    expected = alone(model, samples)
    model.config._attn_implementation = "flash_of_a_test"
    found = model(ids, position_ids=positions, use_cache=False, **(sample_bounds(positions) if located else {})).logits
    torch.testing.assert_close(found.flatten(0, 1), expected, rtol=0, atol=1e-5)
    assert len(given) == model.config.num_hidden_layers
    for queries, keys, *longest in given:
        assert queries.tolist() == keys.tolist() == [0, 7, 16, 21, 32] and queries.dtype is torch.int32
        assert longest == [11, 11] and all(type(each) is int for each in longest)


def test_the_kernel_of_a_gpu_takes_these_arguments():
    """Shapes and types, forward and backward, without a GPU."""
    if compatibility.varlen_attn is None:
        pytest.skip("this PyTorch has no attention to samples of unequal length")
    module = build_decoder().model.layers[0].self_attn
    options = {"device": "meta", "dtype": torch.bfloat16, "requires_grad": True}
    states = [torch.empty(2, heads, 16, 8, **options) for heads in (4, 2, 2)]
    bounds = torch.empty(5, dtype=torch.int32, device="meta")
    attended, _ = attention_by_sample(module, *states, None, scaling=0.3, cu_seq_lens_q=bounds, max_length_q=11)
    assert attended.shape == (32, 4, 8) and attended.dtype is torch.bfloat16
    attended.float().sum().backward()
    assert all(each.grad.shape == each.shape for each in states)


@pytest.mark.parametrize("heads", [2, 4])
def test_both_kernels_compute_the_equation(heads):
    """With and without groups of queries."""
    torch.manual_seed(0)
    module = build_decoder(num_key_value_heads=heads).model.layers[0].self_attn
    _, _, positions = stacked_rows()
    bounds = sample_bounds(positions)
    states = [torch.randn(2, each, 16, 8, requires_grad=True) for each in (4, heads, heads)]
    sample = torch.bucketize(torch.arange(32), bounds["cu_seq_lens_q"][1:].long(), right=True).view(2, 16)
    seen = (sample[:, :, None] == sample[:, None, :]).tril().unsqueeze(1)
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    expected, _ = eager_attention(module, *states, mask, scaling=0.3)
    found, _ = attention_by_sample(module, *states, None, scaling=0.3, **bounds)
    torch.testing.assert_close(found.view(expected.shape), expected, rtol=0, atol=1e-6)
    weights = torch.randn(expected.shape)
    gradients = [
        torch.autograd.grad((each.reshape(expected.shape) * weights).sum(), states) for each in (found, expected)
    ]
    for ours, theirs in zip(*gradients):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
