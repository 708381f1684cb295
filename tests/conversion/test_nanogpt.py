"""nanoGPT's files, against nanoGPT's own arithmetic written out in plain torch operations."""

import math

import pytest
import torch
from conversion.native_models import inputs_for, llama, logits_of
from modeling.builders import randomise
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from smol_hf.commands.main import main
from smol_hf.conversion.convert import convert
from smol_hf.conversion.formats.tensor_names import ConversionError

SIZES = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 64, "vocab_size": 96}


def state_dict(bias, transposed=False, seed=0, sizes=SIZES):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape, scale=0.2):
        return torch.randn(shape, generator=generator) * scale

    width, tensors = sizes["n_embd"], {}
    tensors["transformer.wte.weight"] = random(sizes["vocab_size"], width)
    tensors["transformer.wpe.weight"] = random(sizes["block_size"], width)
    norms = ["transformer.ln_f"]
    for layer in range(sizes["n_layer"]):
        place = f"transformer.h.{layer}"
        norms += [f"{place}.ln_1", f"{place}.ln_2"]
        for name, rows, columns in (
            ("attn.c_attn", 3 * width, width), ("attn.c_proj", width, width),
            ("mlp.c_fc", 4 * width, width), ("mlp.c_proj", width, 4 * width),
        ):  # fmt: skip
            weight = random(rows, columns)
            tensors[f"{place}.{name}.weight"] = weight.t().contiguous() if transposed else weight
            if bias:
                tensors[f"{place}.{name}.bias"] = random(rows)
    for norm in norms:
        tensors[f"{norm}.weight"] = 1 + random(width)
        if bias:
            tensors[f"{norm}.bias"] = random(width)
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"]
    return tensors


def nanogpt_logits(tensors, ids):
    """nanoGPT's model.py, (sequence,) → (sequence, vocabulary); its weights stored (out, in)."""
    width, n_head = SIZES["n_embd"], SIZES["n_head"]

    def norm(x, name):
        return F.layer_norm(x, (width,), tensors[f"{name}.weight"], tensors.get(f"{name}.bias"), 1e-5)

    def linear(x, name):
        return F.linear(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))

    length = len(ids)
    x = tensors["transformer.wte.weight"][ids] + tensors["transformer.wpe.weight"][:length]
    for layer in range(SIZES["n_layer"]):
        place = f"transformer.h.{layer}"
        query, key, value = linear(norm(x, f"{place}.ln_1"), f"{place}.attn.c_attn").split(width, dim=-1)
        by_head = [part.view(length, n_head, -1).transpose(0, 1) for part in (query, key, value)]
        scores = by_head[0] @ by_head[1].transpose(1, 2) / math.sqrt(width // n_head)
        scores = scores.masked_fill(torch.ones(length, length).tril() == 0, -math.inf)
        attended = (scores.softmax(-1) @ by_head[2]).transpose(0, 1).reshape(length, width)
        x = x + linear(attended, f"{place}.attn.c_proj")
        x = x + linear(F.gelu(linear(norm(x, f"{place}.ln_2"), f"{place}.mlp.c_fc")), f"{place}.mlp.c_proj")
    return norm(x, "transformer.ln_f") @ tensors["lm_head.weight"].t()


def checkpoint(tensors, **changes):
    """What nanoGPT's train.py saves, with its optimizer's state and its settings."""
    return {
        "model": tensors, "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]},
        "model_args": {**SIZES, "bias": True, "dropout": 0.0}, "iter_num": 3, "best_val_loss": torch.tensor(2.5),
        "config": {"dataset": "openwebtext"}, **changes,
    }  # fmt: skip


@pytest.mark.parametrize("wrapper", ["", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_it_generates_what_nanogpt_generates(bias, wrapper, tmp_path):
    tensors = state_dict(bias)
    torch.save(checkpoint({wrapper + name: x for name, x in tensors.items()}), tmp_path / "ckpt.pt")
    convert(str(tmp_path / "ckpt.pt"), tmp_path / "ours")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    prompt = [3, 14, 15, 92, 65]
    torch.testing.assert_close(
        ours(torch.tensor([prompt])).logits[0], nanogpt_logits(tensors, prompt), rtol=0, atol=1e-5
    )

    expected = list(prompt)
    for _ in range(20):
        expected.append(int(nanogpt_logits(tensors, expected)[-1].argmax()))
    generated = ours.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False, eos_token_id=None)
    assert generated[0].tolist() == expected
    assert len(set(expected[5:])) > 2, "a model that repeats one token would prove little"


def test_transposed_matrices_are_told_from_plain_ones(tmp_path):
    for name, transposed in (("plain", False), ("transposed", True)):
        torch.save({"model_state": state_dict(True, transposed)}, tmp_path / f"{name}.pt")
        convert(str(tmp_path / f"{name}.pt"), tmp_path / name, num_attention_heads=4)
    plain, transposed = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "transposed"))
    assert plain.keys() == transposed.keys() and all(torch.equal(plain[key], transposed[key]) for key in plain)


def test_a_padded_vocabulary_keeps_all_rows_and_an_untied_head_its_own(tmp_path):
    tensors = state_dict(False)
    tensors["lm_head.weight"] = tensors["lm_head.weight"] + 1
    torch.save(checkpoint(tensors), tmp_path / "ckpt.pt")
    facts = convert(str(tmp_path / "ckpt.pt"), tmp_path / "ours")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert ours.config.vocab_size == 96 and not ours.config.tie_word_embeddings
    assert torch.equal(ours.lm_head.weight, tensors["lm_head.weight"])
    assert facts["parameters"]["total"] == sum(tensor.numel() for tensor in tensors.values())


@torch.no_grad()
def test_a_plain_state_dict_in_llama_style(tmp_path):
    native = randomise(llama())
    torch.save({"model_state": native.state_dict(), "config": {"rms_norm_eps": 1e-6}}, tmp_path / "model.pt")
    convert(str(tmp_path / "model.pt"), tmp_path / "ours", num_attention_heads=4, rope_theta=100000.0)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    inputs = inputs_for(native)
    torch.testing.assert_close(logits_of(ours, inputs), logits_of(native, inputs), rtol=0, atol=1e-5)


def changed(change):
    """A checkpoint whose tensors are changed by their names: (name, tensor) → (name, tensor), or None without it."""
    pairs = [change(name, tensor) for name, tensor in state_dict(True).items()]
    return checkpoint(dict(pair for pair in pairs if pair is not None))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(lambda name, x: None if "wpe" in name else (name, x)), "transformer.wpe.weight is missing"),
        (changed(lambda name, x: (f"net.{name}", x)), "wte.weight is missing; the first of 29 is net.transformer"),
        (checkpoint({**state_dict(True), "module.transformer.wte.weight": torch.zeros(96, 32)}), "wte.weight twice"),
        (changed(lambda name, x: (name, x.flatten())), r"wte.weight has the shape \(3072,\): it must be a matrix"),
        (changed(lambda name, x: (name, x.to(torch.complex64))), "is torch.complex64: the weights must be floating"),
        (changed(lambda name, x: (name, x.to(torch.int8))), "is torch.int8: the weights must be floating"),
        (changed(lambda name, x: (name, x.to_sparse())), "wte.weight is sparse or quantised: save"),
        (changed(lambda name, x: (name, x.to("meta"))), "wte.weight is on the meta device"),
        (checkpoint({1: torch.zeros(2)}), "no model found"),
        (checkpoint(state_dict(True), model_args={**SIZES, "n_head": True}), "the number of attention heads is True"),
        ({"model_state": state_dict(True)}, "give --num-attention-heads"),
        (checkpoint(state_dict(True), model_args={**SIZES, "n_layer": 3}), "n_layer 3, but the tensors have 2"),
        ({"epoch": 3}, "no model found"),
        ({"model": {"conv.weight": torch.zeros(3)}}, "unknown tensors, first conv.weight; supported are nanoGPT's"),
        (
            {
                "_orig_mod.transformer.wte.weight": torch.zeros(2, 2),
                "_orig_mod.transformer.h.0.attn.c_q.weight": torch.zeros(2, 2),
            },
            r"tensors of nanochat \(transformer.h.0.attn.c_q.weight\).*NanoChatForCausalLM",
        ),
        (
            {"model": {"lm_head.weight": torch.zeros(2, 2), "transformer.h.0.attn.qkv.weight": torch.zeros(2, 2)}},
            "tensors of LitGPT .*litgpt convert_from_litgpt",
        ),
        ({"layers.0.attention.wq.weight": torch.zeros(2, 2)}, "tensors of Meta's Llama release"),
        ([torch.zeros(3)], "contains list"),
        (checkpoint({k: v for k, v in state_dict(True).items() if "h.1.mlp.c_fc" not in k}), "2 tensors are missing"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_written(content, message, tmp_path):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ConversionError, match=message):
        convert(str(tmp_path / "model.pt"), tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize("content", [b"hello", b"", b"PK\3\4"])
def test_a_file_that_is_none_of_torch_is_refused(content, tmp_path):
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(ConversionError, match=r"model\.pt: (damaged or cut off|refused)"):
        convert(str(tmp_path / "model.pt"), tmp_path / "ours")


def test_a_folder_of_another_trainer_says_what_to_convert(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    torch.save(checkpoint(state_dict(True)), folder / "ckpt.pt")
    with pytest.raises(ConversionError, match=r"has no config\.json, but ckpt\.pt: give that file"):
        convert(str(folder), tmp_path / "ours")
    torch.save({}, folder / "lit_model.pth")
    with pytest.raises(ConversionError, match="is a folder of LitGPT"):
        convert(str(folder), tmp_path / "ours")


def test_a_tokenizer_that_is_none_is_refused_and_a_missing_one_is_said(tmp_path, capsys):
    torch.save(checkpoint(state_dict(True)), tmp_path / "ckpt.pt")
    (tmp_path / "empty").mkdir()
    command = ["convert", str(tmp_path / "ckpt.pt"), str(tmp_path / "ours")]
    assert main([*command, "--tokenizer", str(tmp_path / "empty")]) == 1
    assert "no tokenizer found; expected tokenizer.json or" in capsys.readouterr().err
    assert not (tmp_path / "ours").exists()
    assert main(command) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "note: it has no tokenizer, so it cannot generate text: convert again with --tokenizer NAME" in said
