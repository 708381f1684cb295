"""GGUF files of Llama-type models (SmolLM, SmolLM2), read by transformers' own loader in float32.

transformers ignores metadata and tensors that it does not know. A file with them is refused: the model would compute
something else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import GgufConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
from transformers.integrations.gguf.reader import read_gguf_metadata
from transformers.utils import logging as transformers_logging
from transformers.utils.import_utils import is_gguf_available

from smol_hf.auto import AutoModelForCausalLM, AutoTokenizer
from smol_hf.conversion.formats.registry import source_format
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.conversion.meta_check import model_of
from smol_hf.modeling.modeling_smol_hf_text import SmolHFForCausalLM
from smol_hf.support.formatting import counted, one_line

MAGIC = b"GGUF"
ARCHITECTURE = "llama"
# Metadata that llama.cpp's converter always writes, and for which transformers takes a default value.
OF_THE_MODEL = (
    "llama.block_count", "llama.context_length", "llama.embedding_length", "llama.feed_forward_length",
    "llama.attention.head_count", "llama.attention.layer_norm_rms_epsilon",
)  # fmt: skip
OF_THE_TOKENIZER = tuple(f"tokenizer.ggml.{name}" for name in ("model", "tokens", "token_type", "eos_token_id"))


def read_gguf(path: Path, *, with_tokenizer: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Return our model and the tokenizer of the file, with its chat template.

    Raises:
        ConversionError: without the package `gguf`, and for a file that cannot be represented.
    """
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ConversionError(f"{path}: not a GGUF file, it does not begin with {MAGIC.decode()}")
    if not is_gguf_available():
        raise ConversionError(f"{path}: reading a GGUF file needs the package gguf: pip install 'smol_hf[gguf]'")
    with failures_of(path):
        metadata, names = read_gguf_metadata(str(path))
    check_metadata(path, metadata, OF_THE_MODEL + (OF_THE_TOKENIZER if with_tokenizer else ()))
    tokenizer = None
    # In a folder of its own, transformers finds no configuration of another model next to the file.
    with TemporaryDirectory() as folder, failures_of(path):
        (Path(folder) / "model.gguf").symlink_to(path.resolve())
        options = {"gguf_file": "model.gguf", "local_files_only": True, "trust_remote_code": False}
        with only_errors_of_transformers():
            read: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **options,
            )
        native, loaded = read
        refuse_new_weights(path, loaded)
        if with_tokenizer:
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
            split_as_trained(path, tokenizer, metadata)
    found = source_format(native.config.to_dict())
    config = found.read_config(native.config.to_dict())
    tensors = found.to_ours(dict(native.state_dict()), config)
    if len(names) != len(tensors):
        raise ConversionError(
            f"{path}: it has {len(names)} tensors, but this Llama model {len(tensors)}: it is a part of a split file, "
            "or a variant that transformers does not read (scaled rotary positions, biases, experts)"
        )
    return model_of(SmolHFForCausalLM, config, tensors), tokenizer


@contextmanager
def only_errors_of_transformers() -> Iterator[None]:
    """Hide the table of the loaded tensors: `refuse_new_weights` names the first."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def refuse_new_weights(path: Path, loaded: dict) -> None:
    """Raise ConversionError if a tensor of the model has random values because the file has none for it."""
    if shapes := sorted(loaded["mismatched_keys"]):
        name, found, expected = shapes[0]
        raise ConversionError(
            f"{path}: {counted(len(shapes), 'tensor', 'has/have')} another shape than the metadata say, first "
            f"{name}: {tuple(found)} instead of {tuple(expected)}"
        )
    if missing := sorted(loaded["missing_keys"]):
        raise ConversionError(
            f"{path}: {counted(len(missing), 'tensor', 'is/are')} missing, first {missing[0]}: the file is damaged, "
            "or a part of a split file"
        )


def check_metadata(path: Path, metadata: dict, needed: Sequence[str]) -> None:
    """Raise ConversionError for another architecture, missing entries, and scaled rotary positions."""
    architecture = metadata.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise ConversionError(
            f"{path}: models of the architecture {architecture!r} cannot be converted; supported is {ARCHITECTURE} "
            "(SmolLM, SmolLM2, TinyLlama)"
        )
    if missing := [name for name in needed if name not in metadata]:
        raise ConversionError(f"{path}: the metadata lack {', '.join(missing)}: the file is damaged or incomplete")
    scaling = metadata.get(f"{ARCHITECTURE}.rope.scaling.type", "none")
    if scaling != "none":
        raise ConversionError(f"{path}: rotary positions with {scaling} scaling are not supported")


def split_as_trained(path: Path, tokenizer: PreTrainedTokenizerBase, metadata: dict) -> None:
    """Let the tokenizer split a text as in its training. transformers does not know SmolLM's way."""
    name = metadata.get("tokenizer.ggml.pre")
    if metadata.get("tokenizer.ggml.model") != "gpt2" or name == "gpt-2" or name in GGUF_PRE_TOKENIZER_SPLITS:
        return
    if name != "smollm":
        raise ConversionError(
            f"{path}: the tokenizer splits texts in the way {name!r}, which transformers does not know: give the "
            "model's own tokenizer with --tokenizer"
        )
    digits, level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine: Any = tokenizer.backend_tokenizer
    engine.pre_tokenizer = pre_tokenizers.Sequence([digits, level])


@contextmanager
def failures_of(path: Path) -> Iterator[None]:
    """Turn errors of transformers' loader into a ConversionError."""
    try:
        yield
    except ConversionError:
        raise
    except Exception as error:  # the tokenizers library raises plain ones
        raise ConversionError(f"{path}: damaged or unsupported ({one_line(error) or type(error).__name__})") from error
