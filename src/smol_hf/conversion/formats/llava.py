"""LLaVA-1.5 of transformers: an image encoder (CLIP, SigLIP), two layers with GELU, a language model (Llama)."""

from __future__ import annotations

from transformers import LlavaConfig, PretrainedConfig

from smol_hf.conversion.formats.llama import read_llama
from smol_hf.conversion.formats.tensor_names import ConversionError, Renaming
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig

# Names of transformers 4 and of files on the Hub, and names of 5.x.
NAMES = Renaming(
    [
        ("model.vision_tower.vision_model.", "vision_model."),
        ("vision_tower.vision_model.", "vision_model."),
        ("model.vision_tower.", "vision_model."),
        ("vision_tower.", "vision_model."),
        ("model.multi_modal_projector.", "connector."),
        ("multi_modal_projector.", "connector."),
        ("model.language_model.", "language_model.model."),
        ("language_model.model.", "language_model.model."),
        ("language_model.lm_head.", "language_model.lm_head."),
        ("lm_head.", "language_model.lm_head."),
    ],
    ignored=[r"\.position_ids$", r"\.rotary_emb\.inv_freq$"],
)


def read_llava(config: dict) -> SmolHFConfig:
    """Read LLaVA's configuration. Raise ConversionError for another projector, or several vision layers."""
    native = LlavaConfig.from_dict(config)
    if native.projector_hidden_act != "gelu":
        raise ConversionError(f"projector_hidden_act {native.projector_hidden_act!r}: our mlp connector has only gelu")
    if not isinstance(native.vision_feature_layer, int):
        raise ConversionError(f"vision_feature_layer {native.vision_feature_layer}: only one layer can be read")
    text, vision = native.text_config, native.vision_config
    assert isinstance(text, PretrainedConfig) and isinstance(vision, PretrainedConfig)  # `from_dict` built them
    if text.model_type not in ("llama", "mistral", "qwen2"):
        raise ConversionError(f"text_config is {text.model_type!r}: supported are llama, mistral and qwen2")
    if native.vision_feature_select_strategy == "default" and vision.model_type != "clip_vision_model":
        raise ConversionError(
            f"vision_feature_select_strategy default drops the first patch of {vision.model_type}, which has no class "
            "token: only clip_vision_model is supported with it"
        )
    layers = vision.num_hidden_layers
    if not -layers - 1 <= native.vision_feature_layer <= layers:
        raise ConversionError(f"vision_feature_layer {native.vision_feature_layer}: the encoder has {layers} layers")
    # LLaVA reads its last layer before the final norm; our layer -1 comes after it.
    layer = layers if native.vision_feature_layer == -1 else native.vision_feature_layer
    return SmolHFConfig(
        text_config=read_llama(text.to_dict()) if text.model_type == "llama" else text,
        vision_config=vision,
        connector_type="mlp",
        connector_bias=native.multimodal_projector_bias,
        vision_feature_layer=layer,
        vision_feature_select_strategy=native.vision_feature_select_strategy,
        image_token_id=native.image_token_id,
    )
