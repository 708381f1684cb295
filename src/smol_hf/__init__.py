"""Small vision-language and language models, native to Hugging Face transformers.

The package imports no library until a public name is used. The first use also registers our models with transformers'
Auto classes. A program that only uses the Auto classes writes `import smol_hf.auto`.
"""

import importlib
import os

# Stop TRL from reporting each training to the Hub. Libraries read this variable at import.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

# Public name → its module.
PUBLIC = {
    "AutoModelForVision2Seq": ".auto",
    "Conversation": ".data.conversation",
    "SmolCollator": ".data.collator",
    "SmolHFConfig": ".modeling.configuration_smol_hf",
    "SmolHFForCausalLM": ".modeling.modeling_smol_hf_text",
    "SmolHFForConditionalGeneration": ".modeling.modeling_smol_hf",
    "SmolHFModel": ".modeling.modeling_smol_hf",
    "SmolHFProcessor": ".processing.processing_smol_hf",
    "SmolHFTextConfig": ".modeling.configuration_smol_hf_text",
    "SmolHFTextModel": ".modeling.modeling_smol_hf_text",
    "SmolTrainer": ".training.trainer",
}

__all__ = [*PUBLIC]


def __getattr__(name):
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    importlib.import_module(".auto", __name__)
    return getattr(importlib.import_module(PUBLIC[name], __name__), name)


def __dir__():
    return sorted({*globals(), *PUBLIC})
