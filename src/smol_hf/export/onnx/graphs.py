"""ONNX graphs of native models, as transformers.js runs them.

SmolVLM and Idefics3 are three graphs: `vision_encoder`, `embed_tokens` and `decoder_model_merged`. Between them the
engine puts the image features in place of the embeddings of image tokens. A text model is one graph, `model`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim
from transformers import DynamicCache

from smol_hf.modeling.compatibility import CACHE_NAME

OPSET = 18
VISION, EMBEDDING, DECODER, TEXT = "vision_encoder", "embed_tokens", "decoder_model_merged", "model"
BATCH, SEQUENCE, PAST = Dim("batch_size"), Dim("sequence_length"), Dim("past_sequence_length")
TILES = Dim("num_images")
EXAMPLE = {"batch": 2, "tiles": 3, "sequence": 3, "past": 4}  # sizes of the traced inputs: different, none is 1


@dataclass(frozen=True)
class Graph:
    """A module to export.

    Args:
        arguments: example inputs of `module`.
        inputs, outputs: names in the graph, in the order of the flattened arguments and results.
        dynamic: dimensions of the arguments that may have another size.
    """

    name: str
    module: nn.Module
    arguments: tuple
    inputs: Sequence[str]
    outputs: Sequence[str]
    dynamic: dict[str, Any]

    @torch.no_grad()
    def save(self, path: Path) -> None:
        """Write the graph, and its float32 weights into a second file: a single one needs two more copies of them."""
        with quiet_exporter():
            program = torch.onnx.export(
                self.module,
                self.arguments,
                dynamo=True,
                input_names=self.inputs,
                output_names=self.outputs,
                dynamic_shapes=self.dynamic,
                opset_version=OPSET,
                verbose=False,
            )
            assert program is not None
            program.save(path, external_data=True)


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Hide the exporter's advice about its own internals. Errors stay exceptions."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


class VisionEncoder(nn.Module):
    """Image encoder and connector of SmolVLM."""

    def __init__(self, model):
        super().__init__()
        self.encoder, self.connector = model.model.vision_model, model.model.connector
        self.patch_size = model.config.vision_config.patch_size

    def forward(self, pixel_values, pixel_attention_mask):
        """Encode tiles.

        Args:
            pixel_values: (batch, tiles, 3, side, side), normalised.
            pixel_attention_mask: (batch, tiles, side, side), False where a tile is padding.

        Returns:
            (batch · tiles, image_seq_len, hidden)
        """
        batch, tiles, channels, height, width = pixel_values.shape
        pixels = pixel_values.reshape(batch * tiles, channels, height, width)
        size = self.patch_size
        patches = pixel_attention_mask.reshape(batch * tiles, height // size, size, width // size, size)
        visible = patches.to(torch.int64).sum(dim=(2, 4)) > 0  # (batch · tiles, rows, columns)
        features = self.encoder(pixel_values=pixels, patch_attention_mask=visible).last_hidden_state
        return self.connector(features)


class Embedding(nn.Module):
    """Embeddings of tokens: (batch, sequence) → (batch, sequence, hidden)."""

    def __init__(self, model):
        super().__init__()
        self.embedding = model.get_input_embeddings()

    def forward(self, input_ids):
        return self.embedding(input_ids)


class Decoder(nn.Module):
    """Layers and head of a language model, with its cache as inputs and outputs.

    Args:
        layers: the language model without its head.
        reads: `input_ids` or `inputs_embeds`, the input of `layers`.
    """

    def __init__(self, layers, head, config, reads: str):
        super().__init__()
        self.layers, self.head, self.config, self.reads = layers, head, config, reads

    def forward(self, inputs, attention_mask, position_ids, past):
        """Continue the sequences of a batch.

        Args:
            inputs: (batch, sequence) ids, or (batch, sequence, hidden) embeddings.
            attention_mask: (batch, past + sequence), 0 for padding.
            position_ids: (batch, sequence)
            past: keys and values of each layer, (batch, key-value heads, past, head size) each.

        Returns:
            logits (batch, sequence, vocabulary), then keys and values of each layer with the new tokens.
        """
        cache = DynamicCache(config=self.config)
        for layer, (keys, values) in enumerate(past):
            cache.update(keys, values, layer)
        # An explicit mask, (batch, 1, sequence, past + sequence): transformers' own depends on traced values.
        queries = torch.arange(position_ids.shape[1]).unsqueeze(1) + past[0][0].shape[2]
        positions = torch.arange(attention_mask.shape[1]).unsqueeze(0)
        visible = (positions <= queries)[None, None] & (attention_mask[:, None, None, :] > 0)
        mask = torch.where(visible, 0.0, torch.finfo(torch.float32).min)
        options = {self.reads: inputs, CACHE_NAME: cache, "attention_mask": mask, "position_ids": position_ids}
        output = self.layers(**options, use_cache=True)
        results = [self.head(output.last_hidden_state)]
        for layer in output[CACHE_NAME].layers:
            results += [layer.keys, layer.values]
        return tuple(results)


def vision_graph(encoder: VisionEncoder, side: int) -> Graph:
    batch, tiles = EXAMPLE["batch"], EXAMPLE["tiles"]
    arguments = (torch.rand(batch, tiles, 3, side, side), torch.ones(batch, tiles, side, side, dtype=torch.bool))
    names = ["pixel_values", "pixel_attention_mask"]
    dynamic = {name: {0: BATCH, 1: TILES} for name in names}
    return Graph(VISION, encoder, arguments, names, ["image_features"], dynamic)


def embedding_graph(embedding: Embedding) -> Graph:
    ids = torch.zeros(EXAMPLE["batch"], EXAMPLE["sequence"], dtype=torch.long)
    dynamic = {"input_ids": {0: BATCH, 1: SEQUENCE}}
    return Graph(EMBEDDING, embedding, (ids,), ["input_ids"], ["inputs_embeds"], dynamic)


def decoder_graph(name: str, decoder: Decoder) -> Graph:
    config, layers = decoder.config, decoder.config.num_hidden_layers
    batch, past, length = EXAMPLE["batch"], EXAMPLE["past"], EXAMPLE["sequence"]
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if decoder.reads == "inputs_embeds":
        inputs = torch.rand(batch, length, config.hidden_size)
    else:
        inputs = torch.zeros(batch, length, dtype=torch.long)
    mask = torch.ones(batch, past + length, dtype=torch.long)
    positions = torch.arange(past, past + length)[None].repeat(batch, 1)
    cache = [tuple(torch.rand(batch, heads, past, head_size) for _ in ("key", "value")) for _ in range(layers)]
    parts = [f"{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
    dynamic = {
        "inputs": {0: BATCH, 1: SEQUENCE},
        "attention_mask": {0: BATCH, 1: Dim.AUTO},
        "position_ids": {0: BATCH, 1: SEQUENCE},
        "past": [({0: BATCH, 2: PAST}, {0: BATCH, 2: PAST})] * layers,
    }
    return Graph(
        name,
        decoder,
        (inputs, mask, positions, cache),
        [decoder.reads, "attention_mask", "position_ids", *(f"past_key_values.{part}" for part in parts)],
        ["logits", *(f"present.{part}" for part in parts)],
        dynamic,
    )


def image_graphs(model) -> list[Callable[[], Graph]]:
    """Return the builders of the three graphs of a native SmolVLM or Idefics3."""
    side, text = model.config.vision_config.image_size, model.model.text_model
    decoder = Decoder(text, model.lm_head, model.config.text_config, "inputs_embeds")
    return [
        partial(vision_graph, VisionEncoder(model), side),
        partial(embedding_graph, Embedding(model)),
        partial(decoder_graph, DECODER, decoder),
    ]


def text_graphs(model) -> list[Callable[[], Graph]]:
    """Return the builder of the graph of a causal language model of transformers."""
    decoder = Decoder(model.base_model, model.get_output_embeddings(), model.config, "input_ids")
    return [partial(decoder_graph, TEXT, decoder)]
