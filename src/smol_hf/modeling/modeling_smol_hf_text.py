"""The language model, a decoder-only Transformer (GPT, Llama).

    token ids (batch, sequence)
      │ embed_tokens                  one learned vector per token of the vocabulary
    x (batch, sequence, hidden)
      │ layers, each:                 x ← x + Attn(Norm(x));  x ← x + MLP(Norm(x))
    x
      │ norm, lm_head                 one score per token of the vocabulary
    logits (batch, positions, vocabulary)

The logits at position t score the token at t + 1, and depend on the tokens up to t.
"""

import torch
from torch import nn
from transformers.utils.generic import can_return_tuple

from .attention import refuse_missing_weights
from .compatibility import CACHE_NAME, SmolHFCausalLMOutput, SmolHFTextOutput, one_cache, refuse_unknown
from .configuration_smol_hf_text import SmolHFTextConfig
from .decoder import LanguageModelHead, SmolHFDecoderLayer, build_norm
from .label_loss import at_positions, loss_at, positions_to_keep
from .mask import mask_and_kernel
from .pretrained_smol_hf import SmolHFGenerationMixin, SmolHFPreTrainedModel
from .rotary import RotaryEmbedding


class SmolHFTextModel(SmolHFPreTrainedModel):
    """The decoder without its head: token ids (or embeddings) → hidden states."""

    config_class = SmolHFTextConfig
    auto_classes = {"AutoModel": "SmolHFTextModel"}

    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.position_embedding_type == "learned":
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        else:
            self.rotary_embedding = RotaryEmbedding(config)
        self.layers = nn.ModuleList(SmolHFDecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = build_norm(config)
        self.gradient_checkpointing = False
        self.post_init()

    @can_return_tuple
    def forward(
        self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None,
        use_cache=None, output_attentions=None, output_hidden_states=None, cache=None, **kwargs,
    ):  # fmt: skip
        """`input_ids` (batch, sequence) or `inputs_embeds` (batch, sequence, hidden) → hidden states.

        Packed samples: `position_ids` that restart at 0 for each sample, no `attention_mask`, no cache. `kwargs` are
        for the attention kernel (see `sample_bounds`). `cache` and `past_key_values` are two names of one argument.

        Raises:
            TypeError: for a keyword that no attention kernel reads.
            ValueError: for arguments that exclude each other, and if the kernel returns no attention weights.
        """
        refuse_unknown(kwargs, self)
        keep = self.outputs_to_keep(output_attentions, output_hidden_states)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds  # (batch, sequence, hidden)

        # The cache contains the keys and values of earlier tokens; the new tokens follow them.
        cache, return_cache = self.cache_to_use(use_cache, one_cache(cache, past_key_values))
        cache_position = kwargs.pop("cache_position", None)  # transformers 4.57 computes it in `generate`
        if cache_position is None:
            seen = cache.get_seq_length() if cache is not None else 0
            cache_position = torch.arange(x.shape[1], device=x.device) + seen
        # Before default positions: only those of the caller can mark packed samples.
        kwargs = mask_and_kernel(self.config, x, attention_mask, cache, position_ids, cache_position, kwargs)
        if position_ids is None:
            position_ids = cache_position.unsqueeze(0)  # (1, sequence)

        rotary = None
        if self.config.position_embedding_type == "learned":
            x = x + self.embed_positions(position_ids)
        else:
            rotary = self.rotary_embedding(position_ids, x.dtype)

        # Kept only if requested: they would occupy the memory of every layer until the end of the pass.
        hidden_states, attentions = [], []
        for layer in self.layers[: self.config.num_hidden_layers]:  # fewer while `assistant_early_exit` drafts
            if keep["output_hidden_states"]:
                hidden_states.append(x)
            x, weights = layer(
                x, rotary=rotary, cache=cache, position_ids=position_ids, cache_position=cache_position, **kwargs
            )  # fmt: skip
            if keep["output_attentions"]:
                refuse_missing_weights(weights, self.config)
                attentions.append(weights)
            del weights  # (batch, heads, queries, keys): free it before the next layer allocates its own
        x = self.norm(x)
        return SmolHFTextOutput(
            last_hidden_state=x, **{CACHE_NAME: cache if return_cache else None},
            hidden_states=(*hidden_states, x) if keep["output_hidden_states"] else None,
            attentions=tuple(attentions) if keep["output_attentions"] else None,
        )  # fmt: skip


class SmolHFForCausalLM(SmolHFPreTrainedModel, SmolHFGenerationMixin):
    """The decoder with its head, which by default is the transposed embedding table (tied weights)."""

    config_class = SmolHFTextConfig
    auto_classes = {
        "AutoModel": "SmolHFTextModel", "AutoModelForCausalLM": "SmolHFForCausalLM",
        "AutoModelForMultimodalLM": "SmolHFForCausalLM",
    }  # fmt: skip
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_rep"}

    def __init__(self, config):
        super().__init__(config)
        self.model = SmolHFTextModel(config)
        self.lm_head = LanguageModelHead(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None,
        labels=None, use_cache=None, logits_to_keep=None, num_items_in_batch=None, output_attentions=None,
        output_hidden_states=None, cache=None, **kwargs,
    ):  # fmt: skip
        """Compute next-token logits, and the loss if `labels` (batch, sequence) are given (-100 = no label).

        Args:
            logits_to_keep: the positions of the logits. None: all, but in training with labels only those that
                predict a label. 0: all. n: the last n. A 1-D tensor: these positions.
            num_items_in_batch: see `label_loss`.
        """
        if labels is not None:
            use_cache = bool(use_cache)  # off by default: a cache would hide the beginnings of packed samples
        logits_to_keep = positions_to_keep(logits_to_keep, labels, self.training)
        outputs = self.model(
            input_ids, attention_mask, position_ids, inputs_embeds=inputs_embeds, use_cache=use_cache,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states,
            cache=one_cache(cache, past_key_values), return_dict=True, **kwargs,
        )  # fmt: skip
        # (batch, positions, hidden) → (batch, positions, vocabulary)
        logits = self.lm_head(at_positions(outputs.last_hidden_state, logits_to_keep))
        loss = losses = None
        if labels is not None:
            loss, losses = loss_at(logits, labels, logits_to_keep, num_items_in_batch)
        return SmolHFCausalLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions,
            token_losses=losses, **{CACHE_NAME: outputs.get(CACHE_NAME)},
        )  # fmt: skip
