from __future__ import annotations

import json
import re

import pytest
import yaml
from huggingface_hub import ModelCard

from smol_hf import SmolHFConfig, SmolHFTextConfig
from smol_hf.publishing.model_card import render_model_card, write_model_card

TEXT_SIZES = {"vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = SmolHFTextConfig(**TEXT_SIZES, max_position_embeddings=1024)
VISION = {"model_type": "siglip_vision_model", "hidden_size": 32, "image_size": 32, "patch_size": 4}
CONFIG = SmolHFConfig(text_config=TEXT, vision_config={**VISION, "num_hidden_layers": 3}, scale_factor=2)
PARAMETERS = {"vision": 300_000, "connector": 20_000, "text": 914_567, "total": 1_234_567}
METRICS = {
    "exact_match": 0.9733,
    "blind_exact_match": 0.18,
    "per_kind": {
        "number": {"exact_match": 0.95, "blind_exact_match": 0.05, "questions": 300},
        "<b>left|right</b>": {"exact_match": 0.99, "blind_exact_match": None, "questions": 300},
        "broken": {"exact_match": float("nan")},
    },
    "questions": 600,
}
RECIPE = {
    "model_name": "héllo",
    "output_dir": "runs/demo",
    "learning_rate": 1e-3,
    "betas": [0.9, 0.95],
    "hub_token": "hf_secret",
    "mixture": [{"data": "pages", "options": {"token": "hf_nested_secret", "split": "train"}}],
    "note": "a fence\n```\ninside",
}


def full_card(**changes) -> str:
    arguments = {
        "model_name": "someone/digits",
        "config": CONFIG,
        "parameters": PARAMETERS,
        "metrics": METRICS,
        "recipe": RECIPE,
        "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
        "data_description": "Handwritten digits on pages.",
        "base_models": ["google/siglip-base-patch16-224", "/home/me/decoder"],
        "license": "apache-2.0",
        "language": "en",
    }
    return render_model_card(**{**arguments, **changes})


def bare_card(config=CONFIG, **more) -> str:
    return render_model_card(model_name="bare", config=config, parameters={"total": 10}, **more)


def front_matter(card: str) -> dict:
    before, block, _ = re.split(r"^---$", card, maxsplit=2, flags=re.MULTILINE)
    assert before == ""
    return yaml.safe_load(block)


def headings(card: str) -> list[str]:
    return re.findall(r"^## (.*)$", card, flags=re.MULTILINE)


def code(card: str) -> str:
    (block,) = re.findall(r"^```python\n(.*?)^```$", card, flags=re.MULTILINE | re.DOTALL)
    return block


def test_front_matter_says_what_the_hub_needs():
    data = front_matter(full_card())
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "image-text-to-text"
    assert {"smol_hf", "custom_code"} <= set(data["tags"])
    assert data["license"] == "apache-2.0" and data["language"] == "en"
    assert data["base_model"] == ["google/siglip-base-patch16-224"]
    (entry,) = data["model-index"]
    assert entry["name"] == "someone/digits"
    values = {
        (result["dataset"].get("config"), metric["type"]): metric["value"]
        for result in entry["results"]
        for metric in result["metrics"]
    }
    assert values == {
        (None, "exact_match"): 0.9733,
        (None, "blind_exact_match"): 0.18,
        ("number", "exact_match"): 0.95,
        ("number", "blind_exact_match"): 0.05,
        ("<b>left|right</b>", "exact_match"): 0.99,
    }


def test_the_written_card_loads_again(tmp_path):
    arguments = {"model_name": "someone/digits", "config": CONFIG, "parameters": PARAMETERS, "metrics": METRICS}
    path = write_model_card(tmp_path, **arguments)
    assert path == tmp_path / "README.md"
    card = ModelCard.load(path)
    assert card.data.pipeline_tag == "image-text-to-text"
    assert {result.metric_value for result in card.data.eval_results} == {0.9733, 0.18, 0.95, 0.05, 0.99}
    assert str(card).rstrip() == path.read_text("utf-8").rstrip()


def test_all_sections_appear_with_their_data():
    card = full_card()
    assert headings(card) == ["Use", "Results", "Training", "Versions", "Limitations"]
    for text in (
        "1.23 M parameters",
        "| Vision encoder | `siglip_vision_model`, 3 layers of width 32, tiles of 32 × 32 pixels",
        "| Connector | `pixel_shuffle`, scale factor 2, 16 tokens for a tile | 20,000 |",
        "| Language model | `smol_hf_text`, 2 layers of width 64, vocabulary of 512, up to 1,024 positions |",
        "Built from `google/siglip-base-patch16-224`, `/home/me/decoder`.",
        "| **all** | 97.3% | 18.0% | 600 |",
        "| &lt;b&gt;left\\|right&lt;/b&gt; | 99.0% | not measured | 300 |",
        "| torch | 2.13.0 |",
    ):
        assert text in card
    assert not re.search(r"\bnan\b", card) and "broken" not in card


def test_sections_without_data_are_left_out():
    card = bare_card()
    assert headings(card) == ["Use", "Limitations"]
    assert set(front_matter(card)) == {"library_name", "pipeline_tag", "tags"}
    assert "No evaluation is reported here" in card
    for text in ("blind", "Built from", "held-out", "None", "\n\n\n"):
        assert text not in card
    assert "\n\n\n" not in full_card().replace(RECIPE["note"], "")
    assert "small model" not in render_model_card(model_name="big", config=CONFIG, parameters={"total": 7 * 10**9})


def test_without_a_baseline_the_results_have_no_such_column():
    card = bare_card(metrics={"exact_match": 0.5})
    assert "| Questions | Exact match | Number |" in card and "| **all** | 50.0% |  |" in card
    assert "blind" not in card.lower()


def test_the_example_compiles_and_is_the_one_for_the_kind_of_model():
    hostile_name = 'a"b\\c/<model>'
    for card in (full_card(), full_card(model_name=hostile_name, example_question='Is it "7"?\n'), bare_card()):
        block = code(card)
        compile(block, "card", "exec")
        assert "AutoModelForImageTextToText" in block and "AutoProcessor" in block
    assert f"checkpoint = {json.dumps(hostile_name)}" in code(full_card(model_name=hostile_name))
    for chat, call in ((False, 'tokenizer("Once'), (True, "tokenizer.apply_chat_template(")):
        block = code(bare_card(TEXT, chat=chat))
        compile(block, "card", "exec")
        assert "AutoModelForCausalLM" in block and "Image" not in block and call in block


def test_a_text_model_is_not_called_a_vision_model(tmp_path):
    card = bare_card(TEXT)
    assert front_matter(card)["pipeline_tag"] == "text-generation"
    assert not re.search(r"\b(image|vision|picture)", card, flags=re.IGNORECASE)
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    path = write_model_card(tmp_path, model_name="t", config=TEXT, parameters={"text": 5, "total": 5})
    assert "apply_chat_template" in path.read_text("utf-8")


def test_a_configuration_may_be_a_dictionary():
    assert "3 layers of width 32" in full_card(config=CONFIG.to_dict())
    assert front_matter(bare_card(TEXT.to_dict()))["pipeline_tag"] == "text-generation"


def test_the_recipe_is_yaml_without_credentials():
    card = full_card()
    (block,) = re.findall(r"^````yaml\n(.*?)^````$", card, flags=re.MULTILINE | re.DOTALL)
    assert yaml.safe_load(block) == {
        "model_name": "héllo",
        "output_dir": "runs/demo",
        "learning_rate": 1e-3,
        "betas": [0.9, 0.95],
        "mixture": [{"data": "pages", "options": {"split": "train"}}],
        "note": "a fence\n```\ninside",
    }
    assert "secret" not in card and "<details>" not in card
    assert "<details>" in full_card(recipe={f"key_{index}": index for index in range(60)})


@pytest.mark.parametrize("name", ["plain", "with: colon # and hash", "--- 'dashes' ---", "[list]"])
def test_the_front_matter_survives_any_name(name):
    card = full_card(model_name=name, versions={name: "1"})
    assert front_matter(card)["model-index"][0]["name"] == name
    assert f"\n# {name}\n" in card


def test_a_card_names_the_transformers_releases_that_were_tested():
    card = render_model_card(model_name="mine", config=CONFIG, parameters=PARAMETERS)
    assert "Tested with transformers 4.57.6, 5.23.0 and 5.24.0." in card
    native = render_model_card(model_name="mine", config={"model_type": "llama"}, parameters=PARAMETERS)
    assert "Tested with" not in native
