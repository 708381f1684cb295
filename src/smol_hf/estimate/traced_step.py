"""A training step, run for a measurement or traced without memory for an estimate."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import PreTrainedModel

from smol_hf.modeling.label_loss import token_losses
from smol_hf.training.optimizer.muon import MUON, USE_MUON, MuonWithAdamW, muon_options, muon_weights

OPTIMIZERS = ("adamw", MUON, "sgd")
RATE = 1e-3


@dataclass(frozen=True)
class StepShape:
    """Step of one process: `rows` of `length` tokens with `tiles` image tiles in total; `labelled` tokens per row."""

    rows: int
    length: int
    tiles: int = 0
    labelled: int | None = None


def build_optimizer(name: str, model: Any) -> torch.optim.Optimizer:
    """Build the optimizer of the trained weights."""
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if name == "sgd":
        return torch.optim.SGD(trained.values(), lr=RATE)
    if name != MUON:
        return torch.optim.AdamW(trained.values(), lr=RATE)
    names = muon_weights(model)
    groups = [
        {"params": [weight for name, weight in trained.items() if (name in names) == muon], USE_MUON: muon}
        for muon in (True, False)
    ]
    return MuonWithAdamW([group for group in groups if group["params"]], lr=RATE, muon=muon_options(None), adamw={})


def training_step(model: Any, shape: StepShape) -> None:
    """Run forward and backward.

    The model's own forward finds image tokens by their ids, which a trace does not have. Here the first positions of
    each row are image tokens.
    """
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
    if loss.requires_grad:  # False if only the encoder has adapters and the step has no tiles
        loss.backward()


def attention_flops(query, key, value, *_, **__) -> int:
    """Count two products, `queries · keysᵀ` and `weights · values`; each `(batch, heads, sequence, head_dim)`."""
    batch, heads, queries, head_dim = query.shape
    return 2 * batch * heads * queries * key.shape[2] * (head_dim + value.shape[3])


def attention_backward_flops(gradient, query, key, value, *_, **__) -> int:
    return 2 * attention_flops(query, key, value)


# Torch has no formulas for fused attention on a CPU.
FLOPS = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward_flops,
}


class StepCounter(TorchDispatchMode):
    """The FLOPs so far, and the bytes of all live tensors, now and at the peak."""

    def __init__(self):
        super().__init__()
        self.flops = self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types, arguments=(), keywords=None):
        keywords = keywords or {}
        result = function(*arguments, **keywords)
        if formula := FLOPS.get(function._overloadpacket):
            self.flops += formula(*arguments, **keywords, out_val=result)
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


def trace(model: PreTrainedModel, shape: StepShape, optimizer_name: str) -> dict[str, int]:
    """Trace a step of a model on the meta device as on a CPU, without computation and memory.

    The optimizer has its state already, as in each step but the first.

    Returns `weights`, `states` (of the optimizer) and `peak` in bytes, the `flops` of the forward and backward pass,
    and `flops_without_tiles`, those of a step whose rows have no image.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        with StepCounter() as step:
            model.to_empty(device="cpu")
            model.tie_weights()
            model.train()
            weights = step.peak = step.now  # the second copy of a tied weight is gone
            trained = [weight for weight in model.parameters() if weight.requires_grad]
            optimizer = build_optimizer(optimizer_name, model)
            for weight in trained:
                weight.grad = torch.zeros_like(weight)
            optimizer.step()
            optimizer.zero_grad()
            states, step.flops = step.now - weights, 0
            training_step(model, shape)
            flops = without_tiles = step.flops
            optimizer.step()
            optimizer.zero_grad()
        if shape.tiles:
            with StepCounter() as without:
                training_step(model, replace(shape, tiles=0))
            without_tiles = without.flops
    return {
        "weights": weights, "states": states, "peak": step.peak, "flops": flops,
        "flops_without_tiles": without_tiles,
    }  # fmt: skip
