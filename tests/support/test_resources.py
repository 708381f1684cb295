from __future__ import annotations

from pathlib import Path

import pytest

from smol_hf.support import resources
from smol_hf.support.resources import resource_path


def test_finds_the_templates_of_this_checkout_or_installation():
    template = resource_path("hub_templates", "model_card.md.jinja")
    assert template.is_file()
    assert resource_path("hub_templates/model_card.md.jinja") == template
    assert resource_path("hub_templates").is_dir()


def make_package(root: Path, monkeypatch) -> Path:
    package = root / "smol_hf"
    package.mkdir(parents=True)
    monkeypatch.setattr(resources, "_PACKAGE", package)
    return package


def test_finds_files_inside_an_installed_package(tmp_path, monkeypatch):
    package = make_package(tmp_path / "lib" / "site-packages", monkeypatch)
    recipe = package / "recipes" / "quickstart" / "demo.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text("seed: 0\n")
    assert resource_path("recipes", "quickstart", "demo.yaml") == recipe


def test_finds_files_at_the_root_of_a_source_checkout(tmp_path, monkeypatch):
    make_package(tmp_path / "src", monkeypatch)
    (tmp_path / "recipes").mkdir()
    assert resource_path("recipes") == tmp_path / "recipes"


def test_an_installed_package_does_not_look_above_itself(tmp_path, monkeypatch):
    make_package(tmp_path / "lib" / "site-packages", monkeypatch)
    (tmp_path / "lib" / "recipes").mkdir()
    with pytest.raises(FileNotFoundError):
        resource_path("recipes")


def test_a_missing_file_is_an_error_that_says_where_was_looked():
    with pytest.raises(FileNotFoundError, match=r"no resource 'recipes/nothing\.yaml': looked for .*nothing\.yaml"):
        resource_path("recipes", "nothing.yaml")


@pytest.mark.parametrize("parts", [(), ("src", "smol_hf"), ("/etc/passwd",), ("recipes", ".."), ("recipes", "/etc")])
def test_paths_outside_the_resource_folders_are_refused(parts):
    with pytest.raises(FileNotFoundError, match="inside hub_templates or recipes"):
        resource_path(*parts)
