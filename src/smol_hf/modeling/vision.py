"""The image encoder, which can be any of transformers': uint8 tiles → patch features.

This module hides three differences between encoders: a class token before the patches (CLIP, DINOv2), pixels given as
patches (SigLIP2), and the nesting of their module (transformers 4.57 and 5.x).
"""

import torch
from transformers import AutoModel, PreTrainedModel

from .compatibility import forward_arguments


def build_vision_model(config):
    """Build the encoder of `config` with random weights: a Vision Transformer (arXiv:2010.11929).

    SigLIP-B/16 at 512 pixels, with a hidden size of 768, computes:

        patch embedding    (tiles, 3, 512, 512) → (tiles, 1024, 768). The tile is cut into 32 × 32 patches. One matrix
                           maps the 16·16·3 numbers of each patch to a vector: a convolution with stride 16.
        positions          x ← x + a learned vector per patch, because attention itself ignores order.
        12 layers          x ← x + Attn(Norm(x)); x ← x + MLP(Norm(x)), as in `decoder`, but without a mask.
        last norm          (tiles, 1024, 768): each vector depends on all patches of its tile.

    Attention is bidirectional: each patch sees all patches of its tile, since no part of an image is predicted. The
    language model predicts the next token, so each of its tokens sees only itself and those before it.
    """
    # In transformers 4.57 SiglipVisionModel and CLIPVisionModel wrap an inner `vision_model`, in 5.x they do not. We
    # keep the inner one on both, so that a checkpoint has the same keys on every release.
    model = AutoModel.from_config(config)
    return getattr(model, "vision_model", model)


def as_patches(pixel_values, patch_size):
    """(tiles, 3, height, width) → SigLIP2's input (tiles, patches, patch_size² · 3), and (rows, columns) of patches.

    The numbers of a patch are ordered (row in the patch, column in the patch, channel).
    """
    tiles, channels, height, width = pixel_values.shape
    rows, columns = height // patch_size, width // patch_size
    patches = pixel_values.view(tiles, channels, rows, patch_size, columns, patch_size)
    return patches.permute(0, 2, 4, 3, 5, 1).reshape(tiles, rows * columns, -1), (rows, columns)


def encoder_outputs(vision_model, pixel_values, config, output_attentions=None, output_hidden_states=None):
    """Run the encoder on normalised tiles; it returns `hidden_states` if requested, or if `config` reads one."""
    keep = {"output_hidden_states": bool(output_hidden_states) or config.vision_feature_layer != -1}
    if output_attentions:
        keep["output_attentions"] = True
    if config.vision_config.model_type == "siglip2_vision_model":
        patches, shape = as_patches(pixel_values, config.vision_config.patch_size)
        mask = torch.ones(patches.shape[:2], dtype=torch.long, device=patches.device)
        shapes = torch.tensor([shape] * len(patches), device=patches.device)
        return vision_model(patches, mask, shapes, **keep)
    in_wrapper_only = not isinstance(vision_model, PreTrainedModel) and "output_hidden_states" not in (
        forward_arguments(vision_model)
    )
    if keep["output_hidden_states"] and in_wrapper_only:  # SigLIP in transformers 4.57
        return outputs_with_states(vision_model, pixel_values, keep)
    return vision_model(pixel_values=pixel_values, **keep)


def outputs_with_states(vision_model, pixel_values, keep):
    """Run the encoder and collect its hidden states: the input of each layer and the output of the last one."""
    states = []
    readers = [*vision_model.encoder.layers, vision_model.post_layernorm]
    hooks = [reader.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0])) for reader in readers]
    try:
        outputs = vision_model(pixel_values=pixel_values, **keep)
    finally:
        for hook in hooks:
            hook.remove()
    outputs.hidden_states = tuple(states)
    return outputs


def patch_features(outputs, config):
    """Select the hidden state that `config` names, without class tokens: (tiles, patches, vision_hidden)."""
    if config.vision_feature_layer == -1:
        features = outputs.last_hidden_state
    else:
        features = outputs.hidden_states[config.vision_feature_layer]
    if config.vision_feature_select_strategy == "default":
        features = features[:, config.num_class_tokens :]  # `pixel_shuffle` needs a square of patches
    return features
