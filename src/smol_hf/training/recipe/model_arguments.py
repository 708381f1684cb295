"""Keys of a recipe that describe the model and its adapters."""

# ruff: noqa: RUF009 (`key` makes a field)
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from smol_hf.training.model.parts import PARTS
from smol_hf.training.recipe.keys import TRAIN, OnResume, Runs, check_values, given, key, refuse_excluded

ALL_LINEAR = "all-linear"  # PEFT's name for the default
NEW = {"excluded_by": ("model",)}  # a checkpoint has its own


def of_images(default: Any, text: str, **options: Any) -> Any:
    """A key of a vision-language model."""
    return key(default, text, runs=Runs.CONVERSATIONS, **options)


@dataclass
class LoraArguments:
    """Keys of a recipe that trains adapters instead of the weights, named as in TRL's `ModelConfig`."""

    use_peft: bool = key(False, "Train LoRA adapters on the checkpoint `model`.")
    lora_parts: list[str] = key(
        lambda: ["text"],
        "Parts that get adapters: vision, connector, text. Of the others, those whose own learning rate is given are "
        "trained whole and saved with the adapter; the rest is frozen.",
    )
    lora_r: int = key(16, "Rank of the updates.", least=1)
    lora_alpha: int = key(32, "The updates are scaled by lora_alpha / lora_r.", least=1)
    lora_dropout: float = key(
        0.05, "Dropout on the input of the updates.", least=0, below=1, wanted="it must be from 0 to below 1"
    )
    lora_target_modules: list[str] | None = key(
        None, "Names of layers such as q_proj; by default all-linear: all linear layers except the head."
    )
    lora_trainable_tokens: list[str] | None = key(None, "Tokens whose embeddings are trained too, such as new ones.")
    use_dora: bool = key(False, "DoRA: learn the length of each row as well.")
    use_rslora: bool = key(False, "Scale the updates by lora_alpha / √lora_r.")
    load_in_4bit: bool = key(False, "QLoRA: the language model's layers in four bits.")
    load_in_8bit: bool = key(False, "The language model's layers in eight bits.")
    bnb_4bit_quant_type: str = key("nf4", "Format of four bits: nf4 or fp4.", values=("nf4", "fp4"))
    use_bnb_nested_quant: bool = key(False, "Quantise the scales too.")

    def check_lora(self) -> None:
        """Raises ValueError for values that do not fit each other."""
        unknown = [part for part in self.lora_parts if part not in PARTS]
        if unknown or not self.lora_parts:
            raise ValueError(f"lora_parts is {self.lora_parts}: choose among {', '.join(PARTS)}")
        if self.lora_trainable_tokens and "text" not in self.lora_parts:
            raise ValueError("lora_trainable_tokens are of the language model: lora_parts must name text")
        if self.load_in_4bit and self.load_in_8bit:
            raise ValueError("load_in_4bit and load_in_8bit exclude each other")
        if self.lora_target_modules == [ALL_LINEAR]:
            self.lora_target_modules = None
        if not self.load_in_4bit and (self.bnb_4bit_quant_type != "nf4" or self.use_bnb_nested_quant):
            raise ValueError("bnb_4bit_quant_type and use_bnb_nested_quant have no effect without load_in_4bit: true")
        names = [name for name in given(self, lambda _: True) if name in LoraArguments.__dataclass_fields__]
        if names and not self.use_peft:
            raise ValueError(f"{names[0]} has no effect without use_peft: true")


@dataclass
class ModelArguments(LoraArguments):
    """A checkpoint, or the description of a new model with random weights; and its adapters."""

    model: str | None = key(None, "Checkpoint folder or Hub id to continue from. Excludes the keys of a new model.")
    preset: str | None = key(
        None,
        "Sizes and image tiling of a published model, such as smolvlm2-256m, with random weights. Other keys override "
        "its values.",
        runs=TRAIN,
        **NEW,
    )
    vision_config: dict[str, Any] | None = of_images(
        None, "Image encoder: model_type and sizes, as in transformers.", **NEW
    )
    text_config: dict[str, Any] | None = key(
        None, "Language model: model_type (smol_hf_text by default) and sizes.", runs=TRAIN, **NEW
    )
    connector_type: str = of_images(
        "pixel_shuffle", "pixel_shuffle, linear or mlp.", values=("pixel_shuffle", "linear", "mlp"), **NEW
    )
    scale_factor: int | None = of_images(
        None, "Side of the square of patches that becomes one token; by default the preset's, or 2.", **NEW
    )
    vision_feature_layer: int = of_images(
        -1, "Layer of the image encoder whose output is used: the last; LLaVA uses the second to last (-2).", **NEW
    )
    tokenizer: str | None = key(
        None, "Folder or Hub id; by default a byte-level BPE is trained on the data's texts.", runs=TRAIN, **NEW
    )
    tokenizer_vocab_size: int | None = key(
        None,
        "Largest size of that tokenizer; 384 by default, with documents the preset's vocabulary.",
        runs=TRAIN,
        **NEW,
    )
    chat_template: str | None = key(
        None,
        "Chat template of a text-only model, if its tokenizer has none or another is wanted: chatml, smollm2 (chatml "
        "with SmolLM2's default system prompt), or the path of a .jinja file.",
        runs=Runs.CONVERSATIONS | Runs.PREFERENCES,
    )
    rope_theta: float | None = key(None, "With model: another base of its rotary positions, for longer texts.")
    max_position_embeddings: int | None = key(None, "With model: another number of positions.")
    longest_edge: int | None = of_images(
        None, "Pixels to which an image's longer side is resized; by default the preset's or the tile size."
    )
    do_image_splitting: bool = of_images(True, "Split large images into tiles and an overview.")
    enlarge_images: bool = of_images(
        True, "Resize small images to longest_edge too, as SmolVLM does; false: no tiles of enlarged pixels."
    )
    attn_implementation: str = key("sdpa", "eager, sdpa, flash_attention_2, flex_attention.", resume=OnResume.FREE)
    dtype: str = key("float32", "float32, bfloat16 or float16.", values=("float32", "bfloat16", "float16"))
    image_mean: list[float] | None = of_images(
        None, "Mean of each channel, of pixels in [0, 1]; 0.5 by default, as SigLIP.", **NEW
    )
    image_std: list[float] | None = of_images(None, "Standard deviation of each channel; 0.5 by default.", **NEW)

    def __post_init__(self):
        check_values(self)
        self.check_lora()
        if self.use_peft and self.model is None:
            raise ValueError("use_peft needs model: adapters belong to a checkpoint, which they are loaded over later")
        for name in ("rope_theta", "max_position_embeddings"):
            value = getattr(self, name)
            if value is not None and (self.model is None or value <= 0):
                raise ValueError(f"{name} is {value}: it is positive, and changes a model (of a new one: text_config)")
        for name in ("image_mean", "image_std"):
            values = getattr(self, name)
            if values is not None and (len(values) != 3 or (name == "image_std" and min(values) <= 0)):
                raise ValueError(f"{name} is {values}: three numbers, one per channel, above 0 for image_std")
        if self.model is not None:
            refuse_excluded(self, "model", "the checkpoint has its own")
