"""The image encoder, any of transformers': uint8 tiles → patch features.

Encoders differ in three ways that are settled here: a class token before the patches (CLIP, DINOv2), pixels given as
patches (SigLIP2), and the nesting of their module (transformers 4.57 and 5.x).
"""

import math

import torch
from transformers import AutoModel, PreTrainedModel

from .compatibility import forward_arguments


def build_vision_model(config):
    """The encoder of `config` with random weights: a Vision Transformer (arXiv:2010.11929).

    With SigLIP-B/16 at 512 pixels, whose hidden size is 768, it computes:

        patch embedding    (tiles, 3, 512, 512) → (tiles, 1024, 768). The tile is cut into 32 × 32 patches. One matrix
                           maps the 16·16·3 numbers of each patch to a vector: a convolution with stride 16.
        positions          x ← x + a learned vector per patch, for attention itself knows no order.
        12 layers          x ← x + Attn(Norm(x)); x ← x + MLP(Norm(x)), as in `decoder`, but without a mask.
        last norm          (tiles, 1024, 768): each patch described in the light of the whole tile.

    Attention is bidirectional: each patch sees all others, since an image is given as a whole and nothing in it is
    predicted. The language model must not look ahead, so there each token sees only those before it.
    """
    # In transformers 4.57 SiglipVisionModel and CLIPVisionModel wrap an inner `vision_model`, in 5.x they do not. The
    # inner one is kept on both, so that a checkpoint has the same keys everywhere.
    model = AutoModel.from_config(config)
    return getattr(model, "vision_model", model)


def normalize_tiles(pixel_values, config, dtype):
    """(tiles, 3, height, width): bytes become (x / 255 - mean) / std in `dtype`; floats are taken as normalised.

    Done here, on the model's device, because a byte is a quarter of a float32 on its way from the workers.

    Raises:
        ValueError: for integers that are not bytes, and for floats that no normalised image holds.
    """
    if pixel_values.dtype != torch.uint8:
        check_normalized(pixel_values, config)
        return pixel_values.to(dtype)
    mean = torch.tensor(config.image_mean, dtype=dtype, device=pixel_values.device).view(1, 3, 1, 1)
    std = torch.tensor(config.image_std, dtype=dtype, device=pixel_values.device).view(1, 3, 1, 1)
    return (pixel_values.to(dtype) / 255 - mean) / std


def check_normalized(pixel_values, config):
    """Raise ValueError for bytes that were cast to another type: the answer would be wrong without an error.

    Normalised pixels lie between (0 - mean) / std and (1 - mean) / std. Four times this range is left on either side.
    Values that are not finite pass: their NaN is seen later.
    """
    if not pixel_values.is_floating_point():
        raise ValueError(f"pixel_values of {pixel_values.dtype}: give uint8, or floats that are normalised")
    if torch.compiler.is_compiling() or pixel_values.device.type == "meta" or not pixel_values.numel():
        return
    lowest = min(-mean / std for mean, std in zip(config.image_mean, config.image_std))
    highest = max((1 - mean) / std for mean, std in zip(config.image_mean, config.image_std))
    margin = 4 * (highest - lowest)
    least, most = torch.stack(torch.aminmax(pixel_values.detach())).tolist()  # one wait for the device, not two
    if max(map(abs, (least, most))) < math.inf and (least < lowest - margin or most > highest + margin):
        raise ValueError(
            f"pixel_values are floats from {least:.4g} to {most:.4g}, but normalised images lie between {lowest:.4g} "
            f"and {highest:.4g}: give the processor's uint8 tiles as they are, or (x / 255 - image_mean) / image_std"
        )


def as_patches(pixel_values, patch_size):
    """(tiles, 3, height, width) → (tiles, patches, patch_size² · 3): SigLIP2's input, channels innermost."""
    tiles, channels, height, width = pixel_values.shape
    rows, columns = height // patch_size, width // patch_size
    patches = pixel_values.view(tiles, channels, rows, patch_size, columns, patch_size)
    return patches.permute(0, 2, 4, 3, 5, 1).reshape(tiles, rows * columns, -1), (rows, columns)


def encoder_outputs(vision_model, pixel_values, config, output_attentions=None, output_hidden_states=None):
    """Run the encoder on normalised tiles; with `hidden_states` where asked for, or where `config` reads one."""
    keep = {"output_hidden_states": bool(output_hidden_states) or config.vision_feature_layer != -1}
    if output_attentions:
        keep["output_attentions"] = True
    if config.vision_config.model_type == "siglip2_vision_model":
        patches, shape = as_patches(pixel_values, config.vision_config.patch_size)
        mask = torch.ones(patches.shape[:2], dtype=torch.long, device=patches.device)
        shapes = torch.tensor([shape] * len(patches), device=patches.device)
        outputs = vision_model(patches, mask, shapes, **keep)
    elif keep["output_hidden_states"] and hides_states(vision_model):
        outputs = outputs_with_states(vision_model, pixel_values, keep)
    else:
        outputs = vision_model(pixel_values=pixel_values, **keep)
    return outputs


def hides_states(vision_model):
    """Whether this is transformers 4.57's SigLIP, which keeps hidden states only inside of its wrapper."""
    return not isinstance(vision_model, PreTrainedModel) and "output_hidden_states" not in forward_arguments(
        vision_model
    )


def outputs_with_states(vision_model, pixel_values, keep):
    """The outputs, with the input of each layer and the output of the last one."""
    states = []
    layers = vision_model.encoder.layers
    hooks = [layer.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0])) for layer in layers]
    hooks.append(vision_model.post_layernorm.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0])))
    try:
        outputs = vision_model(pixel_values=pixel_values, **keep)
    finally:
        for hook in hooks:
            hook.remove()
    outputs.hidden_states = tuple(states)
    return outputs


def patch_features(outputs, config):
    """The hidden state of the encoder that `config` names, without class tokens: (tiles, patches, vision_hidden)."""
    if config.vision_feature_layer == -1:
        features = outputs.last_hidden_state
    else:
        features = outputs.hidden_states[config.vision_feature_layer]
    if config.vision_feature_select_strategy == "default":
        features = features[:, config.num_class_tokens :]  # only patches form the square
    return features
