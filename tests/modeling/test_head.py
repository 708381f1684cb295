"""The head computes what `F.linear` computes, and with tied weights autograd makes no third table of gradients."""

import pytest
import torch
from torch.nn import functional as F
from torch.profiler import profile

from smol_hf import SmolHFForCausalLM, SmolHFTextConfig
from smol_hf.modeling.decoder import LanguageModelHead

TABLE = [331, 24]  # vocabulary, hidden: no other matrix of the model has these sizes


def build_model(tied=True):
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 40}
    config = SmolHFTextConfig(
        vocab_size=TABLE[0], hidden_size=TABLE[1], max_position_embeddings=64, tie_word_embeddings=tied, **sizes
    )
    return SmolHFForCausalLM(config).train()


def gradients(model, ids):
    model.zero_grad()
    model(ids, labels=ids).loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_are_those_of_a_linear_layer(tied, monkeypatch):
    model, ids = build_model(tied), torch.randint(0, TABLE[0], (2, 10), generator=torch.Generator().manual_seed(1))
    ours = gradients(model, ids)
    monkeypatch.setattr(LanguageModelHead, "forward", torch.nn.Linear.forward)
    for name, theirs in gradients(model, ids).items():
        torch.testing.assert_close(ours[name], theirs, rtol=0, atol=0, msg=name)


def test_no_third_table_is_allocated():
    model, ids = build_model(), torch.arange(20).view(2, 10)
    loss = model(ids, labels=ids).loss
    with profile(record_shapes=True) as recorded:
        loss.backward()
    added = [event.name for event in recorded.events() if event.input_shapes[:2] == [TABLE, TABLE]]
    assert "aten::add_" in added and "aten::add" not in added


def test_autocast_and_frozen_weights():
    model, ids = build_model(), torch.arange(20).view(2, 10)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(ids, labels=ids)
    outputs.loss.backward()
    assert outputs.logits.dtype == torch.bfloat16 and model.lm_head.weight.grad.dtype == torch.float32
    model.zero_grad()
    model.lm_head.weight.requires_grad_(False)
    model(ids, labels=ids).loss.backward()
    assert model.lm_head.weight.grad is None and model.model.norm.weight.grad is not None


def test_second_derivatives_and_per_sample_gradients():
    head = LanguageModelHead(SmolHFTextConfig(vocab_size=5, hidden_size=6, num_attention_heads=3)).double()
    hidden = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradgradcheck(head, hidden)

    def loss(weight, sample, linear):
        return linear(weight, sample).square().sum()

    def ours(weight, sample):
        return torch.func.functional_call(head, {"weight": weight}, sample)

    def theirs(weight, sample):
        return F.linear(sample, weight)

    weight = head.weight.detach()
    each = [torch.func.vmap(torch.func.grad(loss), (None, 0, None))(weight, hidden, how) for how in (ours, theirs)]
    torch.testing.assert_close(*each)


def test_new_tokens_are_trained_too():
    model = build_model()
    model.resize_token_embeddings(TABLE[0] + 3)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    gradient = gradients(model, torch.arange(TABLE[0] - 7, TABLE[0] + 3).view(1, -1))["model.embed_tokens.weight"]
    assert gradient.shape == (TABLE[0] + 3, TABLE[1]) and gradient[-3:].abs().sum(1).all()


def test_a_step_on_the_meta_device_has_gradients():
    model, ids = build_model().to("meta"), torch.zeros(2, 10, dtype=torch.long, device="meta")
    model(ids, labels=ids, logits_to_keep=0).loss.backward()
    assert model.lm_head.weight.grad.shape == torch.Size(TABLE)
