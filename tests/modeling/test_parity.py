"""With equal random weights our models compute what transformers' own models compute, to 1e-5 in float32."""

import pytest
import torch
from modeling.builders import (
    ENCODERS,
    IMAGE_TOKEN_ID,
    LLAMA_LIKE,
    SPECIAL_IDS,
    VOCAB_SIZE,
    image_prompt,
    one_row,
    randomise,
    text_config,
)
from PIL import Image
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from smol_hf import SmolHFConfig, SmolHFForCausalLM, SmolHFForConditionalGeneration
from smol_hf.modeling.tiles import normalize_tiles
from smol_hf.modeling.vision import encoder_outputs, patch_features

ROPE = {"rope_type": "default", "rope_theta": 100000.0}


def renamed(state_dict, prefixes):
    """Each key with the first of `prefixes` (old → new) that it begins with replaced."""
    renamed_keys = {}
    for name, weight in state_dict.items():
        old = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        renamed_keys[prefixes.get(old, "") + name[len(old) :]] = weight
    return renamed_keys


def from_gpt2(state_dict):
    """GPT-2 stores its matrices transposed (Conv1D), and queries, keys and values in one."""
    names = {
        "transformer.wte.": "model.embed_tokens.",
        "transformer.wpe.": "model.embed_positions.",
        "transformer.ln_f.": "model.norm.",
        "transformer.h.": "model.layers.",
    }
    parts = {
        "ln_1": "input_layernorm",
        "ln_2": "post_attention_layernorm",
        "attn.c_proj": "self_attn.o_proj",
        "mlp.c_fc": "mlp.up_proj",
        "mlp.c_proj": "mlp.down_proj",
    }
    ours = {}
    for name, weight in renamed(state_dict, names).items():
        if ".c_" in name:
            weight = weight.t().contiguous()  # (in, out) → (out, in); a bias stays
        for old, new in parts.items():
            name = name.replace(old, new)
        if "attn.c_attn" in name:
            for letter, part in zip("qkv", weight.chunk(3)):
                ours[name.replace("attn.c_attn", f"self_attn.{letter}_proj")] = part.contiguous()
        else:
            ours[name] = weight
    return ours


@torch.no_grad()
def assert_same_logits(native, ours, **inputs):
    for implementation in ("eager", "sdpa"):
        native.set_attn_implementation(implementation)
        ours.set_attn_implementation(implementation)
        expected, actual = native(**inputs).logits, ours(**inputs).logits
        assert expected.abs().max() > 0.5, "logits this small would agree whatever the model does"
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@pytest.fixture
def left_padded():
    ids = torch.randint(10, VOCAB_SIZE, (2, 24))
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("tied", [True, False])
def test_decoder_equals_llama(left_padded, tied):
    config = LlamaConfig(**LLAMA_LIKE, rope_parameters=ROPE, rms_norm_eps=1e-5, tie_word_embeddings=tied)
    native = randomise(LlamaForCausalLM(config))
    ours = SmolHFForCausalLM(text_config(rope_parameters=ROPE, tie_word_embeddings=tied)).eval()
    ours.load_state_dict(native.state_dict())
    assert_same_logits(native, ours, **left_padded)


def test_decoder_equals_smollm3(left_padded):
    sizes = {**LLAMA_LIKE, "num_hidden_layers": 4}
    native_config = SmolLM3Config(**sizes, rope_parameters=ROPE, tie_word_embeddings=True)
    assert 0 in native_config.no_rope_layers, "one layer must be without positions for this test to mean something"
    native = randomise(SmolLM3ForCausalLM(native_config))
    config = text_config(
        num_hidden_layers=4,
        rope_parameters=ROPE,
        norm_eps=native_config.rms_norm_eps,
        no_rope_layers=native_config.no_rope_layers,
    )
    ours = SmolHFForCausalLM(config).eval()
    ours.load_state_dict(native.state_dict())
    assert_same_logits(native, ours, **left_padded)


def test_decoder_equals_gpt2(left_padded):
    config = GPT2Config(vocab_size=VOCAB_SIZE, n_embd=32, n_layer=2, n_head=4, n_positions=128, **SPECIAL_IDS)
    native = randomise(GPT2LMHeadModel(config))
    ours = SmolHFForCausalLM(text_config("gpt", intermediate_size=128, norm_eps=config.layer_norm_epsilon)).eval()
    ours.load_state_dict(from_gpt2(native.state_dict()))
    assert_same_logits(native, ours, input_ids=left_padded["input_ids"])
    positions = (left_padded["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    assert_same_logits(native, ours, **left_padded, position_ids=positions)


NATIVE = {
    "smolvlm": (SmolVLMConfig, SmolVLMForConditionalGeneration),
    "idefics3": (Idefics3Config, Idefics3ForConditionalGeneration),
}


# transformers 5.23 numbers patches wrongly at some sides (19, 25, 29, …); these are sides that it gets right.
@pytest.mark.parametrize("scale_factor, side, tied", [(1, 3, False), (2, 4, True), (3, 6, False), (4, 8, False)])
@pytest.mark.parametrize("family", NATIVE)
def test_vision_language_model_equals_native(family, scale_factor, side, tied):
    config_class, model_class = NATIVE[family]
    vision = {**ENCODERS["siglip"], "image_size": 4 * side}
    native_vision = {name: value for name, value in vision.items() if name != "model_type"}
    text = dict(model_type="llama", **LLAMA_LIKE, rope_parameters=ROPE, rms_norm_eps=1e-5, tie_word_embeddings=tied)
    shared = {"scale_factor": scale_factor, "image_token_id": IMAGE_TOKEN_ID, "tie_word_embeddings": tied}
    native = randomise(model_class(config_class(text_config=text, vision_config=native_vision, **shared)))
    ours = SmolHFForConditionalGeneration(
        SmolHFConfig(
            text_config=text_config(rope_parameters=ROPE, tie_word_embeddings=tied), vision_config=vision, **shared
        )
    ).eval()
    prefixes = {
        "model.vision_model.": "vision_model.",
        "model.connector.modality_projection.proj.": "connector.proj.",
        "model.text_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
    }
    ours.load_state_dict(renamed(native.state_dict(), prefixes))

    # One row with one tile and a padding tile, one row with two.
    one, two = image_prompt(ours.config, images=1), image_prompt(ours.config, images=2, seed=1)
    padding = [0] * (len(two) - len(one))
    pixels = torch.randn(2, 2, 3, 4 * side, 4 * side)
    pixels[0, 1] = 0  # the native model finds padding tiles by their zeros
    pixel_mask = torch.ones(2, 2, 4 * side, 4 * side, dtype=torch.bool)
    pixel_mask[0, 1] = False
    inputs = {
        "input_ids": torch.tensor([padding + one, two]),
        "attention_mask": torch.tensor([padding + [1] * len(one), [1] * len(two)]),
        "pixel_attention_mask": pixel_mask,
    }
    assert_same_logits(native, ours, pixel_values=pixels, **inputs)
    with torch.no_grad():
        seen = ours(pixel_values=pixels, **inputs).logits - ours(pixel_values=pixels.flip(1, 3), **inputs).logits
    assert seen[1].abs().max() > 1e-2, "the picture must matter for this test to mean something"


def test_vision_language_model_equals_llava():
    vision = ENCODERS["clip"]
    text = dict(model_type="llama", **LLAMA_LIKE, rope_parameters=ROPE, rms_norm_eps=1e-5, tie_word_embeddings=False)
    reading = {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"}
    native_config = LlavaConfig(
        text_config=text, vision_config=vision, image_token_index=IMAGE_TOKEN_ID, image_token_id=IMAGE_TOKEN_ID,
        tie_word_embeddings=False, **reading,
    )  # fmt: skip
    native = randomise(LlavaForConditionalGeneration(native_config))
    config = SmolHFConfig(
        text_config=text_config(rope_parameters=ROPE, tie_word_embeddings=False),
        vision_config=vision,
        connector_type="mlp",
        image_token_id=IMAGE_TOKEN_ID,
        **reading,
    )
    ours = SmolHFForConditionalGeneration(config).eval()
    prefixes = {
        "model.vision_tower.vision_model.": "vision_model.",
        "model.vision_tower.": "vision_model.",
        "model.multi_modal_projector.": "connector.",
        "model.language_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
    }
    ours.load_state_dict(renamed(native.state_dict(), prefixes))
    ids = one_row(image_prompt(config, images=2))
    assert_same_logits(native, ours, input_ids=ids, pixel_values=torch.randn(2, 3, 24, 24))


@torch.no_grad()
def test_siglip2_sees_the_patches_that_its_own_processor_makes():
    config = SmolHFConfig(text_config=text_config(), vision_config=ENCODERS["siglip2"], connector_type="linear")
    model = randomise(SmolHFForConditionalGeneration(config))
    pixels = torch.randint(0, 256, (24, 24, 3), dtype=torch.uint8)
    processor = Siglip2ImageProcessorPil(patch_size=4, max_num_patches=36)
    expected_inputs = processor(Image.fromarray(pixels.numpy()), return_tensors="pt")
    expected = model.vision_model(
        expected_inputs["pixel_values"], expected_inputs["pixel_attention_mask"], expected_inputs["spatial_shapes"]
    ).last_hidden_state
    tile = normalize_tiles(pixels.permute(2, 0, 1).unsqueeze(0), config, torch.float32)
    features = patch_features(encoder_outputs(model.vision_model, tile, config), config)
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)
