"""Estimates: parameters exact, FLOPs as counted by hand, memory beside a real step's."""

import json

import pytest
import yaml
from chat_models import save_base
from helpers import build_model, build_processor, model_of_preset
from PIL import Image

from smol_hf.commands.estimating import describe_estimate
from smol_hf.commands.main import main
from smol_hf.conversion.convert import convert
from smol_hf.estimate.estimate import estimate, image_tokens, measure
from smol_hf.estimate.target import find_target
from smol_hf.support.resources import resource_path
from smol_hf.training.model.composition import build_config_and_processor
from smol_hf.training.optimizer.muon import muon_weights
from smol_hf.training.recipe.model_arguments import ModelArguments
from smol_hf.training.recipe.values import RecipeError


@pytest.fixture
def shallow(tmp_path):
    """Write a recipe of a preset with fewer layers, which are traced in a fraction of the time → its path."""

    def write(preset, **layers):
        recipe = {"preset": preset, **{part: {"num_hidden_layers": number} for part, number in layers.items()}}
        path = tmp_path / f"{preset}.yaml"
        path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
        return str(path)

    return write


def test_the_command_ends_with_a_line_of_json(capsys):
    assert main(["estimate", "gpt-93m", "--json", "--length", "64"]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["parameters"] == facts["parameters_per_part"]["text"] == 92_837_376


def test_text_costs_six_flops_for_each_weight_and_token(shallow):
    """Two in the forward pass and four in the backward (Kaplan et al., arXiv:2001.08361), and attention on top."""
    facts = estimate(shallow("smollm2-135m", text_config=4), batch_size=2, length=128)
    head = 49152 * 576
    norms = (2 * 4 + 1) * 576
    blocks = facts["parameters"] - head - norms
    by_hand = 6 * (blocks * 128 + head * 127) / 128
    attention = 4 * 6 * 2 * 128 * 576  # scores and their sums, all pairs
    assert facts["flops"]["per_token"] == pytest.approx(by_hand + attention, rel=1e-3)
    assert facts["flops"]["per_step"] == pytest.approx(facts["flops"]["per_token"] * 256)


def test_a_tile_costs_what_the_encoder_and_the_connector_do(shallow):
    facts = estimate(shallow("smolvlm2-256m", vision_config=3, text_config=2), length=256, tiles=2)
    weights = facts["parameters_per_part"]["vision"] - 1024 * 768  # positions are added, not multiplied
    by_hand = 6 * (weights * 1024 + facts["parameters_per_part"]["connector"] * 64)
    attention = 3 * 6 * 2 * 1024 * 1024 * 768
    assert facts["flops"]["per_tile"] == pytest.approx(by_hand + attention, rel=0.05)
    assert facts["images"]["512x512"] == {"tiles": 17, "tokens": 17 * 64}
    assert facts["images"]["1080x1920"]["tiles"] == 4 * 3 + 1
    said = list(describe_estimate(facts))[-1]
    assert said == "  a smaller image is enlarged first, to a longer side of 2,048 pixels"


def test_memory_is_that_of_weights_gradients_and_states_and_more():
    memory = estimate("tiny-text", batch_size=1, length=64)["memory"]
    weights = estimate("tiny-text")["parameters"] * 4
    assert memory["weights"] == memory["gradients"] == weights
    assert 2 * weights <= memory["optimizer"] < 2.01 * weights
    assert memory["peak"] == memory["activations"] + memory["weights"] + memory["gradients"] + memory["optimizer"]
    assert estimate("tiny-text", batch_size=1, length=64, optimizer="sgd")["memory"]["optimizer"] == 0
    model = model_of_preset("tiny-text")
    matrices = sum(weight.numel() for name, weight in model.named_parameters() if name in muon_weights(model))
    muon = estimate("tiny-text", batch_size=1, length=64, optimizer="muon")
    assert 2 * weights - 4 * matrices <= muon["memory"]["optimizer"] < 2.01 * weights - 4 * matrices
    assert muon["flops"] == estimate("tiny-text", batch_size=1, length=64)["flops"]
    half = estimate("tiny-text", batch_size=1, length=64, dtype="bfloat16")["memory"]
    assert half["weights"] * 2 == memory["weights"]
    shared = estimate("tiny-text", batch_size=1, length=64, shards=4)["memory"]
    assert shared["weights"] == weights // 4 and shared["activations"] == memory["activations"]


def test_adapters_are_all_that_has_gradients_and_states(shallow):
    target = shallow("smollm2-135m", text_config=2)
    facts = estimate(target, length=64, lora={"lora_r": 8})
    layers = {"q": (576, 576), "k": (576, 192), "v": (576, 192), "o": (576, 576),
              "gate": (576, 1536), "up": (576, 1536), "down": (1536, 576)}  # fmt: skip
    by_hand = 2 * 8 * sum(into + out for into, out in layers.values())
    base = 49152 * 576 + 2 * (sum(into * out for into, out in layers.values()) + 2 * 576) + 576
    assert facts["parameters"] == base
    assert facts["parameters_per_part"]["adapters"] == facts["trained_parameters"] == by_hand
    assert facts["memory"]["gradients"] == 4 * by_hand
    assert facts["memory"]["weights"] == 4 * (base + by_hand)
    magnitudes = 2 * sum(out for _, out in layers.values())
    dora = estimate(target, length=64, lora={"lora_r": 8, "use_dora": True})
    assert dora["trained_parameters"] == by_hand + magnitudes
    four_bits = estimate(target, length=64, lora={"lora_r": 8, "load_in_4bit": True})
    quantised = 2 * sum(into * out for into, out in layers.values())
    assert facts["memory"]["weights"] - four_bits["memory"]["weights"] == quantised * (4 - 0.5 - 4 / 64)
    eight_bits = estimate(target, length=64, lora={"lora_r": 8, "load_in_8bit": True})
    saved = quantised * (4 - 1) - 4 * magnitudes
    assert facts["memory"]["weights"] - eight_bits["memory"]["weights"] == pytest.approx(saved, abs=300)


def test_the_recipe_of_adapters_is_a_target(tmp_path):
    processor = build_processor()
    build_model(processor).save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    recipe = resource_path("recipes", "finetune", "lora.yaml").read_text(encoding="utf-8")
    recipe = recipe.replace("checkpoints/smolvlm2-256m", str(tmp_path / "base")).replace("my.jsonl", "digits")
    (tmp_path / "lora.yaml").write_text(recipe, encoding="utf-8")
    facts = estimate(str(tmp_path / "lora.yaml"), length=64)
    parts = facts["parameters_per_part"]
    assert parts["trained copies"] == parts["connector"]
    assert facts["trained_parameters"] == parts["adapters"] + parts["connector"]


def test_checkpointing_trades_memory_for_flops(shallow):
    target = shallow("smollm2-135m", text_config=6)
    plain, checkpointed = (
        estimate(target, length=2048, labelled=8, gradient_checkpointing=value) for value in (False, True)
    )
    assert checkpointed["memory"]["activations"] < 0.3 * plain["memory"]["activations"]
    assert 1.2 < checkpointed["flops"]["per_step"] / plain["flops"]["per_step"] < 1.4


def test_recipes_and_checkpoints_are_targets_too(tmp_path):
    recipe = resource_path("recipes", "quickstart", "digits.yaml")
    facts = estimate(str(recipe))
    for name in ("quickstart/digits", "digits"):
        assert {**estimate(name), "target": None} == {**facts, "target": None}
    assert facts["step"]["rows"] == 32 and facts["step"]["length"] == 256 and facts["step"]["tiles"] == 32
    assert facts["parameters"] == facts["trained_parameters"]
    model = build_model(build_processor())
    model.save_pretrained(tmp_path / "checkpoint")
    facts = estimate(str(tmp_path / "checkpoint"), length=64, tflops=1e-3)
    assert facts["parameters"] == sum(weight.numel() for weight in model.parameters())
    assert facts["seconds_per_step"] == pytest.approx(facts["flops"]["per_step"] / 1e9)


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("smolm2-135m", {}, "is not a preset, a recipe.*did you mean 'smollm2-135m'"),
        ("nowhere.yaml", {}, "does not exist"),
        ("quickstart/digit", {}, "did you mean 'quickstart/digits'"),
        ("last_stage", {}, "several recipes are called last_stage: choose smolvlm2_256m"),
        ("text/dpo_135m", {}, "'validation_split': it is a key of smol-hf dpo"),
        ("tiny-text", {"dtype": "int8"}, "choose float32 or bfloat16 or float16"),
        ("tiny-text", {"optimizer": "lion"}, "optimizer is 'lion': choose adamw or muon or sgd"),
        ("tiny-text", {"length": 10000}, "more than the 512 positions"),
        ("tiny-text", {"batch_size": 0}, "batch_size is 0"),
        ("tiny-text", {"tiles": 1}, "is a text-only model"),
        ("tiny-vlm", {"tiles": 100}, "do not fit"),
        ("tiny-vlm", {"lora": {"lora_r": 0}}, "lora_r is 0"),
        ("tiny-text", {"lora": {"lora_r": 4, "lora_parts": ["vision"]}}, "has no vision, only text"),
    ],
)
def test_what_cannot_be_estimated_is_said(target, options, message):
    with pytest.raises(RecipeError, match=message):
        estimate(target, **options)


def test_a_measurement_stands_beside_the_estimate_and_is_within_15_percent(shallow, capsys):
    target = shallow("nanovlm-222m", vision_config=2, text_config=3)
    step = ["--batch-size", "1", "--length", "128", "--tiles", "2", "--labelled", "16"]
    assert main(["estimate", target, *step, "--measure", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["measured"]["seconds_per_step"] > 0
    assert facts["memory"]["peak"] == pytest.approx(facts["measured"]["peak"], rel=0.15)
    assert main(["estimate", "tiny-vlm", "--length", "64"]) == 0
    assert "an image of 512x512" in capsys.readouterr().out


@pytest.mark.parametrize(("lora", "length"), [({"lora_r": 16}, 256), (None, 256)])
def test_the_memory_of_a_real_step_of_a_small_model_is_within_10_percent_of_the_estimate(lora, length, shallow):
    """A small model, of which the tied head is a large part."""
    step = {
        "batch_size": 1, "length": length, "tiles": None, "labelled": length // 4, "lora": lora, "dtype": None,
        "optimizer": "adamw", "gradient_checkpointing": None, "name": shallow("smollm2-135m", text_config=8),
    }  # fmt: skip
    assert estimate(**step)["memory"]["peak"] == pytest.approx(measure(step)["peak"], rel=0.1)


def test_the_memory_of_a_real_step_with_adapters_is_within_15_percent_of_the_estimate():
    step = {
        "batch_size": 1, "length": 256, "tiles": None, "labelled": 64, "lora": {"lora_r": 16}, "dtype": None,
        "optimizer": "adamw", "gradient_checkpointing": None,
    }  # fmt: skip
    estimated = estimate("smollm2-135m", **step)["memory"]["peak"]
    assert estimated == pytest.approx(measure({**step, "name": "smollm2-135m"})["peak"], rel=0.15)


SIZES = [
    (224, 224), (100, 900), (64, 64), (512, 512), (513, 512), (768, 1024), (1080, 1920), (1754, 1240), (2048, 512),
    (3000, 2000),
]  # fmt: skip


@pytest.mark.parametrize("name", ["smolvlm2-256m", "smolvlm2-500m", "smolvlm2-2.2b", "nanovlm-450m", "tiny-vlm"])
def test_tiles_and_tokens_of_a_preset_are_those_of_training(name, monkeypatch):
    monkeypatch.setattr("smol_hf.estimate.estimate.IMAGE_SIZES", SIZES)
    config, processor = build_config_and_processor(ModelArguments(preset=name), ())
    found = image_tokens(find_target(name))
    for height, width in SIZES:
        tiles = processor.tiles([Image.new("RGB", (width, height))])
        ids = processor.image_block_ids(height, width)
        assert found[f"{height}x{width}"] == {
            "tiles": len(tiles), "tokens": ids.count(processor.image_token_id),
        }, (height, width)  # fmt: skip
    published = {"smolvlm2-256m": (17, 64), "smolvlm2-500m": (17, 64), "smolvlm2-2.2b": (17, 81),
                 "nanovlm-450m": (17, 64), "tiny-vlm": (1, 16)}[name]  # fmt: skip
    assert (found["224x224"]["tiles"], config.image_seq_len) == published


def test_a_checkpoint_is_tiled_as_its_processor_does(tmp_path):
    processor = build_processor(enlarge_images=False)
    build_model(processor).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    found = image_tokens(find_target(str(tmp_path)))
    assert found["224x224"]["tiles"] == len(processor.tiles([Image.new("RGB", (224, 224))])) == 5


def test_a_language_model_of_transformers_is_estimated_as_ours(tmp_path):
    save_base(tmp_path / "native")
    convert(str(tmp_path / "native"), tmp_path / "ours")
    native, ours = (estimate(str(tmp_path / kind), length=64) for kind in ("native", "ours"))
    assert native["parameters"] == ours["parameters"]
    assert native["flops"]["per_step"] == pytest.approx(ours["flops"]["per_step"], rel=1e-3)
    assert native["memory"]["optimizer"] == ours["memory"]["optimizer"]


def test_the_merge_at_the_end_of_a_run_with_adapters_is_estimated(shallow, capsys):
    facts = estimate(shallow("smollm2-135m", text_config=2), length=64, dtype="bfloat16", lora={"lora_r": 8})
    memory = facts["memory"]
    assert memory["merge"] == memory["weights"] + memory["optimizer"] + 4 * facts["parameters"]
    assert "merge" not in estimate("tiny-text", length=64)["memory"]
    assert main(["estimate", "tiny-text", "--length", "64", "--lora-r", "2"]) == 0
    assert "merge" in capsys.readouterr().out
