"""SmolVLM, SmolVLM2 and Idefics3 of transformers: SigLIP, pixel shuffle, Llama."""

from __future__ import annotations

from transformers import Idefics3Config, PretrainedConfig, SmolVLMConfig

from smol_hf.conversion.formats.llama import read_llama, refuse_other_than_llama, write_llama
from smol_hf.conversion.formats.tensor_names import ConversionError, Renaming
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.modeling.configuration_smol_hf_text import SmolHFTextConfig

NAMES = Renaming(
    [
        ("model.vision_model.", "vision_model."),
        ("model.connector.modality_projection.proj.", "connector.proj."),
        ("model.text_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
    ],
    ignored=[r"\.position_ids$", r"\.rotary_emb\.inv_freq$"],
)
VISION = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels", "image_size",
    "patch_size", "hidden_act", "layer_norm_eps", "attention_dropout",
)  # fmt: skip


def read_smolvlm(config: dict) -> SmolHFConfig:
    """Read SmolVLM's configuration. Its processor has the mean and deviation of the pixels: see `image_numbers`."""
    native = (Idefics3Config if config["model_type"] == "idefics3" else SmolVLMConfig).from_dict(config)
    text = native.text_config
    assert isinstance(text, PretrainedConfig)  # `from_dict` built it
    if text.model_type not in ("llama", "vllama3"):
        raise ConversionError(f"text_config is {text.model_type!r}: only llama is supported in SmolVLM")
    text = {**text.to_dict(), "tie_word_embeddings": native.tie_word_embeddings}
    return SmolHFConfig(
        text_config=read_llama(text),
        vision_config={
            "model_type": "siglip_vision_model",
            **{key: getattr(native.vision_config, key) for key in VISION},
        },
        connector_type="pixel_shuffle",
        scale_factor=native.scale_factor,
        image_token_id=native.image_token_id,
    )


def write_smolvlm(config: SmolHFConfig) -> SmolVLMConfig:
    """Write SmolVLM's configuration. Raise ConversionError for a part that SmolVLM cannot represent."""
    vision = config.vision_config
    if vision.model_type != "siglip_vision_model":
        raise ConversionError(
            f"vision_config is {vision.model_type!r}: SmolVLMForConditionalGeneration supports only "
            "siglip_vision_model (SigLIP2 weights of a fixed size load into it too). The checkpoint of smol_hf itself "
            "runs with trust_remote_code"
        )
    if config.connector_type != "pixel_shuffle" or config.connector_bias:
        raise ConversionError(
            f"connector_type is {config.connector_type!r}{' with a bias' if config.connector_bias else ''}: "
            "SmolVLMForConditionalGeneration supports only pixel_shuffle without bias (scale_factor 1 is linear)"
        )
    if config.vision_feature_layer != -1:
        raise ConversionError("vision_feature_layer: SmolVLMForConditionalGeneration reads the last layer, -1")
    text = config.text_config
    if isinstance(text, SmolHFTextConfig):
        refuse_other_than_llama(text, "the language model of SmolVLMForConditionalGeneration")
        text = write_llama(text)
    elif text.model_type != "llama":
        raise ConversionError(
            f"text_config is {text.model_type!r}: the language model of SmolVLMForConditionalGeneration is Llama"
        )
    return SmolVLMConfig.from_dict(
        {
            "text_config": {**text.to_dict(), "tie_word_embeddings": False},
            "vision_config": {key: getattr(vision, key) for key in VISION},
            "scale_factor": config.scale_factor,
            "image_token_id": config.image_token_id,
            "tie_word_embeddings": False,
            "pad_token_id": text.pad_token_id,
        }
    )


def to_smolvlm(tensors: dict, config: SmolHFConfig) -> dict:
    """Convert our tensors to SmolVLM's. A tied head is written too: mlx-vlm requires it."""
    head, embeddings = "language_model.lm_head.weight", "language_model.model.embed_tokens.weight"
    return NAMES.to_theirs(tensors if head in tensors else {**tensors, head: tensors[embeddings].clone()})
