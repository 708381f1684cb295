"""Metadata that several files repeat is the same in all of them."""

import tomllib

import yaml
from doc_pages import ROOT

import smol_hf

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def read_yaml(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_version_and_the_repository_are_the_same_everywhere():
    citation = read_yaml("CITATION.cff")
    assert PROJECT["version"] == smol_hf.__version__ == citation["version"]
    assert PROJECT["license"] == citation["license"]
    assert PROJECT["urls"]["Repository"] == citation["repository-code"] == read_yaml("mkdocs.yml")["repo_url"]
    assert f"## {PROJECT['version']}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_pre_commit_runs_the_ruff_of_the_project():
    (repository,) = read_yaml(".pre-commit-config.yaml")["repos"]
    assert f"ruff=={repository['rev'].removeprefix('v')}" in PROJECT["optional-dependencies"]["test"]


def test_issue_templates_have_what_github_requires():
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        template = read_yaml(path.relative_to(ROOT))
        if path.stem != "config":
            assert {"name", "description", "body"} <= template.keys()
            assert all({"type", "id", "attributes"} <= each.keys() for each in template["body"])


def test_files_that_the_metadata_names_exist():
    for name in [PROJECT["readme"], *PROJECT["license-files"], "src/smol_hf/py.typed"]:
        assert (ROOT / name).is_file(), name


def test_every_extra_is_in_the_guide():
    guide = (ROOT / "docs" / "guides" / "install.md").read_text(encoding="utf-8")
    for extra in PROJECT["optional-dependencies"]:
        assert f"`smol_hf[{extra}]`" in guide
