"""What stands beside the weights of a foreign model: tokenizer, chat template, and the numbers of its images."""

from __future__ import annotations

import shutil
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from smol_hf.conversion.checkpoint_files import read_json
from smol_hf.conversion.tensor_names import ConversionError
from smol_hf.modeling.chat_format import DEFAULT_CHAT_TEMPLATE
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.modeling.processing_smol_hf import SmolHFProcessor

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "tokenizer.model", "chat_template.jinja",
)  # fmt: skip
PROBES = (
    [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}],
    [
        {"role": "system", "content": [{"type": "text", "text": "Be short."}]},
        {"role": "user", "content": [{"type": "text", "text": "Hi."}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Hello."}]},
        {"role": "user", "content": [{"type": "text", "text": "Bye."}]},
    ],
)


def copy_tokenizer(source: Path, folder: Path) -> None:
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def image_processor_of(source: Path) -> dict:
    """The numbers of the image processor, from wherever its version of transformers wrote them."""
    if (source / "preprocessor_config.json").is_file():
        return read_json(source / "preprocessor_config.json")
    if (source / "processor_config.json").is_file():
        return read_json(source / "processor_config.json").get("image_processor") or {}
    return {}


def image_numbers(source: Path) -> tuple[list[float], list[float]]:
    """Mean and deviation of the pixels, per channel, in units of [0, 1]."""
    numbers = image_processor_of(source)
    half = [0.5, 0.5, 0.5]
    return list(numbers.get("image_mean") or half), list(numbers.get("image_std") or half)


def save_processor(source: Path, folder: Path, config: SmolHFConfig, kind: str) -> None:
    """Our processor with the foreign tokenizer and template; without a tokenizer in the source, nothing is written.

    SmolVLM's pictures are written as there, token for token. Those of other families become their image tokens alone.
    """
    if not any((source / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        return
    tokenizer = AutoTokenizer.from_pretrained(source)
    numbers = image_processor_of(source)
    side, tile_tokens = config.image_side, kind in ("smolvlm", "idefics3")
    image_token = tokenizer.convert_ids_to_tokens(config.image_token_id)
    if image_token is None:
        raise ConversionError(f"{source}: the tokenizer has no token {config.image_token_id}, which stands for images")
    splitting = tile_tokens and bool(numbers.get("do_image_splitting", True))
    processor = SmolHFProcessor(
        tokenizer,
        tile_size=side,
        image_seq_len=config.image_seq_len,
        longest_edge=(numbers.get("size") or {}).get("longest_edge") if splitting else side,
        do_image_splitting=splitting,
        chat_template=template_of(source, tokenizer),
        image_token=image_token,
        tile_tokens=tile_tokens,
    )
    processor.save_pretrained(folder)


def template_of(source: Path, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The source's chat template; or ours where it writes the same, since ours marks what the model generated."""
    template = tokenizer.chat_template
    for name in ("processor_config.json", "chat_template.json"):
        if not template and (source / name).is_file():
            template = read_json(source / name).get("chat_template")
    if not template:
        return None

    def written(probe: list, template: str) -> str:
        return tokenizer.apply_chat_template(probe, chat_template=template, tokenize=False, add_generation_prompt=True)

    same = all(written(probe, template) == written(probe, DEFAULT_CHAT_TEMPLATE) for probe in PROBES)
    return DEFAULT_CHAT_TEMPLATE if same else template
