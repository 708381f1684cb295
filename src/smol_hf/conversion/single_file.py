"""A model in one file: a `.pt` file of nanoGPT or of a plain state dict, or a GGUF file."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from smol_hf.conversion.checkpoint_files import read_torch_file
from smol_hf.conversion.formats.nanogpt import read_pt
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.conversion.gguf_file import read_gguf
from smol_hf.conversion.meta_check import model_of
from smol_hf.conversion.nanogpt_meta import find_meta, read_characters
from smol_hf.modeling.modeling_smol_hf_text import SmolHFForCausalLM
from smol_hf.support.formatting import counted
from smol_hf.text.character_tokenizer import build_character_tokenizer

TORCH_FILES = (".pt", ".pth", ".bin")
GGUF = ".gguf"
SINGLE_FILES = (*TORCH_FILES, GGUF)
SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id")


def read_single_file(
    path: Path, tokenizer: Path | None, num_attention_heads: int | None, rope_theta: float | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None, list[str]]:
    """Return our model, its tokenizer if the file or a `meta.pkl` has one, and notes for the user.

    Args:
        tokenizer: folder of a tokenizer, which is not read here, or a `meta.pkl`. Without it, the file's own.
        num_attention_heads, rope_theta: facts that the tensors of a plain `.pt` file do not show.
    """
    if path.suffix not in SINGLE_FILES:
        raise ConversionError(f"{path}: a single file must be one of {', '.join(SINGLE_FILES)}")
    meta = tokenizer if tokenizer is not None and tokenizer.is_file() else None
    if path.suffix == GGUF:
        if num_attention_heads is not None or rope_theta is not None:
            raise ConversionError("--num-attention-heads and --rope-theta are for .pt files: a GGUF file has them")
        if meta is not None:
            raise ConversionError(f"--tokenizer {meta}: a GGUF file has its tokenizer; leave the option out")
        return *read_gguf(path, with_tokenizer=tokenizer is None), []
    content = read_torch_file(path)
    config, tensors = read_pt(content, num_attention_heads=num_attention_heads, rope_theta=rope_theta)
    model = model_of(SmolHFForCausalLM, config, tensors)
    if tokenizer is None:
        meta = find_meta(path, content)
    if meta is None:
        return model, None, []
    characters = read_characters(meta)
    if len(characters) != config.vocab_size:
        raise ConversionError(
            f"{meta} has {counted(len(characters), 'character')}, but the model of {path} {config.vocab_size} tokens: "
            "they do not belong together; name the right file or folder with --tokenizer"
        )
    built = build_character_tokenizer(characters)
    add_special_tokens(model, built, len(characters))
    return model, built, [f"the tokenizer has the {counted(len(characters), 'character')} of {meta}"]


def add_special_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, characters: int) -> None:
    """Give the model embeddings for the special tokens that follow its characters."""
    from smol_hf.training.model.new_tokens import extend_embeddings  # imports PEFT, which other sources do not need

    extend_embeddings(model, characters, len(tokenizer))
    config = model.config
    config.vocab_size = len(tokenizer)
    config.new_tokens = [characters, len(tokenizer)]  # they were never trained, see training/model/new_tokens.py
    for name in SPECIAL_IDS:
        for each in (config, model.generation_config):
            setattr(each, name, getattr(tokenizer, name))
    model.generation_config.suppress_tokens = [tokenizer.unk_token_id]  # nanoGPT never writes it
