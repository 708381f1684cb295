"""Small vision-language models, native to Hugging Face transformers.

Importing the package registers its models with transformers' Auto classes.
"""

import importlib
import os

# The libraries below read it once, when they are imported: TRL would tell the Hub about each training.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import transformers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

from .modeling.configuration_smol_hf import SmolHFConfig
from .modeling.configuration_smol_hf_text import SmolHFTextConfig
from .modeling.modeling_smol_hf import SmolHFForConditionalGeneration, SmolHFModel
from .modeling.modeling_smol_hf_text import SmolHFForCausalLM, SmolHFTextModel
from .processing.processing_smol_hf import SmolHFProcessor

__version__ = "0.1.0"

AutoConfig.register(SmolHFTextConfig.model_type, SmolHFTextConfig)
AutoConfig.register(SmolHFConfig.model_type, SmolHFConfig)
AutoModel.register(SmolHFTextConfig, SmolHFTextModel)
AutoModel.register(SmolHFConfig, SmolHFModel)
AutoModelForCausalLM.register(SmolHFTextConfig, SmolHFForCausalLM)
AutoModelForImageTextToText.register(SmolHFConfig, SmolHFForConditionalGeneration)
AutoProcessor.register(SmolHFConfig, SmolHFProcessor)

# transformers 5 removed AutoModelForVision2Seq, whose successor is AutoModelForImageTextToText.
AutoModelForVision2Seq = getattr(transformers, "AutoModelForVision2Seq", AutoModelForImageTextToText)
if AutoModelForVision2Seq is not AutoModelForImageTextToText:
    AutoModelForVision2Seq.register(SmolHFConfig, SmolHFForConditionalGeneration)
if hasattr(transformers, "AutoModelForMultimodalLM"):
    transformers.AutoModelForMultimodalLM.register(SmolHFConfig, SmolHFForConditionalGeneration)

# A saved model carries the code of its class and of everything that code imports.
SmolHFTextConfig.register_for_auto_class()
SmolHFConfig.register_for_auto_class()
SmolHFTextModel.register_for_auto_class("AutoModel")
SmolHFModel.register_for_auto_class("AutoModel")
SmolHFForCausalLM.register_for_auto_class("AutoModelForCausalLM")
SmolHFForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")
SmolHFProcessor.register_for_auto_class("AutoProcessor")

LAZY = {
    "SmolCollator": ".data.collator",
    "SmolTrainer": ".training.trainer",
    "Conversation": ".data.conversation",
}

__all__ = [
    "AutoModelForVision2Seq",
    "SmolHFConfig",
    "SmolHFForCausalLM",
    "SmolHFForConditionalGeneration",
    "SmolHFModel",
    "SmolHFProcessor",
    "SmolHFTextConfig",
    "SmolHFTextModel",
    *LAZY,
]


def __getattr__(name):
    if name in LAZY:
        return getattr(importlib.import_module(LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
