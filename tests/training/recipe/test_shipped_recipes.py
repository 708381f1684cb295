"""Every shipped recipe, mixture and preset builds its model."""

import pytest
import yaml
from chat_models import save_base
from helpers import TEXTS, build_model, build_processor

from smol_hf import SmolHFForCausalLM
from smol_hf.data.mixture.mixture import parse_entries
from smol_hf.support.resources import resource_path
from smol_hf.support.shipped_recipes import shipped_recipes
from smol_hf.support.tokenizer_of import is_language_model
from smol_hf.text.tokenizer_training import train_text_tokenizer
from smol_hf.training.checkpoint.same_run import settings_for_resume
from smol_hf.training.log.run_record import resolve_recipe
from smol_hf.training.model.composition import build_config_and_processor, build_model_and_processor, with_preset
from smol_hf.training.model.presets import TINY_SIGLIP
from smol_hf.training.recipe.recipes import (
    PREFERENCE_CLASSES,
    load_arguments,
    read_mixture,
)
from smol_hf.training.recipe.values import RecipeError

MIXTURES = sorted(resource_path("recipes", "mixtures").glob("*.yaml"))
RECIPES = sorted(set(shipped_recipes().values()) - set(MIXTURES))


def parse(*words):
    return load_arguments(["--output_dir", "unused", *words])


DPO = [path for path in RECIPES if path.stem.startswith("dpo")]


@pytest.mark.parametrize("path", DPO, ids=lambda path: path.stem)
def test_every_shipped_recipe_of_preferences_parses(path):
    recipe, model_arguments, data, arguments = load_arguments(["--config", str(path)], PREFERENCE_CLASSES)
    assert arguments.output_dir == f"runs/{path.stem}" and arguments.evaluates == data.validates
    assert model_arguments.model == f"runs/{path.stem.replace('dpo', 'chat')}/checkpoint"
    resolved = resolve_recipe(recipe, model_arguments, data, arguments)
    assert recipe.items() <= resolved.items() and yaml.safe_dump(resolved)


@pytest.mark.parametrize(
    "path", [path for path in RECIPES if path not in DPO], ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_every_shipped_recipe_parses_and_builds_its_model(path, tmp_path):
    _, model_arguments, data, arguments = load_arguments(["--config", str(path)])
    if model_arguments.model is not None and path.parent.name == "text":  # a recipe that goes on from a checkpoint:
        model_arguments.model = str(save_base(tmp_path, "ours"))  # here from a tiny one
        model, tokenizer = build_model_and_processor(model_arguments, TEXTS, documents=data.documents is not None)
        positions = model_arguments.max_position_embeddings or 128
        assert model.config.max_position_embeddings == positions
        assert (tokenizer.chat_template is not None) == (model_arguments.chat_template is not None)
    elif model_arguments.model is not None:
        model_arguments.model = str(tmp_path)
        build_model(build_processor()).save_pretrained(tmp_path)
        build_processor().save_pretrained(tmp_path)
    if model_arguments.tokenizer is not None:  # on the Hub: here a small one takes its place
        model_arguments.tokenizer = str(tmp_path / "tokenizer")
        train_text_tokenizer(TEXTS, vocab_size=300).save_pretrained(model_arguments.tokenizer)
    config, processor = build_config_and_processor(model_arguments, TEXTS, documents=data.documents is not None)
    if is_language_model(processor):
        assert config.vocab_size >= len(processor)
    else:
        model, processor = build_model_and_processor(model_arguments, TEXTS)
        assert processor.image_seq_len == model.config.image_seq_len
        assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id
    assert arguments.output_dir


@pytest.mark.parametrize("path", MIXTURES, ids=lambda path: path.stem)
def test_every_shipped_mixture_is_that_of_a_recipe(path):
    mixtures = [load_arguments(["--config", str(recipe)])[2].mixture for recipe in RECIPES if recipe not in DPO]
    assert read_mixture(f"recipes/mixtures/{path.name}") in mixtures
    _, _, data_arguments, _ = parse("--mixture", f"recipes/mixtures/{path.name}", "--data_root", "here")
    assert len(parse_entries(data_arguments.mixture)) == path.read_text(encoding="utf-8").count("\n- {")


def test_a_mixture_may_have_a_file_of_its_own(tmp_path):
    (tmp_path / "mine.yaml").write_text("- {data: a.jsonl, weight: 2}\n- {data: b.jsonl, samples: 10}\n")
    (tmp_path / "recipe.yaml").write_text("mixture: mine.yaml\noutput_dir: runs/x\n")
    entries = [{"data": "a.jsonl", "weight": 2}, {"data": "b.jsonl", "samples": 10}]
    recipe, _, arguments, _ = load_arguments(["--config", str(tmp_path / "recipe.yaml")])
    assert arguments.mixture == recipe["mixture"] == entries, "what is saved with the run is the list"
    assert parse("--mixture", str(tmp_path / "mine.yaml"))[2].mixture == entries


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "mine.yaml does not exist"),
        ("data: a.jsonl", "a mixture is a list of entries"),
        ("- a.jsonl", "a mixture is a list of entries"),
        ("- {data: a, data: b}", "duplicate key 'data'"),
    ],
)
def test_a_file_that_holds_no_mixture_is_refused(text, message, tmp_path):
    if text is not None:
        (tmp_path / "mine.yaml").write_text(text)
    (tmp_path / "recipe.yaml").write_text("mixture: mine.yaml\noutput_dir: runs/x\n")
    with pytest.raises(RecipeError, match=message):
        load_arguments(["--config", str(tmp_path / "recipe.yaml")])


def test_a_preset_is_a_model_whose_values_may_be_changed():
    _, arguments, _, _ = parse("--preset", "tiny-vlm", "--text_config.num_hidden_layers", "3", "--longest_edge", "128")
    model, processor = build_model_and_processor(arguments, ["What?"])
    assert model.config.text_config.num_hidden_layers == 3
    assert model.config.text_config.hidden_size == model.config.vision_config.hidden_size == 64
    assert processor.tile_size == 64 and processor.tiler.max_tiles_per_side == 2


def test_llavas_preset_reads_the_layer_before_the_last():
    _, arguments, _, _ = parse("--preset", "llava-smollm2-1.7b")
    arguments = with_preset(arguments)
    assert arguments.vision_feature_layer == -2 and arguments.connector_type == "mlp"
    assert arguments.image_mean == [0.48145466, 0.4578275, 0.40821073]


@pytest.mark.parametrize(
    ("words", "layer"),
    [
        ([], -1),
        (["--connector_type", "mlp"], 2),
        (["--connector_type", "linear", "--vision_feature_layer", "-1"], -1),
        (["--connector_type", "mlp", "--vision_config.model_type", "clip_vision_model"], -2),
    ],
)
def test_a_new_model_with_a_connector_of_llava_can_be_exported_as_llava(words, layer):
    _, arguments, data, training = parse("--preset", "tiny-vlm", "--vision_config.num_hidden_layers", "2", *words)
    model, _ = build_model_and_processor(arguments, ["What?"])
    assert model.config.vision_feature_layer == layer
    repeats = settings_for_resume(arguments, data, training)["repeats"]
    if not words:
        assert repeats["vision_feature_layer"] == -1, "runs of earlier releases resume"


@pytest.mark.parametrize(
    ("name", "message"), [("tiny-vml", "did you mean 'tiny-vlm'"), ("tiny-vlm", "a text-only model")]
)
def test_a_preset_that_cannot_be_built_is_refused(name, message):
    _, arguments, _, _ = parse("--preset", name)
    with pytest.raises(RecipeError, match=message):
        build_model_and_processor(arguments, [], documents=True)


def test_a_preset_of_a_language_model_is_one_alone_unless_it_gets_an_encoder():
    _, arguments, _, _ = parse("--preset", "tiny-text")
    model, tokenizer = build_model_and_processor(arguments, ["What?"])
    assert is_language_model(tokenizer) and isinstance(model, SmolHFForCausalLM)
    assert model.config.vocab_size == 512 >= len(tokenizer)
    sees = [f"--vision_config.{key}={value}" for key, value in TINY_SIGLIP.items()]
    _, arguments, _, _ = parse("--preset", "tiny-text", *sees)
    model, _ = build_model_and_processor(arguments, ["What?"])
    assert model.config.vision_config.image_size == 64 and model.config.text_config.num_hidden_layers == 2
