"""LLaVA of transformers: an image encoder (CLIP, SigLIP, DINOv2), two layers, and a causal language model."""

from __future__ import annotations

import torch
from transformers import LlavaConfig, PretrainedConfig

from smol_hf.conversion.formats.llama import read_llama
from smol_hf.conversion.formats.tensor_names import ConversionError, Renaming
from smol_hf.conversion.native.language_model import LANGUAGE_MODELS, draft_of, names_of, split_head, write_text_config
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.modeling.configuration_smol_hf_text import SmolHFTextConfig

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
ENCODERS = ("clip_vision_model", "siglip_vision_model", "dinov2")
WITH_CLASS_TOKEN = ("clip_vision_model", "dinov2")
ACTIVATIONS = {"gelu": "mlp", "linear": "linear"}  # projector_hidden_act → our connector
TEXT, FIRST, SECOND = "language_model.", "connector.linear_1.", "connector.linear_2."


def read_llava(config: dict) -> SmolHFConfig:
    """Read LLaVA's configuration. Raise ConversionError for another projector, or several vision layers."""
    native = LlavaConfig.from_dict(config)
    if native.projector_hidden_act not in ACTIVATIONS:
        raise ConversionError(f"projector_hidden_act {native.projector_hidden_act!r}: our mlp connector has only gelu")
    if not isinstance(native.vision_feature_layer, int):
        raise ConversionError(f"vision_feature_layer {native.vision_feature_layer}: only one layer can be read")
    text, vision = native.text_config, native.vision_config
    assert isinstance(text, PretrainedConfig) and isinstance(vision, PretrainedConfig)  # `from_dict` built them
    if text.model_type not in LANGUAGE_MODELS:
        raise ConversionError(f"text_config is {text.model_type!r}: supported are {', '.join(LANGUAGE_MODELS)}")
    if native.vision_feature_select_strategy == "default" and vision.model_type not in WITH_CLASS_TOKEN:
        raise ConversionError(
            f"vision_feature_select_strategy default drops the first patch of {vision.model_type}, which has no class "
            f"token: only {' and '.join(WITH_CLASS_TOKEN)} are supported with it"
        )
    layers = vision.num_hidden_layers
    if not -layers - 1 <= native.vision_feature_layer <= layers:
        raise ConversionError(f"vision_feature_layer {native.vision_feature_layer}: the encoder has {layers} layers")
    # LLaVA reads its last layer before the final norm; our layer -1 comes after it.
    layer = layers if native.vision_feature_layer == -1 else native.vision_feature_layer
    return SmolHFConfig(
        text_config=read_llama(text.to_dict()) if text.model_type == "llama" else text,
        vision_config=vision,
        connector_type=ACTIVATIONS[native.projector_hidden_act],
        connector_bias=native.multimodal_projector_bias,
        vision_feature_layer=layer,
        vision_feature_select_strategy=native.vision_feature_select_strategy,
        image_token_id=native.image_token_id,
    )


def from_llava(tensors: dict, config: SmolHFConfig) -> dict:
    """Convert LLaVA's tensors to ours. A linear projector must have the identity as its second layer."""
    ours = NAMES.to_ours(tensors)
    if config.connector_type == "linear":
        ours = without_identity(ours)
    if isinstance(config.text_config, SmolHFTextConfig):
        return ours
    prefix, head, _ = names_of(draft_of(config.text_config))
    rows = [(f"{TEXT}model.", f"{TEXT}{prefix}"), (f"{TEXT}lm_head.weight", f"{TEXT}{head}")]
    others = [(f"{part}.", f"{part}.") for part in ("vision_model", "connector")]
    return Renaming([*rows, *others], ignored=[r"^$"]).to_ours(ours)


def without_identity(tensors: dict) -> dict:
    second = {name.removeprefix(SECOND): tensor for name, tensor in tensors.items() if name.startswith(SECOND)}
    weight, bias = second.get("weight"), second.get("bias")
    is_identity = weight is not None and torch.equal(weight, torch.eye(len(weight)).to(weight))
    if not is_identity or (bias is not None and bias.any()):
        raise ConversionError(
            "projector_hidden_act is 'linear', but the second layer of the projector is not the identity: our linear "
            "connector has a single layer"
        )
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(SECOND)}
    return {name.replace(FIRST, "connector.proj."): tensor for name, tensor in kept.items()}


def write_llava(config: SmolHFConfig) -> LlavaConfig:
    """Write LLaVA's configuration. Raise ConversionError, with what to choose, for a part that LLaVA lacks."""
    vision = config.vision_config
    if config.connector_type not in ACTIVATIONS.values():
        raise ConversionError(
            f"connector_type is {config.connector_type!r}: LlavaForConditionalGeneration supports mlp and linear; "
            "use --to smolvlm"
        )
    if vision.model_type not in ENCODERS:
        raise ConversionError(
            f"vision_config is {vision.model_type!r}: LlavaForConditionalGeneration computes only "
            f"{', '.join(ENCODERS)} exactly; choose one of them"
        )
    act = next(act for act, connector in ACTIVATIONS.items() if connector == config.connector_type)
    keeps_patches_only = config.vision_feature_select_strategy == "default" and config.num_class_tokens
    native = LlavaConfig(
        text_config=write_text_config(config.text_config),
        vision_config=type(vision).from_dict(vision.to_dict()),
        projector_hidden_act=act,
        multimodal_projector_bias=config.connector_bias,
        vision_feature_layer=llava_layer(config),
        vision_feature_select_strategy="default" if keeps_patches_only else "full",
        image_token_index=config.image_token_id,
        image_seq_length=config.image_seq_len,
        tie_word_embeddings=False,
    )
    native.pad_token_id = config.pad_token_id
    return native


def llava_layer(config: SmolHFConfig) -> int:
    """Return LLaVA's number of our layer, counted from the end: -1 is the last layer before the norm."""
    layer, layers = config.vision_feature_layer, config.vision_config.num_hidden_layers
    encoder = config.vision_config.model_type
    if layer == -1 and encoder != "clip_vision_model":  # CLIP has no norm after its last layer
        raise ConversionError(
            f"vision_feature_layer is -1, the output of {encoder} after its last norm: LLaVA reads layers before it. "
            f"Choose vision_feature_layer {layers} (before the norm) or -2, and train the connector with it"
        )
    return layer if layer < 0 else layer - layers - 1


def to_llava(tensors: dict, config: SmolHFConfig) -> dict:
    """Convert our tensors to LLaVA's in transformers 5, with an untied head."""
    text = {name.removeprefix(TEXT): tensor for name, tensor in tensors.items() if name.startswith(TEXT)}
    base, head = split_head(text, config.text_config)
    theirs = {f"model.language_model.{name}": tensor for name, tensor in base.items()} | {"lm_head.weight": head}
    for name, tensor in tensors.items():
        if not name.startswith(TEXT):
            name = name.replace("connector.proj.", FIRST).replace("connector.", "model.multi_modal_projector.")
            theirs[name.replace("vision_model.", "model.vision_tower.", 1)] = tensor
    if config.connector_type == "linear":
        hidden, second = config.text_config.hidden_size, "model.multi_modal_projector.linear_2."
        theirs[f"{second}weight"] = torch.eye(hidden, dtype=head.dtype)
        if config.connector_bias:
            theirs[f"{second}bias"] = torch.zeros(hidden, dtype=head.dtype)
    return theirs


def to_llava_files(tensors: dict, config: LlavaConfig) -> dict:
    """Rename the tensors of transformers 5's files to those of files on the Hub, which transformers 4 reads too.

    transformers 4.57 would not find a CLIP or SigLIP encoder otherwise, and would fill it with random numbers.
    """
    vision = config.vision_config
    assert isinstance(vision, PretrainedConfig)  # `write_llava` built it
    inner = "" if vision.model_type == "dinov2" else "vision_model."
    rows = [("vision_tower.", f"vision_tower.{inner}")]
    rows += [(f"{name}.", f"{name}.") for name in ("multi_modal_projector", "language_model")]
    return Renaming(rows, ignored=[r"^$"]).to_ours(tensors)
