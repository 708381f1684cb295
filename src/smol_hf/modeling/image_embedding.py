"""Images in the token sequence: tiles → features → the embeddings of the image tokens."""

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .compatibility import FEATURES_IN_OUTPUT
from .pretrained_smol_hf import SmolHFPreTrainedModel
from .tiles import distinct_tiles, flat_tiles, normalize_tiles, real_tiles
from .vision import encoder_outputs, patch_features


class ImageEmbeddingMixin(SmolHFPreTrainedModel):
    """The path of images through a model with `vision_model`, `connector` and a language model's embeddings."""

    vision_model: nn.Module
    connector: nn.Module

    def get_image_features(
        self, pixel_values, pixel_attention_mask=None, output_attentions=None, output_hidden_states=None,
        return_dict=None,
    ):  # fmt: skip
        """Tiles → features in the language model's space.

        Args:
            pixel_values: flat (tiles, 3, height, width) in the order of the image tokens, or a processor's padded
                (batch, tiles, 3, height, width). uint8, or normalised floats.
            pixel_attention_mask: (batch, tiles, height, width) or (batch, tiles, 1, 1), zero for padding tiles.

        Returns:
            The same as transformers' own classes. From 5.0 on, the encoder's output: its `pooler_output` is a list
            with the features of each row (of each tile, if tiles are flat), (image tokens, hidden). Before 5.0, a
            tensor (tiles, image_seq_len, hidden), for any `return_dict`.
        """
        features, outputs = self.encode_images(
            pixel_values, pixel_attention_mask, output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )  # fmt: skip
        if not FEATURES_IN_OUTPUT:
            return features
        tiles = [1] * len(features)
        if pixel_values.dim() == 5:
            tiles = [pixel_values.shape[1]] * len(pixel_values)
            if pixel_attention_mask is not None:
                tiles = real_tiles(pixel_attention_mask).sum(dim=1).tolist()
        output = BaseModelOutputWithPooling(
            last_hidden_state=outputs.last_hidden_state,
            # a list, as in transformers' own classes, which declare a tensor
            pooler_output=[each.flatten(0, 1) for each in features.split(tiles)],  # pyright: ignore[reportArgumentType]
            hidden_states=outputs.hidden_states if output_hidden_states else None,
            attentions=outputs.attentions,
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def encode_images(self, pixel_values, pixel_attention_mask=None, **keep):
        """Encode tiles, see `get_image_features` → (tiles, image_seq_len, hidden), and the encoder's output."""
        patches, outputs = self.encode_patches(pixel_values, pixel_attention_mask, **keep)
        return self.connector(patches), outputs

    def encode_patches(self, pixel_values, pixel_attention_mask=None, repeats=False, **keep):
        """Encode tiles → the input of the connector, (tiles, patches, vision_hidden), and the encoder's output.

        With `repeats`, each distinct tile is encoded only once, and the encoder's output is that of distinct tiles.
        """
        pixel_values = flat_tiles(pixel_values, pixel_attention_mask)
        pixel_values, places = distinct_tiles(pixel_values) if repeats else (pixel_values, None)
        pixel_values = normalize_tiles(pixel_values, self.config, self.dtype)
        outputs = encoder_outputs(self.vision_model, pixel_values, self.config, **keep)
        features = patch_features(outputs, self.config)
        return (features if places is None else features[places]), outputs

    def image_places(self, input_ids, inputs_embeds):
        """Mark image tokens with True, (batch, sequence): found by their ids, or else by their embedding."""
        if input_ids is not None:
            return input_ids == self.config.image_token_id
        token = torch.tensor(self.config.image_token_id, device=inputs_embeds.device)
        return (inputs_embeds == self.get_input_embeddings()(token)).all(dim=-1)

    def replace_image_tokens(self, image_positions, inputs_embeds, image_features):
        """Replace the embedding of the k-th image token by the k-th image feature, in reading order.

        Args:
            image_positions: see `embed`.
            inputs_embeds: (batch, sequence, hidden).
            image_features: (tiles, image_seq_len, hidden).
        """
        tokens, (tiles, of_each, _) = len(image_positions), image_features.shape
        if tokens != tiles * of_each:
            raise ValueError(
                f"{tokens} image tokens but {tiles * of_each} image features ({tiles} tiles of {of_each}): give each "
                "tile its own image tokens in the text"
            )
        embeddings = inputs_embeds.flatten(0, 1)  # (batch · sequence, hidden)
        return embeddings.index_copy(0, image_positions, image_features.flatten(0, 1)).view_as(inputs_embeds)

    def refuse_image_tokens(self, input_ids, image_positions, cache):
        """Raise ValueError for image tokens without images: their embeddings are meaningless."""
        if cache is not None and cache.get_seq_length() > 0:
            return  # the images of the prompt are in the cache
        if image_positions is None:
            image_positions = (input_ids == self.config.image_token_id).nonzero()
        if tokens := len(image_positions):
            raise ValueError(f"{tokens} image tokens but no pixel_values: pass the processor's pixel_values too")

    def embed(
        self, input_ids, inputs_embeds=None, pixel_values=None, pixel_attention_mask=None, cache=None,
        image_positions=None, patch_features=None,
    ):  # fmt: skip
        """Return token embeddings that contain the images, (batch, sequence, hidden), and the image features.

        Args:
            image_positions: (image tokens,), their positions in the flattened rows, ascending. Without them, the
                search for image tokens waits for the device.
            patch_features: (tiles, patches, vision_hidden) of `encode_patches`, instead of `pixel_values`.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        if pixel_values is not None and pixel_values.shape[0] == 0:  # a processor's flat tiles of a text
            pixel_values = None
        if pixel_values is not None and patch_features is not None:
            raise ValueError("pixel_values and patch_features exclude each other: pass only one")
        if inputs_embeds is None:
            if pixel_values is None and patch_features is None and not torch.compiler.is_compiling():
                self.refuse_image_tokens(input_ids, image_positions, cache)
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if pixel_values is not None:
            repeats = not (torch.is_grad_enabled() or torch.compiler.is_compiling())
            patch_features = self.encode_patches(pixel_values, pixel_attention_mask, repeats)[0]
        if patch_features is not None:
            image_features = self.connector(patch_features)
            features = image_features.to(inputs_embeds.device, inputs_embeds.dtype)
            if image_positions is None:
                is_image = self.image_places(input_ids, inputs_embeds)
                if torch.compiler.is_compiling():  # it needs static shapes, and the number of positions is none
                    is_image = is_image.unsqueeze(-1).expand_as(inputs_embeds)
                    return inputs_embeds.masked_scatter(is_image, features), image_features
                image_positions = is_image.flatten().nonzero().squeeze(-1)
            return self.replace_image_tokens(image_positions, inputs_embeds, features), image_features
        path = [*self.vision_model.parameters(), *self.connector.parameters()]
        if self.training and any(weight.requires_grad for weight in path):
            # Other processes may have images in this step. If not all run the same modules, the exchange of gradients
            # (DDP, FSDP) waits forever. So encode one grey tile, and multiply the result by zero.
            side = self.config.image_side
            blank = torch.full((1, 3, side, side), 128, dtype=torch.uint8, device=inputs_embeds.device)
            nothing = self.encode_images(blank)[0].sum() * 0
            inputs_embeds = inputs_embeds + nothing.to(inputs_embeds.device, inputs_embeds.dtype)
        return inputs_embeds, None
