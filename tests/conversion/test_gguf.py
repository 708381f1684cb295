"""GGUF files of Llama-type models, against the model that they were written from."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from chat_models import SMOLLM2_INSTRUCT
from conversion.native_models import inputs_for, llama, logits_of
from modeling.builders import VOCAB_SIZE, build_tokenizer, randomise
from transformers import AutoModelForCausalLM, AutoTokenizer

from smol_hf.commands.main import main
from smol_hf.conversion import gguf_file
from smol_hf.conversion.convert import convert
from smol_hf.conversion.formats.tensor_names import ConversionError

needs_gguf = pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="the package gguf writes the files")
NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def gguf_name(name):
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return name.replace("model.layers.", "blk.")


def interleaved(weight, heads):
    """Rows of queries and keys as llama.cpp stores them."""
    return weight.view(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write(path, native, architecture="llama", pre="smollm", more_metadata=(), more_tensors=()):
    """The file that llama.cpp's converter makes of this model and the tests' tokenizer."""
    from gguf import GGUFWriter

    config, tokenizer = native.config, build_tokenizer()
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(VOCAB_SIZE)
    engine = tokenizer.backend_tokenizer
    tokens = [engine.id_to_token(number) for number in range(len(tokenizer))]
    special = {str(each) for each in tokenizer.added_tokens_decoder.values()}
    merges = json.loads(engine.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens + [f"<unused{number}>" for number in range(VOCAB_SIZE - len(tokens))])
    writer.add_token_types([3 if each in special else 1 for each in tokens] + [3] * (VOCAB_SIZE - len(tokens)))
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(SMOLLM2_INSTRUCT)
    for key, value in more_metadata:
        writer.add_string(key, value)
    for name, tensor in native.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if "q_proj" in name or "k_proj" in name:
            tensor = interleaved(
                tensor, config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            )
        writer.add_tensor(gguf_name(name), tensor.contiguous().numpy())
    for name in more_tensors:
        writer.add_tensor(name, np.zeros(4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def native():
    torch.manual_seed(0)
    return randomise(llama())


@needs_gguf
@pytest.mark.parametrize("tied", [True, False])
def test_it_computes_and_writes_what_the_source_does(tied, tmp_path):
    torch.manual_seed(0)
    native = randomise(llama(tied))
    path = write(tmp_path / "tiny.gguf", native)
    (tmp_path / "config.json").write_text("{}")  # of another model in the same folder
    facts = convert(str(path), tmp_path / "ours")
    assert (facts["source"], facts["target"], facts["notes"]) == ("gguf", "smol_hf_text", [])
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    inputs = inputs_for(native)
    torch.testing.assert_close(logits_of(ours, inputs), logits_of(native, inputs), rtol=0, atol=1e-5)
    tokenizer, source = AutoTokenizer.from_pretrained(tmp_path / "ours"), build_tokenizer()
    assert tokenizer.chat_template == SMOLLM2_INSTRUCT and tokenizer.eos_token == source.eos_token
    for text in ("What is this?  A picture.\n\n7 of  12", "User:\n\n3"):
        assert tokenizer(text)["input_ids"] == source(text)["input_ids"]


@needs_gguf
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "qwen2"}, "architecture 'qwen2' cannot be converted; supported is llama"),
        ({"pre": "unheard-of"}, "splits texts in the way 'unheard-of'.*--tokenizer"),
        ({"more_metadata": [("llama.rope.scaling.type", "yarn")]}, "yarn scaling"),
        ({"more_tensors": ["rope_freqs.weight"]}, "tensors, but this Llama model"),
        ({"more_tensors": ["blk.0.attn_output.bias"]}, "tensors, but this Llama model"),
    ],
)
def test_what_would_compute_something_else_is_refused(changes, message, native, tmp_path):
    path = write(tmp_path / "tiny.gguf", native, **changes)
    with pytest.raises(ConversionError, match=message):
        convert(str(path), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def renamed(name):
    """The file with another last letter in a name of its metadata or tensors, which are then missing."""
    name = len(name).to_bytes(8, "little") + name.encode()
    return lambda content: content.replace(name, name[:-1] + b"?", 1)


def with_byte(name, place, value):
    """The file with another byte after the name of a tensor: 4 is the first of its shape, 20 its quantisation."""
    name = len(name).to_bytes(8, "little") + name.encode()

    def change(content):
        position = content.index(name) + len(name) + place
        return content[:position] + bytes([value]) + content[position + 1 :]

    return change


NEEDED = (
    "llama.block_count", "llama.context_length", "llama.embedding_length", "llama.feed_forward_length",
    "llama.attention.head_count", "llama.attention.layer_norm_rms_epsilon", "tokenizer.ggml.model",
    "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.eos_token_id",
)  # fmt: skip
DAMAGE = {
    **{name: (renamed(name), f"the metadata lack {name}") for name in NEEDED},
    "no architecture": (renamed("general.architecture"), "has no `general.architecture`"),
    "no merges": (renamed("tokenizer.ggml.merges"), "damaged or unsupported"),
    "no tensor of a layer": (renamed("blk.0.attn_q.weight"), r"1 tensor is missing, first .*layers\.0\..*q_proj"),
    "no embeddings": (renamed("token_embd.weight"), "2 tensors are missing, first lm_head.weight"),
    "other heads": (renamed("llama.attention.head_count_kv"), "have another shape than the metadata say, first"),
    "another shape": (with_byte("blk.1.ffn_up.weight", 4, 16), r"up_proj\.weight: \(48, 16\) instead of \(48, 32\)"),
    "an unknown quantisation": (with_byte("token_embd.weight", 20, 99), "damaged or unsupported.*99"),
    "whole numbers": (with_byte("token_embd.weight", 20, 26), "damaged or unsupported.*I32"),
    "a merge of no tokens": (renamed("t he"), "damaged or unsupported.*BPE"),
}  # fmt: skip


@needs_gguf
@pytest.mark.parametrize("kind", DAMAGE)
def test_no_weight_or_setting_is_made_up_for_a_damaged_file(kind, native, tmp_path):
    path = write(tmp_path / "tiny.gguf", native)
    change, message = DAMAGE[kind]
    content = path.read_bytes()
    assert change(content) != content
    path.write_bytes(change(content))
    with pytest.raises(ConversionError, match=message):
        convert(str(path), tmp_path / "ours")
    assert [each.name for each in tmp_path.iterdir()] == ["tiny.gguf"]


@needs_gguf
def test_a_tokenizer_may_be_named_and_a_damaged_file_is_one_sentence(native, tmp_path):
    path = write(tmp_path / "tiny.gguf", native, pre="unheard-of")
    build_tokenizer().save_pretrained(tmp_path / "texts")
    convert(str(path), tmp_path / "ours", tokenizer=str(tmp_path / "texts"))
    assert len(AutoTokenizer.from_pretrained(tmp_path / "ours")) == len(build_tokenizer())
    content = path.read_bytes()
    for size in (9, 400, len(content) - 5000):
        path.write_bytes(content[:size])
        with pytest.raises(ConversionError, match=r"tiny\.gguf: (damaged|it has)"):
            convert(str(path), tmp_path / "cut")


def test_without_the_package_one_sentence_names_the_extra(tmp_path, monkeypatch, capsys):
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(gguf_file, "is_gguf_available", lambda: False)
    assert main(["convert", str(tmp_path / "tiny.gguf"), str(tmp_path / "ours")]) == 1
    assert "needs the package gguf: pip install 'smol_hf[gguf]'" in " ".join(capsys.readouterr().err.split())


def test_a_file_of_something_else_and_options_without_effect_are_refused(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"PK\3\4")
    with pytest.raises(ConversionError, match="not a GGUF file"):
        convert(str(tmp_path / "x.gguf"), tmp_path / "ours")
    with pytest.raises(ConversionError, match=r"are for \.pt files"):
        convert(str(tmp_path / "x.gguf"), tmp_path / "ours", num_attention_heads=4)
    with pytest.raises(ConversionError, match=r"has no config\.json, but x\.gguf: give that file"):
        convert(str(tmp_path), tmp_path.with_name("elsewhere"))
