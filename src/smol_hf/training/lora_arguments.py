"""The keys of a recipe that trains adapters instead of the weights themselves, named as in TRL's `ModelConfig`."""

from __future__ import annotations

from dataclasses import dataclass, field

from smol_hf.training.argument_values import default_of
from smol_hf.training.parts import PARTS

ALL_LINEAR = "all-linear"  # PEFT's name for what is done by default


@dataclass
class LoraArguments:
    """The keys of a recipe that trains adapters instead of the weights themselves."""

    use_peft: bool = field(default=False, metadata={"help": "Train LoRA adapters on the checkpoint `model`."})
    lora_parts: list[str] = field(
        default_factory=lambda: ["text"],
        metadata={
            "help": "Parts that get adapters: vision, connector, text. Of the others, those whose own learning rate "
            "is given are trained whole and saved with the adapter; the rest is frozen."
        },
    )
    lora_r: int = field(default=16, metadata={"help": "Rank of the updates."})
    lora_alpha: int = field(default=32, metadata={"help": "The updates count lora_alpha / lora_r."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout of what goes into the updates."})
    lora_target_modules: list[str] | None = field(
        default=None,
        metadata={"help": "Names of layers such as q_proj; by default all-linear: all linear ones but the head."},
    )
    lora_trainable_tokens: list[str] | None = field(
        default=None, metadata={"help": "Tokens whose embeddings are trained too, such as new ones."}
    )
    use_dora: bool = field(default=False, metadata={"help": "DoRA: learn the length of each row as well."})
    use_rslora: bool = field(default=False, metadata={"help": "Count the updates lora_alpha / √lora_r."})
    load_in_4bit: bool = field(default=False, metadata={"help": "QLoRA: the language model's layers in four bits."})
    load_in_8bit: bool = field(default=False, metadata={"help": "Or in eight bits."})
    bnb_4bit_quant_type: str = field(default="nf4", metadata={"help": "nf4 or fp4."})
    use_bnb_nested_quant: bool = field(default=False, metadata={"help": "Quantise the scales too."})

    def check_lora(self) -> None:
        """Raises ValueError for values that do not fit each other."""
        unknown = [part for part in self.lora_parts if part not in PARTS]
        if unknown or not self.lora_parts:
            raise ValueError(f"lora_parts is {self.lora_parts}: choose among {', '.join(PARTS)}")
        for name in ("lora_r", "lora_alpha"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout is {self.lora_dropout}: it must be from 0 to below 1")
        if self.bnb_4bit_quant_type not in ("nf4", "fp4"):
            raise ValueError(f"bnb_4bit_quant_type is {self.bnb_4bit_quant_type!r}: choose nf4 or fp4")
        if self.lora_trainable_tokens and "text" not in self.lora_parts:
            raise ValueError("lora_trainable_tokens are of the language model: lora_parts must name text")
        if self.load_in_4bit and self.load_in_8bit:
            raise ValueError("load_in_4bit and load_in_8bit exclude each other")
        if self.lora_target_modules == [ALL_LINEAR]:
            self.lora_target_modules = None
        if not self.load_in_4bit and (self.bnb_4bit_quant_type != "nf4" or self.use_bnb_nested_quant):
            raise ValueError("bnb_4bit_quant_type and use_bnb_nested_quant have no effect without load_in_4bit: true")
        if not self.use_peft:
            given = [
                name
                for name, entry in LoraArguments.__dataclass_fields__.items()
                if name != "use_peft" and getattr(self, name) != default_of(entry)
            ]
            if given:
                raise ValueError(f"{given[0]} has no effect without use_peft: true")
