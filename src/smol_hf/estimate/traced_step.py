"""One training step, run for real or traced without memory: the same lines for an estimate and its measurement."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from smol_hf.modeling.label_loss import token_losses


@dataclass(frozen=True)
class StepShape:
    """What one process sees in a step: `rows` of `length` tokens, of them `tiles` tiles in all, and `labelled` tokens
    of each row that are trained."""

    rows: int
    length: int
    tiles: int = 0
    labelled: int | None = None


def training_step(model: PreTrainedModel, shape: StepShape, optimizer=None) -> None:
    """Forward, backward and, given an optimizer, its step. The model's own forward would look at token ids, which a
    trace does not have: this does what it does, with places for images instead of looking for them."""
    ids = torch.ones(shape.rows, shape.length, dtype=torch.long)
    embeddings = model.get_input_embeddings()(ids)
    if shape.tiles:
        side = model.config.image_side
        pixels = torch.zeros(shape.tiles, 3, side, side, dtype=torch.uint8)
        features, _ = model.encode_images(pixels)
        places = (torch.arange(shape.rows * shape.length) < features.shape[:2].numel()).view(shape.rows, -1, 1)
        embeddings = embeddings.masked_scatter(places.expand_as(embeddings), features.to(embeddings.dtype))
    labelled = shape.length - 1 if shape.labelled is None else min(shape.labelled, shape.length - 1)
    language_model = getattr(model, "language_model", model)
    logits = language_model(
        inputs_embeds=embeddings, use_cache=False, logits_to_keep=torch.arange(labelled), return_dict=True
    ).logits
    targets = torch.ones(shape.rows, labelled, dtype=torch.long)
    loss = token_losses(logits, targets).sum() / targets.numel()
    del logits, embeddings
    if loss.requires_grad:  # not where adapters of the encoder alone are trained and nothing is seen
        loss.backward()
    if optimizer is not None:
        optimizer.step()
        optimizer.zero_grad()


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensors that are alive, and the most that ever were."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf.untyped_storage())
        return result

    def add(self, storage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.remove, key, size)

    def remove(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def trace(model: PreTrainedModel, shape: StepShape, build_optimizer) -> dict[str, int]:
    """Two steps of a model on the meta device, traced as on a CPU: nothing is computed, no memory is taken.

    Returns `weights`, `after_step` (weights and optimizer state) and `peak` in bytes.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes() as live:
        model.to_empty(device="cpu")
        model.tie_weights()
        model.train()
        weights = live.now
        optimizer = build_optimizer([weight for weight in model.parameters() if weight.requires_grad])
        training_step(model, shape, optimizer)
        training_step(model, shape, optimizer)  # the optimizer's state exists from the first on
        return {"weights": weights, "after_step": live.now, "peak": live.peak}


def count_flops(model: PreTrainedModel, shape: StepShape) -> int:
    """FLOPs of the forward and backward pass of a model on the meta device. With attention as plain products: torch
    does not count those of its fused kernel on a CPU."""
    model.set_attn_implementation("eager")
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        model.tie_weights()
        model.train()
        with FlopCounterMode(display=False) as counter:
            training_step(model, shape)
        return counter.get_total_flops()
