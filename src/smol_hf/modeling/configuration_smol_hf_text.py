"""The configuration of a language model, in a `config.json` that transformers 4.57 and 5.x read."""

from transformers import PretrainedConfig
from transformers.models.auto import modeling_auto


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
        head_dim: channels per attention head; None: `hidden_size // num_attention_heads`.
        num_key_value_heads: heads of keys and values, each shared by a group of query heads (arXiv:2305.13245).
        norm_bias: bias in a `layer_norm` (optional in nanoGPT); an `rms_norm` never has one.
        no_rope_layers: one number per layer, 1 = rotary positions, 0 = none (SmolLM3's NoPE layers and its
            field name); None: all 1.
        rope_parameters: `{"rope_type": "default", "rope_theta": …}`; transformers 4's `rope_theta` and `rope_scaling`
            are accepted too.
        initializer_range: standard deviation of the initial weights, see `SmolHFPreTrainedModel._init_weights`.

    Raises:
        ValueError: for sizes that do not divide and for unknown names. The message lists valid values.
    """

    model_type = "smol_hf_text"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]
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
        norm_bias=True,
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
        self.norm_bias = norm_bias
        self.position_embedding_type = position_embedding_type
        # transformers 5 reads rope_parameters in super().__init__(), so it must exist before.
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
        kwargs.update(tie_word_embeddings=tie_word_embeddings)
        kwargs.update(pad_token_id=pad_token_id, bos_token_id=bos_token_id, eos_token_id=eos_token_id)
        super().__init__(**kwargs)

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
            raise ValueError(
                f"head_dim {self.head_dim} is odd, but rotary positions rotate pairs of channels: make it even"
            )
        if len(self.no_rope_layers) != self.num_hidden_layers:
            raise ValueError(
                f"no_rope_layers has {len(self.no_rope_layers)} entries for {self.num_hidden_layers} layers: "
                "give one for each layer"
            )
        rope_type = self.rope_parameters.get("rope_type", "default")
        if rope_type != "default":
            raise ValueError(f"rope_type {rope_type!r} is not supported: use 'default', with any rope_theta")


# `transformers serve` finds remote classes only through this table of names, which transformers 4.57 does not have.
getattr(modeling_auto, "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES", {}).setdefault(
    SmolHFTextConfig.model_type, "SmolHFForCausalLM"
)
