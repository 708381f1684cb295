"""Keys of a recipe for the model and its adapters."""

# ruff: noqa: RUF009 (`key` makes a field)
from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from smol_hf.training.model.parts import PARTS
from smol_hf.training.recipe.keys import TRAIN, OnResume, Runs, check_values, given, key, refuse_excluded

ALL_LINEAR = "all-linear"  # PEFT's name for the default
NEW = {"excluded_by": ("model",)}  # a checkpoint has its own


of_images = functools.partial(key, runs=Runs.CONVERSATIONS)


@dataclass
class LoraArguments:
    """Keys of a recipe that trains adapters instead of the weights, named as in TRL's `ModelConfig`."""

    use_peft: bool = key(False, "Train LoRA adapters on the checkpoint `model`.")
    lora_parts: list[str] = key(
        lambda: ["text"],
        "Parts that get adapters: vision, connector, text. A part without adapters but with its own learning rate is "
        "trained in full and saved with the adapter. Other parts are frozen.",
    )
    lora_r: int = key(16, "Rank of the adapters.", least=1)
    lora_alpha: int = key(32, "Scale of the updates: lora_alpha / lora_r.", least=1)
    lora_dropout: float = key(
        0.05, "Dropout on the input of the adapters.", least=0, below=1, wanted="it is from 0 to below 1"
    )
    lora_target_modules: list[str] | None = key(
        None,
        "Layers that get adapters, such as [q_proj, v_proj]. Without it, all linear layers but the head (all-linear).",
    )
    lora_trainable_tokens: list[str] | None = key(None, "Tokens whose embeddings are also trained, such as new ones.")
    use_dora: bool = key(False, "DoRA: also learn the magnitude of each weight row.")
    use_rslora: bool = key(False, "rsLoRA: scale the updates by lora_alpha / √lora_r.")
    load_in_4bit: bool = key(False, "QLoRA: load the language model's layers in 4 bits.")
    load_in_8bit: bool = key(False, "Load the language model's layers in 8 bits.")
    bnb_4bit_quant_type: str = key("nf4", "4-bit format: nf4 or fp4.", values=("nf4", "fp4"))
    use_bnb_nested_quant: bool = key(False, "Also quantise the 4-bit scales.")

    def check_lora(self) -> None:
        """Refuse values that contradict each other. Raises ValueError."""
        unknown = [part for part in self.lora_parts if part not in PARTS]
        if unknown or not self.lora_parts:
            raise ValueError(f"lora_parts is {self.lora_parts}: choose from {', '.join(PARTS)}")
        if self.lora_trainable_tokens and "text" not in self.lora_parts:
            raise ValueError("lora_trainable_tokens needs adapters of the language model: add text to lora_parts")
        if self.load_in_4bit and self.load_in_8bit:
            raise ValueError("load_in_4bit and load_in_8bit exclude each other: set one of them")
        if self.lora_target_modules == [ALL_LINEAR]:
            self.lora_target_modules = None
        if not self.load_in_4bit and (self.bnb_4bit_quant_type != "nf4" or self.use_bnb_nested_quant):
            raise ValueError("bnb_4bit_quant_type and use_bnb_nested_quant have no effect without load_in_4bit: true")
        names = [name for name in given(self, lambda _: True) if name in LoraArguments.__dataclass_fields__]
        if names and not self.use_peft:
            raise ValueError(f"{names[0]} has no effect without use_peft: true")


@dataclass
class ModelArguments(LoraArguments):
    """Keys of a checkpoint or of a new model with random weights, and of its adapters."""

    model: str | None = key(None, "Checkpoint to continue from: folder or Hub id. Excludes the keys of a new model.")
    preset: str | None = key(
        None,
        "New model with the sizes and image tiling of a published one, such as smolvlm2-256m, and random weights. "
        "Other keys override its values.",
        runs=TRAIN,
        **NEW,
    )
    vision_config: dict[str, Any] | None = of_images(
        None, "Image encoder of a new model: model_type and sizes, as in transformers.", **NEW
    )
    text_config: dict[str, Any] | None = key(
        None, "Language model of a new model: model_type (smol_hf_text if omitted) and sizes.", runs=TRAIN, **NEW
    )
    connector_type: str = of_images(
        "pixel_shuffle",
        "Connector of a new model: pixel_shuffle, linear or mlp.",
        values=("pixel_shuffle", "linear", "mlp"),
        **NEW,
    )
    scale_factor: int | None = of_images(
        None,
        "Pixel shuffle joins scale_factor × scale_factor patches into one token. Without it, the preset's, or 2.",
        **NEW,
    )
    vision_feature_layer: int | None = of_images(
        None,
        "Layer of the image encoder whose output is used: -1 is the last, after its norm; -2 the second to last. "
        "Without it, -2 for CLIP; with linear and mlp the last layer before its norm, as in LLaVA; otherwise -1.",
        **NEW,
    )
    tokenizer: str | None = key(
        None,
        "Folder or Hub id of a tokenizer. Without it, a byte-level BPE tokenizer is trained on the data.",
        runs=TRAIN,
        **NEW,
    )
    tokenizer_vocab_size: int | None = key(
        None,
        "Maximum size of the tokenizer that is trained. Without it, 384; with documents, the preset's vocabulary.",
        runs=TRAIN,
        **NEW,
    )
    chat_template: str | None = key(
        None,
        "Chat template of a text-only model, instead of its tokenizer's: chatml, smollm2 (chatml with SmolLM2's "
        "default system prompt), or the path of a .jinja file.",
        runs=Runs.CONVERSATIONS | Runs.PREFERENCES,
    )
    rope_theta: float | None = key(None, "New base of the rotary positions of model, for longer texts.")
    max_position_embeddings: int | None = key(None, "New maximum number of positions of model.")
    longest_edge: int | None = of_images(
        None, "Longer side of an image after resizing, in pixels. Without it, the preset's, or the tile size."
    )
    do_image_splitting: bool = of_images(True, "Split large images into tiles and an overview of the image.")
    enlarge_images: bool = of_images(True, "Enlarge small images to longest_edge, as SmolVLM does.")
    cache_image_features: bool = of_images(
        False,
        "Keep the features of a frozen image encoder on disk, so that each distinct tile is encoded only once. Needs "
        "vision_learning_rate 0.",
        resume=OnResume.FREE,
    )
    attn_implementation: str = key(
        "sdpa", "Attention: eager, sdpa, flash_attention_2 or flex_attention.", resume=OnResume.FREE
    )
    dtype: str = key("float32", "Data type of the weights.", values=("float32", "bfloat16", "float16"))
    image_mean: list[float] | None = of_images(
        None, "Mean of each channel, for pixels in [0, 1]. Without it, 0.5, as in SigLIP.", **NEW
    )
    image_std: list[float] | None = of_images(None, "Standard deviation of each channel. Without it, 0.5.", **NEW)

    def __post_init__(self):
        check_values(self)
        self.check_lora()
        if self.use_peft and self.model is None:
            raise ValueError("use_peft needs model: name the checkpoint that gets adapters")
        for name in ("rope_theta", "max_position_embeddings"):
            value = getattr(self, name)
            if value is not None and (self.model is None or value <= 0):
                raise ValueError(f"{name} is {value}: give a positive number, with model (or use text_config)")
        for name in ("image_mean", "image_std"):
            values = getattr(self, name)
            if values is not None and (len(values) != 3 or (name == "image_std" and min(values) <= 0)):
                raise ValueError(f"{name} is {values}: give three numbers, one per channel (image_std: above 0)")
        if self.model is not None:
            refuse_excluded(self, "model", "the checkpoint has its own")
