"""Steps and numbers of evaluations, checkpoints and logs have an effect, or they are refused."""

import pytest
import yaml

from smol_hf.training.recipe.recipes import PREFERENCE_CLASSES as OF_DPO
from smol_hf.training.recipe.recipes import load_arguments
from smol_hf.training.recipe.values import RecipeError

EVALUATED = {"eval_strategy": "steps", "eval_steps": 5, "per_device_eval_batch_size": 2, "documents": "story.txt"}


def load(tmp_path, recipe, *words, folder="mine"):
    path = tmp_path / folder / "recipe.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({"output_dir": "runs/x", "use_cpu": True, **recipe}))
    recipe, *_, arguments = load_arguments(["--config", str(path), *words])
    return recipe, arguments


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"eval_steps": 5}, "eval_steps has no effect with eval_strategy: no: set eval_strategy: steps, or leave"),
        ({"eval_steps": 5, "eval_strategy": "epoch"}, "eval_steps has no effect with eval_strategy: epoch"),
        ({"per_device_eval_batch_size": 4}, "set eval_strategy: steps or epoch, or leave per_device_eval_batch_size"),
        ({"save_steps": 5, "save_strategy": "no"}, "save_steps has no effect with save_strategy: no"),
        ({"save_steps": 5, "save_strategy": "epoch"}, "save_steps has no effect with save_strategy: epoch"),
        ({"logging_steps": 5, "logging_strategy": "no"}, "logging_steps has no effect with logging_strategy: no"),
        ({"num_checkpoints": 5, "save_strategy": "no"}, "num_checkpoints has no effect with save_strategy: no"),
        ({"num_checkpoints": 5, "save_steps": 5}, "num_checkpoints and save_steps exclude each other"),
    ],
)
def test_steps_without_their_strategy_are_refused_in_a_recipe_and_on_the_command_line(recipe, message, tmp_path):
    with pytest.raises(RecipeError) as refused:
        load(tmp_path, recipe)
    assert message in str(refused.value) and "\n" not in str(refused.value)
    words = [word for key, value in recipe.items() for word in (f"--{key}", str(value))]
    with pytest.raises(RecipeError) as refused:
        load_arguments(["--output_dir", "runs/x", *words])
    assert message in str(refused.value)


def test_a_recipe_of_preferences_is_checked_too():
    with pytest.raises(RecipeError, match="eval_steps has no effect with eval_strategy: no"):
        load_arguments(["--output_dir", "runs/x", "--model", "m", "--eval_steps", "5"], OF_DPO)


@pytest.mark.parametrize(
    ("recipe", "words", "gone"),
    [
        (EVALUATED, ["--eval_strategy", "no"], {"eval_steps"}),
        ({"eval_strategy": "epoch", "per_device_eval_batch_size": 2}, ["--eval_strategy", "no"],
         {"per_device_eval_batch_size"}),
        ({"save_steps": 5}, ["--save_strategy", "no"], {"save_steps"}),
        ({"num_checkpoints": 4}, ["--save_strategy", "epoch"], {"num_checkpoints"}),
        ({"num_checkpoints": 4}, ["--save_steps", "7"], {"num_checkpoints"}),
        ({"save_steps": 5}, ["--num_checkpoints", "7"], {"save_steps"}),
        ({"save_strategy": "epoch"}, ["--num_checkpoints", "7"], {"save_strategy"}),
        ({"save_strategy": "no"}, ["--save_steps", "7"], {"save_strategy"}),
        ({"save_strategy": "epoch"}, ["--save_strategy", "steps", "--save_steps", "7"], set()),
    ],
)  # fmt: skip
def test_the_command_line_wins_over_the_recipe(recipe, words, gone, tmp_path):
    combined, arguments = load(tmp_path, recipe, *words)
    given = dict(zip((word[2:] for word in words[::2]), words[1::2]))
    assert (recipe.keys() | given.keys()) - combined.keys() == gone, "what the run saves is what it did"
    arguments.max_steps = 28
    arguments.count_intervals()
    if "num_checkpoints" in given:
        assert (arguments.save_strategy, arguments.save_steps) == ("steps", 4)
    elif "save_steps" in given:
        assert (arguments.save_strategy, arguments.save_steps) == ("steps", 7)
    elif "save_strategy" in given:
        assert arguments.save_strategy == given["save_strategy"]


def test_documents_are_validated_at_the_end_without_a_strategy(tmp_path):
    _, arguments = load(tmp_path, EVALUATED, "--eval_strategy", "no")
    assert (arguments.eval_strategy, arguments.per_device_eval_batch_size) == ("no", 2)


@pytest.mark.parametrize("file", ["run.json", "config.json"])
def test_a_recipe_that_an_older_run_saved_with_its_command_line_still_loads(file, tmp_path):
    saved = {"eval_strategy": "no", "eval_steps": 5, "num_checkpoints": 4, "save_strategy": "no", "save_steps": 3}
    with pytest.raises(RecipeError):
        load(tmp_path, saved)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / file).write_text("{}")
    combined, arguments = load(tmp_path, saved, folder="run")
    assert saved.items() <= combined.items()
    arguments.max_steps = 28
    arguments.count_intervals()
    assert (arguments.save_strategy, arguments.save_steps) == ("steps", 7), "as that run did"
    with pytest.raises(RecipeError, match="eval_steps has no effect"):
        load(tmp_path, saved, "--eval_steps", "7", folder="run")
