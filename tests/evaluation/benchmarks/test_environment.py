"""Environments of the harnesses: what they install, and our modules inside them."""

from importlib.metadata import distributions
from pathlib import Path

import pytest

import smol_hf
from smol_hf.evaluation.benchmarks.environment import (
    cache_folder,
    environment_name,
    our_modules,
    pip_commands,
    prepare,
)
from smol_hf.evaluation.benchmarks.suite import LM_EVAL, LMMS_EVAL


def test_an_environment_that_cannot_be_built_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(RuntimeError) as error:
        prepare(LM_EVAL)
    assert "cannot be built (No matching distribution found for lm-eval==0.4.13)" in str(error.value)
    assert "--lm-eval-python" in str(error.value) and "\n" not in str(error.value)
    assert not list(cache_folder().glob("lm-eval*"))


@pytest.mark.parametrize("harness", [LMMS_EVAL, LM_EVAL])
def test_torch_and_transformers_are_those_of_this_interpreter(harness):
    words = [word for command in pip_commands(harness, Path("python")) for word in command]
    assert not [word for word in words if word.startswith(("torch", "transformers", "wandb"))]
    assert any(word.startswith(f"{harness}==") for word in words)
    assert environment_name(harness).startswith(f"{harness}-")


def test_our_modules_have_the_entry_point_of_lmms_eval():
    with our_modules() as folder:
        ((entry_point,),) = [each.entry_points for each in distributions(path=[folder])]
        assert (entry_point.group, entry_point.name) == ("lmms_eval.models", "smol_hf")
        module = Path(folder, *entry_point.module.split(".")).with_suffix(".py")
        assert f"{entry_point.attr} = ModelManifest(" in module.read_text()
        assert (Path(folder) / "smol_hf").resolve() == Path(smol_hf.__file__).parent.resolve()
    assert not Path(folder).exists()
