"""The recipes of the package are found by name from any folder, and a run without named data is refused."""

import pytest
import yaml

from smol_hf.commands.main import main
from smol_hf.support.resources import resource_path
from smol_hf.support.shipped_recipes import command_of, find_recipe, shipped_recipes
from smol_hf.training.recipe.recipes import load_arguments


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name", ["digits", "quickstart/digits", "quickstart/digits.yaml", "recipes/quickstart/digits.yaml"]
)
def test_a_recipe_has_a_name_from_any_folder(name):
    assert find_recipe(name) == resource_path("recipes/quickstart/digits.yaml")
    recipe, *_ = load_arguments(["--config", name])
    assert recipe["output_dir"] == "runs/digits"


def test_a_file_of_that_name_counts_more(elsewhere):
    (elsewhere / "digits").write_text("output_dir: mine\n")
    assert load_arguments(["--config", "digits"])[0] == {"output_dir": "mine"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quickstart/digit", "the recipe quickstart/digit does not exist: did you mean 'quickstart/digits'"),
        (
            "last_stage",
            "several recipes are called last_stage: choose smolvlm2_256m/last_stage or smolvlm2_2b/last_stage or ",
        ),
        ("missing.yaml", "the recipe missing.yaml does not exist: smol-hf recipes list shows the shipped recipes"),
        ("nothing-like-it", "the recipe nothing-like-it does not exist: smol-hf recipes list"),
    ],
)
def test_a_name_without_a_recipe_is_one_line(name, message, capsys):
    for command in (["train", "--config", name], ["recipes", "show", name]):
        assert main(command) == 1
        assert message in capsys.readouterr().err


def test_recipes_are_listed_shown_and_copied(elsewhere, capsys):
    assert main(["recipes", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(shipped_recipes()) and "text/dpo_135m" in shipped_recipes()
    assert all(len(line.split()) > 5 for line in lines)
    assert main(["recipes", "show", "digits"]) == 0
    shown = capsys.readouterr().out
    assert yaml.safe_load(shown)["num_pages"] == 80000
    assert main(["recipes", "copy", "digits", "mine/my.yaml"]) == 0
    assert (elsewhere / "mine" / "my.yaml").read_text("utf-8") == shown
    assert main(["recipes", "copy", "digits"]) == 0 and (elsewhere / "digits.yaml").is_file()
    capsys.readouterr()
    assert main(["recipes", "copy", "digits", "mine/my.yaml"]) == 1
    assert "mine/my.yaml exists: name another file" in capsys.readouterr().err


def test_a_copied_recipe_is_complete(elsewhere, capsys):
    for name in ("smolvlm2_256m/last_stage", "smolvlm2_2b/last_stage"):
        assert main(["recipes", "copy", name, "copied.yaml"]) == 0
        original, *_ = load_arguments(["--config", name])
        assert load_arguments(["--config", "copied.yaml"])[0] == original and len(original["mixture"]) > 100
        (elsewhere / "copied.yaml").unlink()


def test_each_recipe_is_listed_with_its_command():
    commands = {name: command_of(name) for name in shipped_recipes()}
    assert commands["text/dpo_1.7b"] == "dpo" and commands["text/pretrain"] == "pretrain"
    assert commands["finetune/lora"] == "train" and commands["mixtures/smolvlm2_2b"] == "mixture"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train", "--output_dir", "run"], "data is missing: name a file, a folder or a dataset of the Hub"),
        (["train", "--output_dir", "run", "--preset", "tiny-vlm"], "data is missing"),
        (["train", "--output_dir", "run", "--model", "some/model"], "data is missing"),
        (["dpo", "--output_dir", "run", "--model", "some/model"], "data is missing: name preferences"),
        (["pretrain", "--output", "run", "--steps", "3"], "--data is missing: name a text file"),
        (["data", "stats", "--preset", "tiny-vlm"], "data is missing: name a file or folder of records"),
    ],
)
def test_what_is_learned_must_be_named(command, message, elsewhere, capsys):
    assert main(command) == 1
    assert message in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []
