"""nanoVLM's folders, against nanoVLM's own arithmetic written out in plain torch operations."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import AutoModelForImageTextToText

from smol_hf.conversion.convert import convert
from smol_hf.conversion.formats.tensor_names import ConversionError

CONFIG = {
    "vit_hidden_dim": 16, "vit_inter_dim": 32, "vit_patch_size": 4, "vit_img_size": 16, "vit_n_heads": 2,
    "vit_dropout": 0.0, "vit_n_blocks": 2, "vit_ln_eps": 1e-6, "vit_cls_flag": False,
    "vit_model_type": "google/siglip2-base-patch16-512", "lm_hidden_dim": 32, "lm_inter_dim": 48, "lm_rms_eps": 1e-5,
    "lm_re_base": 100000, "lm_max_position_embeddings": 128, "lm_base_vocab_size": 60, "extra_token_amount": 4,
    "lm_vocab_size": 64, "lm_n_heads": 4, "lm_n_kv_heads": 2, "lm_dropout": 0.0, "lm_n_blocks": 2,
    "lm_attn_scaling": 1.0, "lm_tie_weights": True, "mp_pixel_shuffle_factor": 2, "mp_image_token_length": 4,
    "vlm_extra_tokens": {"image_token": "<|image|>", "global": "<|global|>", "r1c1": "c", "r1c2": "d"},
}  # fmt: skip
IMAGE = 60


def tensors_of_nanovlm():
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator) * 0.3

    vision, text = CONFIG["vit_hidden_dim"], CONFIG["lm_hidden_dim"]
    shapes = {
        "vision_encoder.patch_embedding.conv.weight": (vision, 3, 4, 4),
        "vision_encoder.patch_embedding.conv.bias": (vision,),
        "vision_encoder.patch_embedding.position_embedding": (1, 16, vision),
        "vision_encoder.layer_norm.weight": (vision,), "vision_encoder.layer_norm.bias": (vision,),
        "MP.proj.weight": (text, 4 * vision), "decoder.token_embedding.weight": (64, text),
        "decoder.norm.weight": (text,),
    }  # fmt: skip
    for i in range(2):
        for name, out, into in (
            ("attn.qkv_proj", 3 * vision, vision), ("attn.out_proj", vision, vision),
            ("mlp.fc1", 32, vision), ("mlp.fc2", vision, 32),
        ):  # fmt: skip
            shapes[f"vision_encoder.blocks.{i}.{name}.weight"] = (out, into)
            shapes[f"vision_encoder.blocks.{i}.{name}.bias"] = (out,)
        for norm in ("ln1", "ln2"):
            shapes[f"vision_encoder.blocks.{i}.{norm}.weight"] = (vision,)
            shapes[f"vision_encoder.blocks.{i}.{norm}.bias"] = (vision,)
        for name, out, into in (
            ("attn.q_proj", text, text), ("attn.k_proj", 16, text), ("attn.v_proj", 16, text),
            ("attn.out_proj", text, text), ("mlp.gate_proj", 48, text), ("mlp.up_proj", 48, text),
            ("mlp.down_proj", text, 48),
        ):  # fmt: skip
            shapes[f"decoder.blocks.{i}.{name}.weight"] = (out, into)
        for norm in ("norm1", "norm2"):
            shapes[f"decoder.blocks.{i}.{norm}.weight"] = (text,)
    return {name: random(*shape) for name, shape in shapes.items()}


def see(tensors, pixels):
    """(tiles, 3, 16, 16) in [0, 1] → (tiles, 4, text)"""
    t = {name.removeprefix("vision_encoder."): x for name, x in tensors.items()}
    x = F.conv2d(pixels, t["patch_embedding.conv.weight"], t["patch_embedding.conv.bias"], stride=4)
    x = x.flatten(2).transpose(1, 2) + t["patch_embedding.position_embedding"]
    for i in range(2):
        p = f"blocks.{i}."
        y = F.layer_norm(x, (16,), t[p + "ln1.weight"], t[p + "ln1.bias"], 1e-6)
        qkv = F.linear(y, t[p + "attn.qkv_proj.weight"], t[p + "attn.qkv_proj.bias"])
        q, k, v = (part.view(len(x), 16, 2, 8).transpose(1, 2) for part in qkv.split(16, dim=2))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = x + F.linear(y, t[p + "attn.out_proj.weight"], t[p + "attn.out_proj.bias"])
        y = F.layer_norm(x, (16,), t[p + "ln2.weight"], t[p + "ln2.bias"], 1e-6)
        y = F.gelu(F.linear(y, t[p + "mlp.fc1.weight"], t[p + "mlp.fc1.bias"]), approximate="tanh")
        x = x + F.linear(y, t[p + "mlp.fc2.weight"], t[p + "mlp.fc2.bias"])
    x = F.layer_norm(x, (16,), t["layer_norm.weight"], t["layer_norm.bias"], 1e-6)
    folded = x.view(len(x), 2, 2, 2, 2, 16).permute(0, 1, 3, 2, 4, 5).reshape(len(x), 4, 64)
    return F.linear(folded, tensors["MP.proj.weight"])


def rms_norm(x, weight):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * weight


def rotate(x):
    """(heads, sequence, 8)"""
    angles = torch.arange(x.shape[1]).float()[:, None] / 100000 ** (torch.arange(0, 8, 2).float() / 8)
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def nanovlm_logits(tensors, ids, pixels):
    """(sequence,) → (sequence, 64)"""
    t = {name.removeprefix("decoder."): x for name, x in tensors.items()}
    x = t["token_embedding.weight"][ids].clone()
    x[ids == IMAGE] = see(tensors, pixels).flatten(0, 1)
    for i in range(2):
        p = f"blocks.{i}."
        y = rms_norm(x, t[p + "norm1.weight"])
        q, k, v = (
            F.linear(y, t[f"{p}attn.{letter}_proj.weight"]).view(len(ids), -1, 8).transpose(0, 1) for letter in "qkv"
        )
        k, v = (rotate(k).repeat_interleave(2, dim=0), v.repeat_interleave(2, dim=0))
        y = F.scaled_dot_product_attention(rotate(q), k, v, is_causal=True).transpose(0, 1).reshape(len(ids), 32)
        x = x + F.linear(y, t[p + "attn.out_proj.weight"])
        y = rms_norm(x, t[p + "norm2.weight"])
        y = F.silu(F.linear(y, t[p + "mlp.gate_proj.weight"])) * F.linear(y, t[p + "mlp.up_proj.weight"])
        x = x + F.linear(y, t[p + "mlp.down_proj.weight"])
    return rms_norm(x, t["norm.weight"]) @ t["token_embedding.weight"].t()


def write(folder, tensors, **changes):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("kept", ["decoder.token_embedding.weight", "decoder.head.weight"])
@torch.no_grad()
def test_it_computes_what_nanovlm_computes(kept, tmp_path):
    tensors = tensors_of_nanovlm()
    saved = dict(tensors)  # of the tied pair, safetensors keeps one
    saved[kept] = saved.pop("decoder.token_embedding.weight")
    saved["decoder.rotary_embd.inv_freq"] = torch.zeros(4)
    write(tmp_path / "source", saved)
    facts = convert(str(tmp_path / "source"), tmp_path / "ours")
    ours = AutoModelForImageTextToText.from_pretrained(tmp_path / "ours").eval()
    ids = torch.tensor([3, *[IMAGE] * 4, 7, *[IMAGE] * 4, 9, 11, 13])
    tiles = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    expected = nanovlm_logits(tensors, ids, tiles / 255)
    assert expected.abs().max() > 0.5
    actual = ours(input_ids=ids.unsqueeze(0), pixel_values=tiles).logits[0]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    assert facts["notes"][0].startswith(
        "it has no processor and no tokenizer, so it cannot generate text: convert again"
    )
    assert facts["source"] == "nanovlm" and facts["parameters"]["total"] == sum(x.numel() for x in tensors.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vit_cls_flag": True}, "vit_cls_flag"),
        ({"lm_attn_scaling": 2.0}, "lm_attn_scaling 2.0"),
        ({"lm_n_blocks": 3}, "are missing"),
    ],
)
def test_what_cannot_be_converted_is_refused(changes, message, tmp_path):
    write(tmp_path / "source", tensors_of_nanovlm(), **changes)
    with pytest.raises(ConversionError, match=message):
        convert(str(tmp_path / "source"), tmp_path / "ours")


def test_a_missing_key_is_named(tmp_path):
    write(tmp_path / "source", tensors_of_nanovlm())
    config = {name: value for name, value in CONFIG.items() if name != "lm_n_heads"}
    (tmp_path / "source/config.json").write_text(json.dumps(config))
    with pytest.raises(ConversionError, match="has no 'lm_n_heads'"):
        convert(str(tmp_path / "source"), tmp_path / "ours")
