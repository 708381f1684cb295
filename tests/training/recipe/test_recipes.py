"""Keys and values of a recipe: nothing is guessed."""

import json
import math
import re

import pytest
import yaml

from smol_hf import SmolHFForCausalLM, SmolHFTextConfig
from smol_hf.support.resources import resource_path
from smol_hf.training.data import context_length
from smol_hf.training.model.composition import build_model_and_processor
from smol_hf.training.recipe.data_arguments import DataArguments
from smol_hf.training.recipe.recipes import (
    ARGUMENT_CLASSES,
    PREFERENCE_CLASSES,
    load_arguments,
    parse_command_line,
    parse_recipe,
    read_mapping,
    read_mixture,
    read_recipe,
)
from smol_hf.training.recipe.values import RecipeError
from smol_hf.training.run import train


def parse(*words):
    return load_arguments(["--output_dir", "unused", *words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "x", "--preset", "tiny-vlm"), "model and preset"),
        (("--lerning_rate", "1"), "unknown key 'lerning_rate': did you mean 'learning_rate'"),
        (("--text_config.hiden_size", "8"), "unknown key 'hiden_size': did you mean 'hidden_size'"),
        (("--text_config.hidden_size", "abc"), "text_config.hidden_size is 'abc': it must be a number"),
        (("--vision_config.image_size", "big"), "vision_config.image_size is 'big': it must be a number"),
        (("--text_config.mlp_bias", "maybe"), "text_config.mlp_bias is 'maybe': it must be true or false"),
        (("--preset", "tiny-text", "--text_config.vocab_size", "abc"), "text_config.vocab_size is 'abc'"),
        (("--vision_config.model_type", "siglip_vison_model"), "did you mean 'siglip_vision_model'"),
        (("--per_device_train_batch_size", "4.5"), "per_device_train_batch_size"),
        (("--learning_rate", "fast"), "learning_rate"),
        (("--bf16", "maybe"), "bf16"),
        (("--connector_type", "conv"), "choose one of pixel_shuffle, linear, mlp"),
        (("--on_bad_sample", "ignore"), "choose stop or skip"),
        (("--max_length", "512"), "use context_length"),
        (("--packing", "true"), "use sample_packing"),
        (("--remove_unused_columns", "true"), "leave it false"),
        (("--text_learning_rate", "-1"), "0 (frozen) or positive"),
        (("--vision_learning_rate", "0", "--unfreeze_vision_at_step", "3"), "has no effect"),
        (("--context_length", "0"), "at least 1"),
        (("--model", "x", "--tokenizer", "y"), "exclude each other"),
        (("--image_std", "[1, 1]"), "three numbers"),
        (("--scale_factor", "3"), "choose one of [1, 2, 4"),
        (("--text_config.num_key_value_heads", "3"), "choose one of [1, "),
        (("--text_config.vocab_size", "10"), "has 10 tokens, but the tokenizer 304"),
        (("stray",), "write --key value"),
        (("--model", "x", "--scale_factor", "4"), "scale_factor exclude each other"),
        (("--learning_rate", "nan"), "learning_rate is 'nan': it must be a number"),
        (("--learning_rate", "null"), "learning_rate is null"),
        (("--learning_rate", "0"), "nothing is trained"),
        (("--data", "null"), "data is null"),
        (("--seed", "-1"), "seed is -1"),
        (("--per_device_train_batch_size", "0"), "per_device_train_batch_size is 0"),
        (("--gradient_accumulation_steps", "-1"), "gradient_accumulation_steps is -1"),
        (("--max_steps", "0"), "leave no step"),
        (("--loss_type", "dft"), "has no effect"),
        (("--label_smoothing_factor", "0.1"), "has no effect"),
        (("--chat_template_path", "x"), "use chat_template"),
        (("--chat_template", "chatml"), "has its own template"),
        (("--seed", "1", "--seed", "2"), "given twice"),
        (("--data.x", "1"), "not a mapping"),
    ],
)
def test_a_wrong_key_or_value_is_refused_by_name(words, message):
    base = ["--text_config.hidden_size", "32", "--text_config.num_hidden_layers", "1"]
    base += ["--text_config.num_attention_heads", "4", "--vision_config.image_size", "32"]
    base += ["--vision_config.patch_size", "8", "--vision_config.hidden_size", "32", "--data", "digits"]
    given = {word for word in words if word.startswith("--")}
    base = [word for pair in zip(base[::2], base[1::2]) if pair[0] not in given for word in pair]
    with pytest.raises(RecipeError) as refused:
        _, model_arguments, _, _ = parse(*base, *words)
        build_model_and_processor(model_arguments, ["hello"])
    assert message in str(refused.value)


def test_a_duplicate_key_is_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("seed: 1\nseed: 2\n")
    with pytest.raises(RecipeError, match=r"recipe.yaml: duplicate key 'seed' in lines 1 and 2"):
        read_recipe(path)
    path.write_text("- a\n- b\n")
    with pytest.raises(RecipeError, match="list of `key: value` lines"):
        read_recipe(path)
    with pytest.raises(RecipeError, match="does not exist"):
        read_recipe(tmp_path / "gone.yaml")
    with pytest.raises(RecipeError, match="is a folder, and a recipe is a file"):
        read_recipe(tmp_path)


def test_the_command_line_overrides_the_recipe_and_reaches_into_mappings(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"text_config": {"hidden_size": 64}, "seed": 1, "output_dir": "runs/x"}))
    recipe, model, data, training = load_arguments(
        ["--config", str(path), "--text_config.num_hidden_layers=3", "--seed", "5", "--learning-rate", "1e-3"]
    )
    assert recipe["text_config"] == model.text_config == {"hidden_size": 64, "num_hidden_layers": 3}
    assert (training.seed, training.learning_rate, data.data) == (5, 1e-3, "digits")


def test_numbers_without_a_point_are_numbers(tmp_path):
    """YAML 1.1 reads 1e-3 as text; a recipe must not."""
    path = tmp_path / "recipe.yaml"
    path.write_text("learning_rate: 1e-3\nvision_learning_rate: 2e-4\noutput_dir: runs/x\n")
    *_, training = load_arguments(["--config", str(path)])
    assert training.part_learning_rates() == {"vision": 2e-4, "connector": 1e-3, "text": 1e-3}


def test_no_is_a_word_and_not_a_boolean(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("save_strategy: no\noutput_dir: runs/x\nsample_packing: true\n")
    *_, data, training = load_arguments(["--config", str(path), "--eval_strategy", "no"])
    assert (training.save_strategy, training.eval_strategy, data.sample_packing) == ("no", "no", True)


def test_a_switch_needs_no_value_and_config_is_taken_out():
    assert parse_command_line(["--sample_packing", "--config", "a.yaml", "--seed=3"]) == (
        "a.yaml",
        {"sample_packing": True, "seed": 3},
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--attn_implementation", "foo"), "the model cannot be built"),
        (("--tokenizer", "/nowhere"), "the model cannot be built"),
        (("--tokenizer_vocab_size", "10"), "vocab_size must be at least 300"),
        (("--longest_edge", "-5"), "must be positive"),
        (("--page_size", "5"), "the data cannot be built.*page_size must be at least 24"),
        (("--vision_config.patch_size", "0"), "the model cannot be built"),
        (("--vision_config.num_attention_heads", "7"), "the model cannot be built"),
        (("--text_config.hidden_act", "foo"), "the model cannot be built"),
        (("--vision_config.hidden_size", "abc"), "vision_config.hidden_size is 'abc': it must be a number"),
        (("--vision_config.layer_norm_eps", "[1]"), "this model cannot be built: .*'layer_norm_eps'"),
        (("--context_length", "100000"), "more than the 512 positions"),
    ],
)
def test_what_a_library_refuses_is_an_error_of_the_recipe(words, message, tmp_path):
    recipe = str(resource_path("recipes", "quickstart", "digits.yaml"))
    common = ["--config", recipe, "--num_pages", "5", "--output_dir", str(tmp_path / "run"), "--use_cpu", "true"]
    given = [word for word in words if word.startswith("--")]
    arguments = load_arguments([*(word for word in common if word not in given), *words])
    with pytest.raises(RecipeError, match=message):
        train(*arguments)


def test_the_context_is_that_of_the_language_model_by_default():
    model = SmolHFForCausalLM(SmolHFTextConfig(64, 16, 16, 1, 2, max_position_embeddings=512))
    assert context_length(None, model.config) == 512 and context_length(100, model.config) == 100
    model.config.max_position_embeddings = 8192
    assert context_length(None, model.config) == 2048 and context_length(4096, model.config) == 4096


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data_lanes", [], "it must be a whole number"),
        ("data_lanes", 65_537, "it must be at most 65,536"),
        ("packing_pool", 100_001, "it must be at most 100,000"),
        ("context_length", [], "it must be a whole number"),
        ("sample_packing", [], "it must be true or false"),
        ("image_folder", 5, "it must be text, so in quotes"),
        ("data_root", 5, "it must be text, so in quotes"),
        ("dataset_revision", 1e3, "it must be text, so in quotes"),
        ("stopping", [], "it must be text"),
        ("too_long", {}, "it must be a list of texts"),
        ("filters", [], "it must be a mapping"),
        ("max_image_bytes", 0, "it must be from 1 to 300,000,000"),
        ("max_image_bytes", 300_000_001, "it must be from 1 to 300,000,000"),
        ("max_skipped_fraction", math.nan, "it is a share from 0 to 1"),
        ("max_skipped_fraction", -0.5, "it is a share from 0 to 1"),
        ("preset", [], "it must be text"),
        ("vision_config", [], "it must be a mapping"),
        ("image_mean", {}, "it must be a list of numbers"),
        ("do_image_splitting", {}, "it must be true or false"),
        ("lora_r", [], "it must be a whole number"),
        ("longest_edge", "", "it must be a whole number"),
        ("rope_theta", "", "it must be a number"),
    ],
)
def test_a_value_of_another_type_is_one_line_that_names_its_key(key, value, message):
    with pytest.raises(RecipeError) as refused:
        parse_recipe({"output_dir": "runs/x", key: value})
    assert re.match(f"{key} is .*: {message}", str(refused.value)) and "\n" not in str(refused.value)


@pytest.mark.parametrize("key", ["lora_r", "max_steps"])
def test_a_number_beyond_floats_is_an_error_of_the_recipe(key):
    with pytest.raises(RecipeError, match="too large"):
        parse_recipe({"output_dir": "runs/x", key: 10**400})


def test_types_are_looked_at_where_no_recipe_is_read():
    with pytest.raises(ValueError, match=r"data_lanes is 2\.5: it must be a whole number"):
        DataArguments(data_lanes=2.5)
    with pytest.raises(ValueError, match="data_lanes is True"):
        DataArguments(data_lanes=True)
    assert DataArguments(max_skipped_fraction=1).max_skipped_fraction == 1


def test_the_keys_of_an_older_version_are_read_or_refused_with_advice(tmp_path):
    """Recipes that older versions saved have every key."""
    entry = {"data": "a.jsonl", "fetch_images": None}
    written = {"output_dir": "x", "mixture": [entry], "fetch_images": None, "fetch_timeout": 2.0, "fetch_cache": None}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(written))
    assert parse_recipe(read_recipe(path))[1].mixture == [entry]
    path.write_text(yaml.safe_dump({**written, "fetch_images": ["example.org"]}))
    with pytest.raises(
        RecipeError, match=r"recipe\.yaml: fetch_images is not a key any more: download the images first"
    ):
        read_recipe(path)
    with pytest.raises(RecipeError, match="fetch_images is not a key any more"):
        load_arguments(["--fetch_images", "[example.org]"])


OTHER_RUNS = [
    (
        PREFERENCE_CLASSES,
        {"model": "m"},
        {"longest_edge": 512},
        "longest_edge has no effect in a run over pref",
    ),
    (PREFERENCE_CLASSES, {"model": "m"}, {"tokenizer": "t"}, "only over conversations and documents"),
    (
        ARGUMENT_CLASSES,
        {"documents": "a.txt"},
        {"enlarge_images": False},
        "enlarge_images has no effect in a run over",
    ),
    (ARGUMENT_CLASSES, {"documents": "a.txt"}, {"chat_template": "chatml"}, "conversations and preferences: leave it"),
]


@pytest.mark.parametrize(("classes", "keys", "others", "message"), OTHER_RUNS, ids=lambda each: str(each)[:30])
def test_a_key_of_other_kinds_of_runs_is_refused(classes, keys, others, message, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"output_dir": "x", "use_cpu": True, **keys, **others}))
    words = [f"--{name}={json.dumps(value)}" for name, value in others.items()]
    for given in (["--config", str(path)], ["--output_dir", "x", *(f"--{k}={v}" for k, v in keys.items()), *words]):
        with pytest.raises(RecipeError) as refused:
            load_arguments(given, classes)
        assert message in str(refused.value)


def test_defaults_of_other_kinds_of_runs_and_recipes_of_older_runs_are_accepted(tmp_path):
    path = tmp_path / "recipe.yaml"
    keys = {"output_dir": "x", "use_cpu": True, "model": "m"}
    path.write_text(yaml.safe_dump({**keys, "longest_edge": None, "do_image_splitting": True}))
    load_arguments(["--config", str(path)], PREFERENCE_CLASSES)
    path.write_text(yaml.safe_dump({**keys, "longest_edge": 512}))
    (tmp_path / "run.json").write_text("{}")
    recipe, model, *_ = load_arguments(["--config", str(path)], PREFERENCE_CLASSES)
    assert recipe["longest_edge"] == model.longest_edge == 512
    with pytest.raises(RecipeError, match="do_image_splitting has no effect"):
        load_arguments(["--config", str(path), "--do_image_splitting", "false"], PREFERENCE_CLASSES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("? [a, b]\n: 3\n", "line 1: a key is a single word, not a list or a mapping: ['a', 'b']"),
        ("seed: 1\nfilters: {? {a: 1} : 2}\n", "line 2: a key is a single word"),
        ("seed: " + "[" * 1000 + "]" * 1000, "lists or mappings are nested too deeply"),
    ],
)
def test_yaml_of_another_shape_is_one_sentence(text, message, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    for read in (read_recipe, lambda path: read_mixture(path.name, path.parent)):
        with pytest.raises(RecipeError) as refused:
            read(path)
        assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("value", ["{? [a] : 1}", "{a: " + "[" * 1000 + "]" * 1000 + "}"], ids=["key", "deep"])
def test_a_mapping_of_another_shape_on_the_command_line_is_refused_by_name(value):
    with pytest.raises(
        RecipeError, match=r"^--lr_scheduler_kwargs .*(a key is a single word|nested too deeply)"
    ) as refused:
        parse_command_line(["--lr_scheduler_kwargs", value])
    assert len(str(refused.value)) < 250


def test_a_folder_instead_of_a_recipe_is_one_sentence(tmp_path):
    with pytest.raises(RecipeError, match="is a folder, and a recipe is a file: name a YAML file"):
        read_recipe(tmp_path)
    (tmp_path / "recipe.yaml").write_text("seed: 1\n")
    with pytest.raises(RecipeError, match=re.escape(f"name {tmp_path / 'recipe.yaml'}")):
        read_recipe(tmp_path)


def test_a_file_of_json_is_read_as_json(tmp_path):
    (tmp_path / "zero.json").write_text('{\n\t"zero_optimization": {"stage": 2, "reduce_bucket_size": 5e8}\n}\n')
    values = {"zero_optimization": {"stage": 2, "reduce_bucket_size": 5e8}}
    assert read_mapping("zero.json", tmp_path, key="deepspeed") == values
    (tmp_path / "zero.json").write_text("{not json")
    with pytest.raises(RecipeError, match=r"zero\.json: Expecting property name"):
        read_mapping("zero.json", tmp_path, key="deepspeed")
