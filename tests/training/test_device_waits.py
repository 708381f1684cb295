"""A training step asks the device for values once, and the collator finds what the model would search for."""

from collections import Counter

import pytest
import torch
from helpers import blind, build_model, build_processor, ready
from tiny_trainers import build_trainer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from smol_hf.data.collator import SmolCollator
from smol_hf.data.digits import build_pages

# Operations whose result, or its shape, depends on values: the host of a GPU waits for them. `lift_fresh` is a tensor
# made of Python numbers, which the host copies.
WAITING = {
    "_local_scalar_dense", "nonzero", "masked_select", "masked_scatter_backward", "is_nonzero", "equal", "_unique2",
    "repeat_interleave", "bincount", "lift_fresh",
}  # fmt: skip
STEPS = 6


class Waits(TorchDispatchMode):
    """Counts waiting operations while `counting`, also those of the backward pass."""

    def __init__(self):
        super().__init__()
        self.counting, self.found = False, Counter()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = function._overloadpacket.__name__
        by_mask = name == "index" and any(each is not None and each.dtype is torch.bool for each in arguments[1])
        if self.counting and (name in WAITING or by_mask):
            self.found[name] += 1
        return function(*arguments, **(keywords or {}))


class Lists(TorchFunctionMode):
    """Counts tensors that become lists or arrays, which the dispatcher does not see on a CPU."""

    def __init__(self, waits):
        self.waits = waits

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        name = getattr(function, "__name__", "")
        if self.waits.counting and name in ("tolist", "numpy", "cpu"):
            self.waits.found[name] += 1
        return function(*arguments, **(keywords or {}))


class LaterSteps(TrainerCallback):
    """Counts from the third step on, from its first micro-step to its end: reading the next batches is no part of it.

    (The first steps also look at their batches.)
    """

    def __init__(self, waits):
        self.waits = waits

    def on_step_begin(self, args, state, control, **kwargs):
        self.waits.counting = state.global_step >= 3

    def on_step_end(self, args, state, control, **kwargs):
        self.waits.counting = False


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
def test_a_step_waits_once(tmp_path, packing):
    """With the kernel `eager`: on a CPU, `sdpa` reads the bounds of packed samples, which are in its memory."""
    waits = Waits()
    trainer = build_trainer(
        tmp_path, turns=3, packing=packing, blind_every=3, max_steps=STEPS, gradient_accumulation_steps=3,
        logging_steps=100, logging_first_step=False,
    )  # fmt: skip
    trainer.model.set_attn_implementation("eager")
    trainer.add_callback(LaterSteps(waits))
    with waits, Lists(waits):
        trainer.train()
    assert trainer.state.global_step == STEPS
    assert waits.found == {"tolist": STEPS - 3, "lift_fresh": STEPS - 3}, "the loss and norm; what is sent with them"


@pytest.mark.parametrize("options", [{}, {"packing": True}, {"packing": True, "row_length": 128}], ids=str)
def test_the_model_finds_what_it_is_not_given(options):
    """The same loss and gradients."""
    processor = build_processor(longest_edge=32)
    model = build_model(processor).train()
    pages = [page.conversation for page in build_pages(6, seed=0, split="train", turns=2)]
    samples = ready([blind(page) if number % 3 == 0 else page for number, page in enumerate(pages)], processor)

    def gradients(locate):
        model.zero_grad()
        batch = SmolCollator(processor, **options, locate=locate)(samples)
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        return set(batch), loss.item(), {name: weight.grad.clone() for name, weight in model.named_parameters()}

    few, expected_loss, expected = gradients(locate=False)
    more, loss, found = gradients(locate=True)
    assert {"logits_to_keep", "image_positions"} <= more - few
    assert ("cu_seq_lens_q" in more) == options.get("packing", False)
    assert loss == pytest.approx(expected_loss, abs=1e-6)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-6, msg=name)


def test_located_image_tokens_are_checked():
    processor = build_processor(longest_edge=32)
    model = build_model(processor)
    pages = [page.conversation for page in build_pages(2, seed=0, split="train")]
    batch = SmolCollator(processor, packing=True)(ready(pages, processor))
    tokens = len(batch["image_positions"])
    tiles = batch.pop("pixel_values")
    with pytest.raises(ValueError, match=f"{tokens} image tokens but no pixel_values"):
        model(**batch)
    with pytest.raises(
        ValueError, match=f"{tokens} image tokens but {tokens - processor.image_seq_len} image features"
    ):
        model(**batch, pixel_values=tiles[1:])
