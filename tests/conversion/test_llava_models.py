"""Our models as LLaVA of transformers: encoders, layers, connectors and language models, exact or refused."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from helpers import build_processor
from modeling.builders import BACKBONES, LLAMA_LIKE, build_vlm, image_prompt, one_row, random_tiles
from modeling.older_transformers import older_interpreter
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, LlavaForConditionalGeneration

from smol_hf.conversion.checking.check import check_names
from smol_hf.conversion.convert import convert
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.modeling.tiles import normalize_tiles

LAST = 2  # layers of the encoders: their output before the last norm
LLAMA_TYPES = ("llama", "mistral", "qwen2", "phi3", "smollm3", "olmo2", "gpt_neox")
SCALED = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0}
PARTIAL = {"rope_type": "default", "partial_rotary_factor": 0.5, "rope_theta": 5000.0}
MODELS = {
    **{name: ("siglip", "mlp", LAST, dict(model_type=name, **LLAMA_LIKE)) for name in LLAMA_TYPES},
    **{name: ("siglip", "mlp", LAST, BACKBONES[name]) for name in ("qwen3", "gpt2", "opt")},
    "scaled": ("clip", "mlp", -2, dict(model_type="llama", **LLAMA_LIKE, rope_parameters=SCALED)),
    "partial": ("clip", "mlp", -2, dict(model_type="gpt_neox", **LLAMA_LIKE, rope_parameters=PARTIAL)),
    **{f"ours-{name}": ("siglip", "linear", -2, name) for name in ("rotary", "gpt", "nope")},
    **{f"clip{layer}": ("clip", "linear", layer, "rotary") for layer in (-1, 1)},
    **{f"dinov2-{connector}": ("dinov2", connector, LAST, "rotary") for connector in ("mlp", "linear")},
}
CHANGES = {"clip1": {"vision_feature_select_strategy": "full"}, "clip-1": {"connector_bias": False}}


def build(encoder, connector, layer, text, **changes):
    options = {"decoder": text} if isinstance(text, str) else {"text_config": text}
    return build_vlm(encoder, connector_type=connector, vision_feature_layer=layer, **options, **changes)


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    """Folder of native folders by name, each with its `inputs`; and our logits by name."""
    place, expected = tmp_path_factory.mktemp("native"), {}
    for name, parts in MODELS.items():
        model = build(*parts, **CHANGES.get(name, {}))
        model.save_pretrained(place / "ours" / name)
        convert(str(place / "ours" / name), place / name)
        ids = one_row(image_prompt(model.config, images=2))
        pixels = normalize_tiles(random_tiles(2), model.config, torch.float32)
        save_file({"input_ids": ids, "pixel_values": pixels}, place / name / "inputs")
        with torch.no_grad():
            expected[name] = model(input_ids=ids, pixel_values=pixels).logits
    return place, expected


@pytest.mark.parametrize("name", MODELS)
def test_llava_computes_the_same(name, native):
    place, expected = native
    model = AutoModelForImageTextToText.from_pretrained(place / name).eval()
    assert isinstance(model, LlavaForConditionalGeneration)
    with torch.no_grad():
        logits = model(**load_file(place / name / "inputs")).logits
    assert (logits - expected[name]).abs().max() < 1e-5


def test_transformers_4_computes_the_same(native, tmp_path):
    place, expected = native
    script = Path(__file__).with_name("load_llava.py")
    command = [older_interpreter(), "-I", script, tmp_path / "results", *(place / name for name in MODELS)]
    subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    results = load_file(tmp_path / "results")
    differing = {name: (results[name] - expected[name]).abs().max().item() for name in MODELS}
    assert max(differing.values()) < 1e-5, differing


@pytest.mark.parametrize("name", ["qwen3", "gpt_neox", "opt", "ours-gpt", "ours-rotary", "clip-1", "dinov2-linear"])
def test_it_is_read_back_and_the_checkpoint_passes_the_check(name, native, tmp_path):
    place, expected = native
    convert(str(place / name), tmp_path / "back")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "back").eval()
    with torch.no_grad():
        logits = model(**load_file(place / name / "inputs")).logits
    assert (logits - expected[name]).abs().max() < 1e-5
    ours = place / "ours" / name
    finding = check_names(json.loads((ours / "config.json").read_text()), load_file(ours / "model.safetensors"))
    assert finding.good, finding.value


def test_gemma_needs_transformers_5(tmp_path):
    build("clip", "mlp", -2, dict(model_type="gemma", head_dim=8, **LLAMA_LIKE)).save_pretrained(tmp_path / "ours")
    notes = convert(str(tmp_path / "ours"), tmp_path / "native", to="llava")["notes"]
    assert any("gemma" in note and "4.57" in note for note in notes)


REFUSED = {
    "siglip": (("siglip", "mlp", -1, "rotary"), "after its last norm.*Choose vision_feature_layer 2"),
    "dinov2": (("dinov2", "linear", -1, "rotary"), "dinov2 after its last norm.*Choose vision_feature_layer 2"),
    "siglip2": (("siglip2", "mlp", LAST, "rotary"), "vision_config is 'siglip2_vision_model'.*choose one"),
    "gemma2": (
        ("clip", "mlp", -2, BACKBONES["gemma2"]),
        "text_config is 'gemma2'.*choose a language model of gemma",
    ),
    "granite": (("clip", "mlp", -2, dict(model_type="granite", **LLAMA_LIKE)), "text_config is 'granite'"),
    "cohere": (("clip", "mlp", -2, dict(model_type="cohere", **LLAMA_LIKE)), "text_config is 'cohere'"),
    "pixel_shuffle": (
        ("siglip", "pixel_shuffle", -1, "rotary"),
        "'pixel_shuffle'.*use --to smolvlm",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_llava_computes_differently_is_refused(name, tmp_path):
    parts, message = REFUSED[name]
    build(*parts).save_pretrained(tmp_path / "ours")
    with pytest.raises(ConversionError, match=message):
        convert(str(tmp_path / "ours"), tmp_path / "native", to="llava")
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "cuts images into tiles .longest_edge 64, tile_size 32.*Choose longest_edge 32"),
        ({"chat_template": "{{ '<image>' | length }} {% generation %}{% endgeneration %}", "longest_edge": 32},
         "chat template compares or changes"),
    ],
)  # fmt: skip
def test_a_processor_that_llava_lacks_is_refused(options, message, tmp_path):
    build("clip", "mlp", -2, "rotary").save_pretrained(tmp_path / "ours")
    build_processor(**options).save_pretrained(tmp_path / "ours")
    with pytest.raises(ConversionError, match=message):
        convert(str(tmp_path / "ours"), tmp_path / "native")
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_the_words_around_an_image_are_in_the_template(tmp_path):
    build("clip", "mlp", -2, "rotary").save_pretrained(tmp_path / "ours")
    build_processor(longest_edge=32).save_pretrained(tmp_path / "ours")
    notes = convert(str(tmp_path / "ours"), tmp_path / "native")["notes"]
    assert any("in one step" in note for note in notes)
    template = (tmp_path / "native" / "chat_template.jinja").read_text()
    assert "<fake_token_around_image><global-img><image><fake_token_around_image>" in template
    image = json.loads((tmp_path / "native" / "preprocessor_config.json").read_text())
    assert image["resample"] == 1 and not image["do_center_crop"]
