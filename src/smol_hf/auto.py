"""Register our models with transformers' Auto classes, and offer those classes.

`import smol_hf.auto` registers, and so does the first use of a public name of `smol_hf`.
Modules of this package import the Auto classes from here, so that our models are always registered first.
"""

from __future__ import annotations

import transformers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)

from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.modeling.configuration_smol_hf_text import SmolHFTextConfig
from smol_hf.modeling.modeling_smol_hf import SmolHFForConditionalGeneration, SmolHFModel
from smol_hf.modeling.modeling_smol_hf_text import SmolHFForCausalLM, SmolHFTextModel
from smol_hf.processing.processing_smol_hf import SmolHFProcessor

__all__ = [
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForImageTextToText",
    "AutoModelForVision2Seq",
    "AutoProcessor",
    "AutoTokenizer",
]

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
