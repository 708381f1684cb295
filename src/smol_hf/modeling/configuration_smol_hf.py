"""The configuration of a vision-language model, in a `config.json` that transformers 4.57 and 5.x read."""

from transformers import PretrainedConfig
from transformers.models.auto import modeling_auto

from .configuration_smol_hf_text import SmolHFTextConfig
from .sub_configs import DEFAULT_VISION_CONFIG, build_sub_config

CONNECTOR_TYPES = ("pixel_shuffle", "linear", "mlp")


class SmolHFConfig(PretrainedConfig):
    """A vision-language model: image encoder → connector → language model. The defaults are SmolVLM2-256M's.

    Args:
        vision_config: configuration (or dictionary with `model_type`) of any image encoder of transformers:
            `siglip_vision_model`, `siglip2_vision_model`, `clip_vision_model`, `dinov2`, …
        text_config: configuration of our decoder (`smol_hf_text`) or of any causal language model of transformers.
        connector_type: `pixel_shuffle` (Idefics3, SmolVLM), `linear`, or `mlp` (LLaVA-1.5).
        scale_factor: side of the square of patches that `pixel_shuffle` folds into one token.
        connector_bias: biases in the connector; by default only for `linear` and `mlp`, as published.
        vision_feature_layer: the hidden state of the encoder that is read; -1 is its output, -2 LLaVA's choice.
        vision_feature_select_strategy: `default` drops the class token of an encoder that has one, `full` keeps it.
        image_token_id: the token whose embedding an image feature replaces.
        image_mean, image_std: per channel, in units of the [0, 1] range; applied to uint8 tiles on the device.
    """

    model_type = "smol_hf"
    # a dictionary in every configuration of transformers, whose base class declares a property
    sub_configs = {"text_config": PretrainedConfig, "vision_config": PretrainedConfig}  # pyright: ignore
    keys_to_ignore_at_inference = ["past_key_values", "cache"]

    def __init__(
        self,
        text_config=None,
        vision_config=None,
        connector_type="pixel_shuffle",
        scale_factor=4,
        connector_bias=None,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_token_id=49190,
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
        initializer_range=0.02,
        use_cache=True,
        **kwargs,
    ):
        self.text_config = build_sub_config(text_config, {"model_type": SmolHFTextConfig.model_type})
        self.vision_config = build_sub_config(vision_config, DEFAULT_VISION_CONFIG)
        self.connector_type = connector_type
        self.scale_factor = scale_factor
        self.connector_bias = not self.folds_patches if connector_bias is None else connector_bias
        self.vision_feature_layer = vision_feature_layer
        self.vision_feature_select_strategy = vision_feature_select_strategy
        self.image_token_id = image_token_id
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.initializer_range = initializer_range
        self.use_cache = use_cache
        # transformers 4 and 5 read these settings from different places: keep both equal.
        kwargs["tie_word_embeddings"] = getattr(self.text_config, "tie_word_embeddings", False)
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            if kwargs.get(name) is None:
                kwargs[name] = getattr(self.text_config, name, None)
        self.check()
        super().__init__(**kwargs)

    @property
    def image_side(self):
        """Height and width in pixels of the square tile that the encoder reads."""
        image_size = getattr(self.vision_config, "image_size", None)
        if image_size is None:  # SigLIP2 gives its number of patches instead
            return int(self.vision_config.num_patches**0.5) * self.vision_config.patch_size
        return image_size if isinstance(image_size, int) else image_size[0]

    @property
    def patches_per_side(self):
        """Complete patches only: SigLIP-SO400M cuts 384 pixels into 27 patches of 14 and ignores the last 6 pixels."""
        return self.image_side // self.vision_config.patch_size

    @property
    def image_seq_len(self):
        """Number of image tokens of a tile: (patches_per_side / folded_side)², and class tokens if they are kept."""
        class_tokens = self.num_class_tokens if self.vision_feature_select_strategy == "full" else 0
        return (self.patches_per_side // self.folded_side) ** 2 + class_tokens

    @property
    def folds_patches(self):
        """True if the connector folds squares of patches into tokens. Otherwise each patch becomes a token."""
        return self.connector_type == "pixel_shuffle"

    @property
    def folded_side(self):
        """Patches on the side of the square that becomes one token."""
        return self.scale_factor if self.folds_patches else 1

    @property
    def num_class_tokens(self):
        """Tokens that the encoder puts before its patches: CLIP's and DINOv2's class token, DINOv2's registers."""
        model_type = self.vision_config.model_type
        has_class_token = model_type.startswith(("clip", "dinov2", "vit", "deit"))
        return int(has_class_token) + getattr(self.vision_config, "num_register_tokens", 0)

    def check(self):
        strategies = ("default", "full")
        for name, choices in (("connector_type", CONNECTOR_TYPES), ("vision_feature_select_strategy", strategies)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}: choose one of {', '.join(choices)}")
        patch_size = self.vision_config.patch_size
        if self.image_side < patch_size:
            raise ValueError(f"image_size {self.image_side} is smaller than patch_size {patch_size}")
        if not self.folds_patches:
            return
        if self.vision_feature_select_strategy == "full" and self.num_class_tokens:
            raise ValueError(
                "vision_feature_select_strategy 'full' keeps a class token, which pixel_shuffle cannot fold: "
                "choose default, or another connector_type"
            )
        side = self.patches_per_side
        if self.scale_factor < 1 or side % self.scale_factor:
            divisors = [n for n in range(1, side + 1) if side % n == 0]
            raise ValueError(
                f"scale_factor {self.scale_factor} does not divide the {side} patches of a side "
                f"(image_size {self.image_side} / patch_size {patch_size}): choose one of {divisors}"
            )


# `transformers serve` finds remote classes only through this table of names, which transformers 4.57 does not have.
getattr(modeling_auto, "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES", {}).setdefault(
    SmolHFConfig.model_type, "SmolHFForConditionalGeneration"
)
