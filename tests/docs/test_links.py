"""Relative links of the documentation lead to files and headings that exist; the site builds without warnings."""

import logging
import re

import pytest
from doc_pages import ROOT

import smol_hf

COMMUNITY = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]
PAGES = [*(ROOT / name for name in COMMUNITY), *sorted((ROOT / "docs").rglob("*.md"))]


def without_code(text):
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(path):
    """Ids of the headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.*)$", without_code(path.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


def broken_links(path):
    text = re.sub(r"`[^`\n]*`", "``", without_code(path.read_text(encoding="utf-8")))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        place = path.parent / file if file else path
        lines = re.fullmatch(r"L\d+", anchor)
        if not place.exists() or (anchor and not lines and anchor not in anchors(place)):
            yield target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_somewhere(path):
    assert list(broken_links(path)) == []


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One heading\n[a](page.md#one-heading) [b](#two) [c](none.md) [d](https://example.org)\n")
    assert list(broken_links(page)) == ["#two", "none.md"]


def test_every_guide_is_in_the_navigation_and_on_the_first_pages():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    readme, index = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/index.md"))
    for path in (ROOT / "docs" / "guides").glob("*.md"):
        name = f"guides/{path.name}"
        assert f"- {name}" in navigation and f"(docs/{name})" in readme and f"({name})" in index, name


def test_the_api_page_has_every_public_name():
    page = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    assert set(smol_hf.__all__) == set(smol_hf.PUBLIC)
    for name, module in smol_hf.PUBLIC.items():
        assert f"::: smol_hf{module}.{name}\n" in page or name == "AutoModelForVision2Seq"
    assert "members: [AutoModelForVision2Seq]" in page


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path, caplog):
    pytest.importorskip("material", reason="make docs installs mkdocs-material")
    pytest.importorskip("mkdocstrings_handlers.python", reason="make docs installs mkdocstrings")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    with caplog.at_level(logging.WARNING, logger="mkdocs"):
        build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True))
    assert [record.getMessage() for record in caplog.records if record.name.startswith("mkdocs")] == []
    page = (tmp_path / "site" / "reference" / "api" / "index.html").read_text(encoding="utf-8")
    for name, module in smol_hf.PUBLIC.items():
        assert f'id="smol_hf{module}.{name}"' in page
