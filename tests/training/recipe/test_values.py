"""A value is read by the type of its key: names stay as they are written."""

import pytest

from smol_hf.commands.main import build_parser
from smol_hf.commands.training import words_of
from smol_hf.training.inspection import read_keys
from smol_hf.training.recipe.recipes import PREFERENCE_CLASSES, load_arguments, parse_command_line
from smol_hf.training.recipe.values import RecipeError

NAMES = ["runs/run #1", "2024-01-01", "12:30", "0x10", "010", "1.10", "true", "no", "{a}", "[a]", '"a"', "a: b", ""]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_on_the_command_line_stays_as_it_is_written(name):
    keys = ["output_dir", "data", "tokenizer", "dataset_revision", "text_key", "run_name", "preset"]
    assert parse_command_line([f"--{key}={name}" for key in keys])[1] == dict.fromkeys(keys, name)
    _, of_dpo = parse_command_line([f"--data={name}", f"--validation_data={name}"], PREFERENCE_CLASSES)
    assert of_dpo == {"data": name, "validation_data": name}
    arguments = build_parser().parse_args(["pretrain", f"--data={name}", f"--output={name}", f"--text-key={name}"])
    _, overrides = parse_command_line(words_of(arguments, []))
    assert overrides == {"documents": name, "output_dir": name, "text_key": name}
    recipe = read_keys(None, {}, [f"--data={name}", f"--image_folder={name}"])
    assert recipe == {"data": name, "image_folder": name}


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("max_steps", "20", 20),
        ("learning_rate", "1e-3", 1e-3),
        ("context_length", "null", None),
        ("sample_packing", "false", False),
        ("ignore_fields", "[007, 'a.example.org', 2024-01-01]", ["007", "a.example.org", "2024-01-01"]),
        ("too_long", "tiles", "tiles"),
        ("image_mean", "[0.5, 1, 1e-1]", [0.5, 1, 0.1]),
        ("mixture", "my #1.yaml", "my #1.yaml"),
        ("mixture", "[{data: 2024-01-01, weight: 2}]", [{"data": "2024-01-01", "weight": 2}]),
        ("lr_scheduler_kwargs", "{num_cycles: 2}", {"num_cycles": 2}),
        ("text_config.rope_theta", "1e6", 1e6),
        ("text_config.hidden_act", "12:30", "12:30"),
        ("filters.names", "a #1", "a #1"),
    ],
)
def test_a_value_of_the_command_line_has_the_type_of_its_key(key, text, value):
    parsed = parse_command_line([f"--{key}", text])[1]
    assert parsed == {key: value} and type(parsed[key]) is type(value)


@pytest.mark.parametrize(("key", "text"), [("max_steps", "12:30"), ("max_steps", "0x10"), ("learning_rate", "12:30")])
def test_a_number_is_decimal(key, text):
    with pytest.raises(RecipeError, match=f"{key}.*'{text}'"):
        load_arguments(["--output_dir", "unused", f"--{key}", text])


def test_names_in_a_recipe_are_texts_and_numbers_are_those_of_yaml_1_2(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("output_dir: 2024-01-01\ndata: 12:30\ntext_config: {rms_norm_eps: 1e-6, hidden_act: 0x10}\n")
    _, model, data, training = load_arguments(["--config", str(path)])
    assert (training.output_dir, data.data) == ("2024-01-01", "12:30")
    assert model.text_config == {"rms_norm_eps": 1e-6, "hidden_act": "0x10"}
    path.write_text("output_dir: 2024\n")
    with pytest.raises(RecipeError, match="output_dir is 2024: it must be text, so in quotes"):
        load_arguments(["--config", str(path)])


def test_a_text_without_its_value_is_refused():
    with pytest.raises(RecipeError, match="--output_dir needs a value"):
        parse_command_line(["--output_dir", "--max_steps", "3"])
    assert parse_command_line(["--resume_from_checkpoint"])[1] == {"resume_from_checkpoint": "true"}
