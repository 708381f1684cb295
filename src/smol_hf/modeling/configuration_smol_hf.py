"""What a model is, in two configurations: `SmolHFTextConfig` (the decoder) and `SmolHFConfig` (image encoder →
connector → decoder). They are written as `config.json` and read by transformers 4.57 and 5.x."""

import transformers
from transformers import CONFIG_MAPPING, PretrainedConfig


class SmolHFTextConfig(PretrainedConfig):
    """A decoder-only language model. The sizes default to SmolLM2-135M's (which has 3 key-value heads).

    One class describes both styles, chosen field by field:

    | field | Llama style (SmolLM2) | GPT style (GPT-2, nanoGPT) |
    |---|---|---|
    | `norm_type` | `rms_norm` | `layer_norm` |
    | `position_embedding_type` | `rotary` | `learned` |
    | `gated_mlp`, `hidden_act` | True, `silu` | False, `gelu_new` |
    | `attention_bias`, `mlp_bias` | False | True |

    Args:
        head_dim: channels per attention head; `hidden_size // num_attention_heads` when None.
        num_key_value_heads: heads of keys and values, each shared by a group of query heads (arXiv:2305.13245).
        no_rope_layers: one number per layer, 1 = rotary positions, 0 = none (SmolLM3's NoPE layers and its
            field name); all 1 when None.
        rope_parameters: `{"rope_type": "default", "rope_theta": …}`; transformers 4's `rope_theta` and `rope_scaling`
            are understood too.
        initializer_range: standard deviation of the initial weights; the projections that write into the residual
            stream get `initializer_range / sqrt(2 * num_hidden_layers)` (GPT-2), so that its variance does not grow
            with depth.

    Raises:
        ValueError: for sizes that do not divide or names that do not exist, with the values that would work.
    """

    model_type = "smol_hf_text"
    keys_to_ignore_at_inference = ["past_key_values"]
    base_model_tp_plan = {
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.k_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.mlp.gate_proj": "colwise",
        "layers.*.mlp.up_proj": "colwise",
        "layers.*.mlp.down_proj": "rowwise",
    }

    def __init__(
        self,
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=None,
        head_dim=None,
        hidden_act="silu",
        gated_mlp=True,
        norm_type="rms_norm",
        norm_eps=1e-5,
        position_embedding_type="rotary",
        rope_parameters=None,
        no_rope_layers=None,
        max_position_embeddings=8192,
        attention_bias=False,
        mlp_bias=False,
        attention_dropout=0.0,
        initializer_range=0.02,
        use_cache=True,
        tie_word_embeddings=True,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        if head_dim is None and hidden_size % num_attention_heads:
            divisors = [n for n in range(1, hidden_size + 1) if hidden_size % n == 0]
            raise ValueError(
                f"hidden_size {hidden_size} does not split into num_attention_heads {num_attention_heads} heads: "
                f"choose one of {divisors}, or give head_dim"
            )
        self.head_dim = head_dim or hidden_size // num_attention_heads
        self.hidden_act = hidden_act
        self.gated_mlp = gated_mlp
        self.norm_type = norm_type
        self.norm_eps = norm_eps
        self.position_embedding_type = position_embedding_type
        # transformers 5 gives this name a meaning of its own, so it must exist before super().__init__() runs.
        older = {"rope_theta": kwargs.pop("rope_theta", 10000.0), **(kwargs.pop("rope_scaling", None) or {})}
        self.rope_parameters = {"rope_type": "default", **older, **(rope_parameters or {})}
        self.no_rope_layers = list(no_rope_layers) if no_rope_layers is not None else [1] * num_hidden_layers
        self.max_position_embeddings = max_position_embeddings
        self.attention_bias = attention_bias
        self.mlp_bias = mlp_bias
        self.attention_dropout = attention_dropout
        self.initializer_range = initializer_range
        self.use_cache = use_cache
        self.check()
        super().__init__(
            pad_token_id=pad_token_id,
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            tie_word_embeddings=tie_word_embeddings,
            **kwargs,
        )

    def check(self):
        if self.num_attention_heads % self.num_key_value_heads:
            divisors = [n for n in range(1, self.num_attention_heads + 1) if self.num_attention_heads % n == 0]
            raise ValueError(
                f"num_key_value_heads {self.num_key_value_heads} does not divide num_attention_heads "
                f"{self.num_attention_heads}: choose one of {divisors}"
            )
        for name, choices in (
            ("norm_type", ("rms_norm", "layer_norm")),
            ("position_embedding_type", ("rotary", "learned")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}: choose one of {', '.join(choices)}")
        if self.position_embedding_type == "rotary" and self.head_dim % 2:
            raise ValueError(f"rotary positions rotate pairs of channels: head_dim {self.head_dim} must be even")
        if len(self.no_rope_layers) != self.num_hidden_layers:
            raise ValueError(
                f"no_rope_layers has {len(self.no_rope_layers)} entries for {self.num_hidden_layers} layers"
            )
        rope_type = self.rope_parameters.get("rope_type", "default")
        if rope_type != "default":
            raise ValueError(f"rope_type {rope_type!r} is not supported: only 'default', with any rope_theta, is")


# SigLIP-B/16 at 512 pixels, the encoder of SmolVLM2-256M and -500M.
DEFAULT_VISION_CONFIG = {
    "model_type": "siglip_vision_model",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 512,
    "patch_size": 16,
}


def build_sub_config(value, default):
    """A configuration of transformers, or ours, from a dictionary with its `model_type` (or a configuration, as is).

    Our own type is named here because transformers' table does not know it when this file runs as remote code.
    """
    if isinstance(value, PretrainedConfig):
        return value
    value = dict(value or default)
    model_type = value.pop("model_type", default["model_type"])
    if model_type == SmolHFTextConfig.model_type:
        return SmolHFTextConfig(**value)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"transformers has no model_type {model_type!r}")
    if model_type in ("siglip_vision_model", "siglip2_vision_model"):
        value.setdefault("vision_use_head", False)  # the pooling head is never read: patches are
    config = CONFIG_MAPPING[model_type](**value)
    if transformers.__version__.startswith("4."):
        use_older_rope_names(config)
    return config


def use_older_rope_names(config):
    """transformers 5 writes `rope_parameters`; 4.57 does not know the name, and would rotate by its own default."""
    rope = dict(getattr(config, "rope_parameters", None) or {})
    if any(isinstance(value, dict) for value in rope.values()):
        raise ValueError(f"{config.model_type} has rope_parameters for each kind of layer: it needs transformers 5")
    for name in ("rope_theta", "partial_rotary_factor"):
        if name in rope:
            setattr(config, name, rope.pop(name))
    if rope.get("rope_type", "default") != "default":
        config.rope_scaling = rope


class SmolHFConfig(PretrainedConfig):
    """A vision-language model: image encoder → connector → language model. The defaults are SmolVLM2-256M's.

    Args:
        vision_config: configuration (or dictionary with `model_type`) of any image encoder of transformers:
            `siglip_vision_model`, `siglip2_vision_model`, `clip_vision_model`, `dinov2`, …
        text_config: configuration of our decoder (`smol_hf_text`) or of any causal language model of transformers.
        connector_type: `pixel_shuffle` (Idefics3, SmolVLM), `linear`, or `mlp` (LLaVA-1.5).
        scale_factor: side of the square of patches that `pixel_shuffle` folds into one token.
        connector_bias: biases in the connector; by default only for `linear` and `mlp`, as published.
        vision_feature_layer: which hidden state of the encoder is read; -1 is its output, -2 LLaVA's choice.
        vision_feature_select_strategy: `default` drops the class token where the encoder has one, `full` keeps it.
        image_token_id: the token whose embedding an image feature replaces.
        image_mean, image_std: per channel, in units of the [0, 1] range; applied to uint8 tiles on the device.
    """

    model_type = "smol_hf"
    sub_configs = {"text_config": PretrainedConfig, "vision_config": PretrainedConfig}
    keys_to_ignore_at_inference = ["past_key_values"]

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
        self.connector_bias = connector_type != "pixel_shuffle" if connector_bias is None else connector_bias
        self.vision_feature_layer = vision_feature_layer
        self.vision_feature_select_strategy = vision_feature_select_strategy
        self.image_token_id = image_token_id
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.initializer_range = initializer_range
        self.use_cache = use_cache
        # The two lines of transformers read these flags from different places: keep one truth in both.
        kwargs["tie_word_embeddings"] = getattr(self.text_config, "tie_word_embeddings", False)
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            if kwargs.get(name) is None:
                kwargs[name] = getattr(self.text_config, name, None)
        self.check()
        super().__init__(**kwargs)

    @property
    def image_side(self):
        """Height and width in pixels of the square tile that the encoder sees."""
        image_size = getattr(self.vision_config, "image_size", None)
        if image_size is None:  # SigLIP2 states its number of patches instead
            return int(self.vision_config.num_patches**0.5) * self.vision_config.patch_size
        return image_size if isinstance(image_size, int) else image_size[0]

    @property
    def patches_per_side(self):
        return self.image_side // self.vision_config.patch_size

    @property
    def image_seq_len(self):
        """Tokens that one tile becomes."""
        if self.connector_type == "pixel_shuffle":
            return (self.patches_per_side // self.scale_factor) ** 2
        return self.patches_per_side**2 + self.num_class_tokens * (self.vision_feature_select_strategy == "full")

    @property
    def num_class_tokens(self):
        """Tokens that the encoder puts before its patches: CLIP's and DINOv2's class token, DINOv2's registers."""
        model_type = self.vision_config.model_type
        has_class_token = model_type.startswith(("clip", "dinov2", "vit", "deit"))
        return int(has_class_token) + getattr(self.vision_config, "num_register_tokens", 0)

    def check(self):
        if self.connector_type not in ("pixel_shuffle", "linear", "mlp"):
            raise ValueError(f"connector_type is {self.connector_type!r}: choose one of pixel_shuffle, linear, mlp")
        if self.vision_feature_select_strategy not in ("default", "full"):
            raise ValueError(
                f"vision_feature_select_strategy is {self.vision_feature_select_strategy!r}: choose default or full"
            )
        patch_size = self.vision_config.patch_size
        if self.image_side % patch_size:
            raise ValueError(f"image_size {self.image_side} is not a multiple of patch_size {patch_size}")
        if self.connector_type != "pixel_shuffle":
            return
        if self.vision_feature_select_strategy == "full" and self.num_class_tokens:
            raise ValueError("pixel_shuffle folds a square of patches: a class token has no place in it (use default)")
        side = self.patches_per_side
        if self.scale_factor < 1 or side % self.scale_factor:
            divisors = [n for n in range(1, side + 1) if side % n == 0]
            raise ValueError(
                f"scale_factor {self.scale_factor} does not divide the {side} patches of a side "
                f"(image_size {self.image_side} / patch_size {patch_size}): choose one of {divisors}"
            )


try:  # `transformers serve` (5.x) finds remote classes only through this table of names
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES as served_names

    served_names.setdefault(SmolHFTextConfig.model_type, "SmolHFForCausalLM")
    served_names.setdefault(SmolHFConfig.model_type, "SmolHFForConditionalGeneration")
except ImportError:  # transformers 4.57
    pass
