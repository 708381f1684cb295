"""Tokenizer, chat template and image processor of a foreign model."""

from __future__ import annotations

import shutil
from pathlib import Path

from transformers import AddedToken, PreTrainedTokenizerBase

from smol_hf.auto import AutoTokenizer
from smol_hf.conversion.checkpoint_files import read_json
from smol_hf.conversion.formats import nanovlm
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.processing.chat_format import DEFAULT_CHAT_TEMPLATE, FAULTS
from smol_hf.processing.chat_rendering import render_bounded
from smol_hf.processing.image_styles import NANOVLM_GLOBAL_TOKEN
from smol_hf.processing.processing_smol_hf import SmolHFProcessor

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "tokenizer.model", "chat_template.jinja",
)  # fmt: skip
PROBES: tuple[list[dict], ...] = (
    [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}],
    [
        {"role": "system", "content": [{"type": "text", "text": "Be short."}]},
        {"role": "user", "content": [{"type": "text", "text": "Hi."}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Hello."}]},
        {"role": "user", "content": [{"type": "text", "text": "Bye."}]},
    ],
)
NANOVLM_PROBE = [{"role": role, "content": role.upper()} for role in ("system", "user", "assistant", "user")]
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in VOCABULARIES)


def copy_tokenizer(source: Path, folder: Path) -> None:
    for name in TOKENIZER_FILES if has_tokenizer(source) else ():
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def image_processor_of(source: Path) -> dict:
    """Read the configuration of the image processor from the file that its version of transformers wrote."""
    if (source / "preprocessor_config.json").is_file():
        return read_json(source / "preprocessor_config.json")
    if (source / "processor_config.json").is_file():
        return read_json(source / "processor_config.json").get("image_processor") or {}
    return {}


def image_numbers(source: Path) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the pixels, per channel, in units of [0, 1].

    Our checkpoints have them in config.json, others in the configuration of the image processor.
    """
    config = read_json(source / "config.json")
    numbers = config if "image_mean" in config else image_processor_of(source)
    half = [0.5, 0.5, 0.5]
    return list(numbers.get("image_mean") or half), list(numbers.get("image_std") or half)


def read_processor(texts: Path, source: Path, config: SmolHFConfig, kind: str) -> SmolHFProcessor | None:
    """Build our processor with the image tiling and chat template of the family `kind`; None without a tokenizer.

    Args:
        texts: folder of the tokenizer and chat template.
        source: folder of the model.
    """
    if not has_tokenizer(texts):
        return None
    tokenizer = AutoTokenizer.from_pretrained(texts, trust_remote_code=False)
    if kind == "nanovlm":
        options = nanovlm_options(read_json(source / "config.json"), tokenizer)
    elif kind == "llava":
        options = llava_options(image_processor_of(source), config.image_side)
    else:
        options = smolvlm_options(image_processor_of(source)) | video_options(source)
    image_token = tokenizer.convert_ids_to_tokens(config.image_token_id)
    if image_token is None:
        raise ConversionError(
            f"{texts}: the tokenizer has no token {config.image_token_id}, the image_token_id of the model"
        )
    if "chat_template" not in options:
        options["chat_template"] = template_of(texts, tokenizer)
    return SmolHFProcessor(
        tokenizer,
        tile_size=config.image_side,
        image_seq_len=config.image_seq_len,
        image_token=image_token,
        **options,
    )


def smolvlm_options(numbers: dict) -> dict:
    splitting = bool(numbers.get("do_image_splitting", True))
    longest_edge = (numbers.get("size") or {}).get("longest_edge") if splitting else None
    return {"longest_edge": longest_edge, "do_image_splitting": splitting}


def video_options(source: Path) -> dict:
    """Read the choice of frames from the file that the source's version of transformers wrote."""
    for name in ("video_preprocessor_config.json", "processor_config.json", "preprocessor_config.json"):
        content = read_json(source / name) if (source / name).is_file() else {}
        sampling = (content.get("video_processor") or content).get("video_sampling")
        if sampling:
            return {
                "video_fps": sampling.get("fps", 1.0),
                "video_max_frames": sampling.get("max_frames", 64),
                "video_frame_size": (sampling.get("video_size") or {}).get("longest_edge"),
            }
    return {}


def llava_options(numbers: dict, side: int) -> dict:
    """Crop to the central square as CLIP's image processor does, if the source's processor crops."""
    crops = numbers.get("do_center_crop", "shortest_edge" in (numbers.get("size") or {"shortest_edge": side}))
    return {"image_style": "crop" if crops else "plain", "do_image_splitting": False}


def nanovlm_options(config: dict, tokenizer: PreTrainedTokenizerBase) -> dict:
    """Read the options from config.json, and add nanoVLM's tokens to the tokenizer."""
    extra = config.get("vlm_extra_tokens")
    if not extra:
        return {"image_style": "plain", "do_image_splitting": False}
    if extra["image_token"] not in tokenizer.get_vocab():
        base = config["lm_vocab_size"] - config.get("extra_token_amount", len(extra))
        if len(tokenizer) != base:
            raise ConversionError(f"the tokenizer has {len(tokenizer)} tokens, but nanoVLM's began with {base}")
        tokenizer.add_tokens([AddedToken(token, special=True) for token in extra.values()], special_tokens=True)
    tokenizer.padding_side = "left"
    templates = (config.get("lm_chat_template") or nanovlm.CHAT_TEMPLATE, nanovlm.CHAT_TEMPLATE)
    theirs, ours = (write_chat(tokenizer, NANOVLM_PROBE, each) for each in templates)
    if theirs != ours:
        raise ConversionError("lm_chat_template does not write ChatML, the only supported chat format")
    common = {"chat_template": nanovlm.CHAT_TEMPLATE.replace("IMAGE_TOKEN", extra["image_token"])}
    if extra.get("global_image_token") != NANOVLM_GLOBAL_TOKEN:
        return {**common, "image_style": "plain", "do_image_splitting": False}
    longest_edge = config.get("max_img_size", config["vit_img_size"])
    enlarge = bool(config.get("resize_to_max_side_len", False))
    return {**common, "image_style": "nanovlm", "longest_edge": longest_edge, "enlarge_images": enlarge}


def template_of(source: Path, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Read the source's chat template. If ours writes the same text, use ours: it marks generated text."""
    template = tokenizer.chat_template
    for name in ("processor_config.json", "chat_template.json"):
        if not template and (source / name).is_file():
            template = read_json(source / name).get("chat_template")
    if not template:
        return None
    template = str(template)
    begin = str(tokenizer.bos_token or "")
    adds_begin = tokenizer.bos_token_id is not None and tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id
    if adds_begin and begin not in render_probe(tokenizer, PROBES[0], template)[:40]:
        # The tokenizer would add the token; our processor tokenises only the text that the template writes.
        template = "{{ bos_token }}" + template
    candidates = (template, DEFAULT_CHAT_TEMPLATE)
    theirs, ours = ([render_probe(tokenizer, probe, each) for probe in PROBES] for each in candidates)
    return DEFAULT_CHAT_TEMPLATE if theirs == ours else template


def render_probe(tokenizer: PreTrainedTokenizerBase, probe: list[dict], template: str) -> str:
    """Render messages. Raise ConversionError for a template that fails or that supports only text."""
    try:
        return write_chat(tokenizer, probe, template)
    except FAULTS as error:
        raise ConversionError(
            f"the chat template cannot write a message with an image ({error}): put a template that can into "
            "chat_template.jinja"
        ) from error


def write_chat(tokenizer: PreTrainedTokenizerBase, messages: list[dict], template: str) -> str:
    """Render the messages and the generation prompt, to see what the template does. Raise FAULTS if it refuses."""
    arguments = {**tokenizer.special_tokens_map, "conversations": [messages], "chat_template": template}
    (text,), _ = render_bounded(add_generation_prompt=True, **arguments)
    return text
