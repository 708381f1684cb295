"""The keys of a recipe that say which model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from smol_hf.training.argument_values import require_values
from smol_hf.training.lora_arguments import LoraArguments

# With `model` these have no meaning: the checkpoint has its own.
OF_A_NEW_MODEL = (
    "preset", "vision_config", "text_config", "tokenizer", "image_mean", "image_std", "connector_type", "scale_factor",
    "tokenizer_vocab_size", "vision_feature_layer",
)  # fmt: skip
CONNECTOR_TYPES = ("pixel_shuffle", "linear", "mlp")


@dataclass
class ModelArguments(LoraArguments):
    """Which model: one that exists, or one described by its parts, with random weights; and its adapters."""

    model: str | None = field(
        default=None, metadata={"help": "Checkpoint folder or Hub id to continue from. Excludes the keys below."}
    )
    preset: str | None = field(
        default=None,
        metadata={
            "help": "A published model's sizes and image tiling, such as smolvlm2-256m, with random weights; the keys "
            "below count more."
        },
    )
    vision_config: dict[str, Any] | None = field(
        default=None, metadata={"help": "Image encoder: model_type and sizes, as in transformers."}
    )
    text_config: dict[str, Any] | None = field(
        default=None, metadata={"help": "Language model: model_type (smol_hf_text by default) and sizes."}
    )
    connector_type: str = field(default="pixel_shuffle", metadata={"help": "pixel_shuffle, linear or mlp."})
    scale_factor: int | None = field(
        default=None,
        metadata={"help": "Side of the square of patches that becomes one token; by default the preset's, or 2."},
    )
    vision_feature_layer: int = field(
        default=-1, metadata={"help": "Layer of the image encoder that is read: the last; LLaVA reads the one before."}
    )
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id; by default a byte-level BPE is trained on the data's texts."},
    )
    tokenizer_vocab_size: int | None = field(
        default=None,
        metadata={"help": "Largest size of that tokenizer; 384 by default, with documents the preset's vocabulary."},
    )
    chat_template: str | None = field(
        default=None,
        metadata={
            "help": "How a language model alone writes conversations, where its tokenizer does not say or says it "
            "otherwise: chatml, smollm2 (chatml with SmolLM2's default system prompt), or the path of a .jinja file."
        },
    )
    rope_theta: float | None = field(
        default=None, metadata={"help": "With model: another base of its rotary positions, for longer texts."}
    )
    max_position_embeddings: int | None = field(
        default=None, metadata={"help": "With model: how many positions it has from now on."}
    )
    longest_edge: int | None = field(
        default=None,
        metadata={
            "help": "Pixels to which an image's longer side is brought; by default the preset's or the tile size."
        },
    )
    do_image_splitting: bool = field(default=True, metadata={"help": "Cut large pictures into tiles and an overview."})
    enlarge_images: bool = field(
        default=True,
        metadata={"help": "Bring small pictures to longest_edge too, as SmolVLM; false: no tiles of enlarged pixels."},
    )
    attn_implementation: str = field(
        default="sdpa", metadata={"help": "eager, sdpa, flash_attention_2, flex_attention."}
    )
    dtype: str = field(default="float32", metadata={"help": "float32, bfloat16 or float16."})
    image_mean: list[float] | None = field(
        default=None, metadata={"help": "Per channel, of pixels in [0, 1]; 0.5 by default, as SigLIP."}
    )
    image_std: list[float] | None = field(default=None, metadata={"help": "Per channel, likewise; 0.5 by default."})

    def __post_init__(self):
        require_values(self)
        self.check_lora()
        if self.use_peft and self.model is None:
            raise ValueError("use_peft needs model: adapters belong to a checkpoint, which they are loaded over later")
        for name in ("rope_theta", "max_position_embeddings"):
            value = getattr(self, name)
            if value is not None and (self.model is None or value <= 0):
                raise ValueError(f"{name} is {value}: it is positive, and changes a model (of a new one: text_config)")
        if self.connector_type not in CONNECTOR_TYPES:
            raise ValueError(f"connector_type is {self.connector_type!r}: choose one of {', '.join(CONNECTOR_TYPES)}")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"dtype is {self.dtype!r}: choose float32, bfloat16 or float16")
        described = [
            name for name in OF_A_NEW_MODEL if getattr(self, name) != type(self).__dataclass_fields__[name].default
        ]
        for name in ("image_mean", "image_std"):
            values = getattr(self, name)
            if values is not None and (len(values) != 3 or (name == "image_std" and min(values) <= 0)):
                raise ValueError(f"{name} is {values}: three numbers, one per channel, above 0 for image_std")
        if self.model is not None and described:
            raise ValueError(f"model and {' and '.join(described)} exclude each other: the checkpoint has its own")
