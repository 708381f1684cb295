"""Models that llama.cpp computes differently, or whose results were never compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from smol_hf.conversion.checkpoint_files import read_json
from smol_hf.conversion.formats.tensor_names import ConversionError

OTHER_TARGETS = "choose --to native"
TANH_GELU = ("gelu_new", "gelu_pytorch_tanh")
DOUBLE_LINE_BREAK = "ĊĊ"  # as the byte level writes "\n\n"


def refuse_unsupported(native: Path) -> None:
    """Raise ConversionError, with what to choose, for a native folder that llama.cpp does not compute alike."""
    config = read_json(native / "config.json")
    name = (config.get("architectures") or [config.get("model_type")])[0]
    if name not in ARCHITECTURES:
        raise ConversionError(f"{name}: --to gguf supports {', '.join(ARCHITECTURES)}; {OTHER_TARGETS} for this model")
    refuse_tokenizer(native)
    ARCHITECTURES[name](native, config)


def refuse_tokenizer(native: Path) -> None:
    path = native / "tokenizer.json"
    if not path.is_file():
        raise ConversionError(f"the checkpoint has no tokenizer.json, which a GGUF file needs; {OTHER_TARGETS}")
    tokenizer = read_json(path)
    if not isinstance(tokenizer.get("model"), dict):
        raise ConversionError("tokenizer.json of the checkpoint is damaged: it has no model")
    if tokenizer["model"].get("type") != "BPE" or "ByteLevel" not in json.dumps(tokenizer.get("pre_tokenizer")):
        raise ConversionError(
            f"tokenizer.json: a tokenizer of type {tokenizer['model'].get('type')} is not supported, only byte-level "
            f"BPE; {OTHER_TARGETS}, or train with such a tokenizer (smol-hf tokenizer)"
        )


def refuse_llama(native: Path, config: dict[str, Any]) -> None:
    """Refuse activations and scaled rotary positions that llama.cpp was never compared with."""
    text = config.get("text_config", config)
    if (activation := text.get("hidden_act", "silu")) != "silu":
        raise ConversionError(f"hidden_act {activation!r}: Llama of llama.cpp computes silu; {OTHER_TARGETS}")
    rope = (text.get("rope_parameters") or {}).get("rope_type", "default")
    if rope != "default":
        raise ConversionError(f"rope_type is {rope!r}: --to gguf supports 'default'; {OTHER_TARGETS}")


def refuse_smollm3(native: Path, config: dict[str, Any]) -> None:
    """Refuse other layers without rotary positions: llama.cpp does not read them from the file."""
    refuse_llama(native, config)
    expected = [int(layer % 4 != 0) for layer in range(1, config["num_hidden_layers"] + 1)]
    if (layers := config["no_rope_layers"]) != expected:
        raise ConversionError(
            f"no_rope_layers {layers}: SmolLM3 of llama.cpp leaves out every fourth layer, {expected}; {OTHER_TARGETS}"
        )


def refuse_gpt2(native: Path, config: dict[str, Any]) -> None:
    """Refuse sizes that llama.cpp's GPT-2 does not read from a file."""
    width, inner = config["n_embd"], config.get("n_inner") or 4 * config["n_embd"]
    if inner != 4 * width:
        raise ConversionError(
            f"intermediate_size {inner}: GPT-2 of llama.cpp has 4 × hidden_size, here {4 * width}; {OTHER_TARGETS}"
        )
    if (activation := config["activation_function"]) not in TANH_GELU:
        raise ConversionError(f"hidden_act {activation!r}: GPT-2 of llama.cpp computes gelu_new; {OTHER_TARGETS}")


def refuse_smolvlm(native: Path, config: dict[str, Any]) -> None:
    """Refuse images that llama.cpp writes differently: it always writes a grid of tiles and an overview."""
    refuse_llama(native, config)
    refuse_smolvlm_vision(config["vision_config"])
    image = read_json(native / "preprocessor_config.json")
    longest, tile = image["size"]["longest_edge"], image["max_image_size"]["longest_edge"]
    if not image["do_image_splitting"] or longest <= tile:
        why = f"longest_edge {longest} is one tile" if longest <= tile else "do_image_splitting is false"
        raise ConversionError(
            f"one tile per image ({why}): llama.cpp always shows a model of this kind a grid and an overview; train "
            f"with a longest_edge of at least {2 * tile} and do_image_splitting, or {OTHER_TARGETS}"
        )
    if DOUBLE_LINE_BREAK not in read_json(native / "tokenizer.json")["model"]["vocab"]:
        raise ConversionError(
            "tokenizer.json has no token for a double line break, which llama.cpp writes after the tiles of an image; "
            f"train with a tokenizer of this release or of SmolLM2, or {OTHER_TARGETS}"
        )


def refuse_smolvlm_vision(vision: dict[str, Any]) -> None:
    if (activation := vision.get("hidden_act", "gelu_pytorch_tanh")) != "gelu_pytorch_tanh":
        raise ConversionError(
            f"hidden_act of vision_config is {activation!r}: llama.cpp computes gelu_pytorch_tanh; {OTHER_TARGETS}"
        )


def refuse_llava(native: Path, config: dict[str, Any]) -> None:
    """Refuse encoders, connectors and language models that were not compared in llama.cpp."""
    for name, supported in (("vision_config", "clip_vision_model"), ("text_config", "llama")):
        if (kind := config[name]["model_type"]) != supported:
            raise ConversionError(f"{name} is {kind!r}: LLaVA of --to gguf supports {supported!r}; {OTHER_TARGETS}")
    refuse_llama(native, config)
    if (activation := config["projector_hidden_act"]) != "gelu":
        raise ConversionError(
            f"the connector has the activation {activation!r}: llama.cpp computes gelu (connector_type mlp); "
            f"{OTHER_TARGETS}"
        )
    if not config.get("multimodal_projector_bias", True):
        raise ConversionError(f"the connector has no bias, which llama.cpp reads; {OTHER_TARGETS}")
    if config["vision_feature_select_strategy"] != "default" or not isinstance(config["vision_feature_layer"], int):
        raise ConversionError(f"llama.cpp reads the patches of one layer, without class token; {OTHER_TARGETS}")


ARCHITECTURES: dict[str, Callable[[Path, dict[str, Any]], None]] = {
    "LlamaForCausalLM": refuse_llama,
    "SmolLM3ForCausalLM": refuse_smollm3,
    "GPT2LMHeadModel": refuse_gpt2,
    "SmolVLMForConditionalGeneration": refuse_smolvlm,
    "LlavaForConditionalGeneration": refuse_llava,
}
