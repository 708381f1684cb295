"""The language model: token embeddings → decoder layers → final norm → next-token logits.

Every sibling module is imported here by name, although not all are used: transformers copies into a checkpoint only
what the entry module imports directly.
"""

import torch
from torch import nn
from transformers.cache_utils import DynamicCache
from transformers.generation import GenerationMixin
from transformers.utils import can_return_tuple

from .attention import SmolHFAttention, refuse_missing_weights  # noqa: F401
from .compatibility import CACHE_NAME, one_cache, refuse_unknown
from .configuration_smol_hf_text import SmolHFTextConfig
from .decoder import SmolHFDecoderLayer
from .feed_forward import SmolHFFeedForward  # noqa: F401
from .label_loss import label_loss, next_tokens, positions_to_keep, token_losses
from .masks import causal_mask
from .normalization import build_norm
from .outputs import SmolHFCausalLMOutput, SmolHFTextOutput
from .pretrained_smol_hf import SmolHFPreTrainedModel
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
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=None,
        output_attentions=None,
        output_hidden_states=None,
        cache=None,
        **kwargs,
    ):
        """`input_ids` (batch, sequence) or `inputs_embeds` (batch, sequence, hidden) → hidden states.

        Packed samples: one row, `position_ids` restarting at 0 for each sample, no `attention_mask`, no cache.
        `kwargs` are for the attention kernel. `cache` and `past_key_values` are two names of one argument.

        Raises:
            TypeError: for a keyword that no attention kernel reads.
            ValueError: for arguments that exclude each other, and where the kernel returns no attention weights.
        """
        refuse_unknown(kwargs, self)
        cache = one_cache(cache, past_key_values)
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            if cache is not None and cache.get_seq_length() > 0:
                raise ValueError(
                    "gradient checkpointing cannot go on from a cache: call gradient_checkpointing_disable()"
                )
            use_cache, cache = False, None  # a recomputed layer would append its keys to the cache a second time
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)

        # New tokens stand after those in the cache.
        cache_position = kwargs.pop("cache_position", None)  # transformers 4.57 computes it in `generate`
        if cache_position is None:
            seen = cache.get_seq_length() if cache is not None else 0
            cache_position = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + seen
        # Before positions are made up: only those given can restart, and looking for that waits for the device.
        mask = causal_mask(self.config, inputs_embeds, attention_mask, cache, position_ids, cache_position)
        if position_ids is None:
            position_ids = cache_position.unsqueeze(0)

        hidden_states, rotary = inputs_embeds, None
        if self.config.position_embedding_type == "learned":
            hidden_states = hidden_states + self.embed_positions(position_ids)
        else:
            rotary = self.rotary_embedding(position_ids, hidden_states.dtype)

        # Kept only when asked for: they would hold the memory of every layer until the end of the pass.
        all_hidden_states = () if output_hidden_states else None
        all_attentions = () if output_attentions else None
        for layer in self.layers[: self.config.num_hidden_layers]:  # fewer while `assistant_early_exit` drafts
            if output_hidden_states:
                all_hidden_states += (hidden_states,)
            hidden_states, attentions = layer(
                hidden_states,
                attention_mask=mask,
                rotary=rotary,
                cache=cache,
                position_ids=position_ids,
                cache_position=cache_position,
                **kwargs,
            )
            if output_attentions:
                refuse_missing_weights(attentions, self.config)
                all_attentions += (attentions,)
            del attentions  # (batch, heads, queries, keys): free it before the next layer makes its own
        hidden_states = self.norm(hidden_states)
        if output_hidden_states:
            all_hidden_states += (hidden_states,)
        return SmolHFTextOutput(
            last_hidden_state=hidden_states,
            hidden_states=all_hidden_states,
            attentions=all_attentions,
            **{CACHE_NAME: cache if use_cache else None},
        )


class SmolHFForCausalLM(SmolHFPreTrainedModel, GenerationMixin):
    """The decoder with its head, which by default is the transposed embedding table (tied weights)."""

    config_class = SmolHFTextConfig
    auto_classes = {
        "AutoModel": "SmolHFTextModel",
        "AutoModelForCausalLM": "SmolHFForCausalLM",
        "AutoModelForMultimodalLM": "SmolHFForCausalLM",
    }
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_rep"}

    def __init__(self, config):
        super().__init__(config)
        self.model = SmolHFTextModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        labels=None,
        use_cache=None,
        logits_to_keep=None,
        num_items_in_batch=None,
        output_attentions=None,
        output_hidden_states=None,
        cache=None,
        **kwargs,
    ):
        """Next-token logits, and the loss when `labels` (batch, sequence) are given (-100 = no label).

        Args:
            logits_to_keep: where logits are made. None: everywhere, but in training with labels only at the
                positions that predict one. 0: everywhere. n: the last n. A 1-D tensor: these positions.
            num_items_in_batch: see `label_loss`.
        """
        if labels is not None:
            use_cache = bool(use_cache)  # off unless asked for: a cache would hide where packed samples begin
        logits_to_keep = positions_to_keep(logits_to_keep, labels, self.training)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            cache=one_cache(cache, past_key_values),
            return_dict=True,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        if isinstance(logits_to_keep, torch.Tensor):
            hidden_states = hidden_states.index_select(1, logits_to_keep)
        elif logits_to_keep:
            hidden_states = hidden_states[:, -logits_to_keep:]
        logits = self.lm_head(hidden_states)  # (batch, positions, vocabulary)
        loss = losses = None
        if labels is not None:
            loss, losses = loss_at(logits, labels, logits_to_keep, num_items_in_batch)
        return SmolHFCausalLMOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            token_losses=losses,
            **{CACHE_NAME: outputs.get(CACHE_NAME)},
        )


def loss_at(logits, labels, logits_to_keep, num_items_in_batch):
    """(loss, loss of each token) of `logits` made at `logits_to_keep`: a tensor of positions, the last n, 0 for all.

    The second, (batch, positions), is only to be looked at: nothing flows back through it.
    """
    targets = next_tokens(labels, logits_to_keep)
    losses = token_losses(logits, targets)
    return label_loss(losses, targets, num_items_in_batch), losses.detach()
