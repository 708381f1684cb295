"""The tree of docs/architecture.md is the tree of the package."""

import re

from doc_pages import ROOT

PACKAGE = ROOT / "src" / "smol_hf"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
TREE = PAGE.partition("\n## Tree\n")[2].partition("\n## ")[0]


def tree_of_the_page():
    """Folder → its modules."""
    rows = re.findall(r"^\| (?:`([\w/]+)/`|\(top\)) \| .*? \| (.*?) \|$", TREE, flags=re.MULTILINE)
    return {folder: re.findall(r"`(\w+)`", modules) for folder, modules in rows}


def tree_of_the_package():
    tree = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        folder = path.parent.relative_to(PACKAGE).as_posix()
        tree.setdefault("" if folder == "." else folder, [])
        if path.stem != "__init__":
            tree["" if folder == "." else folder].append(path.stem)
    return tree


def test_the_tree_lists_every_folder_and_module_once():
    written, real = tree_of_the_page(), tree_of_the_package()
    assert set(written) == set(real)
    for folder, modules in real.items():
        row = ", ".join(f"`{module}`" for module in modules)
        assert sorted(written[folder]) == modules, f"the modules of {folder or 'the top'} are now {row}"


def test_paths_in_the_text_exist():
    """`folder/module` in a sentence or in the data flow is a module or a folder of the package."""
    text = PAGE.replace(TREE, "")
    paths = set(re.findall(r"(?<![\w/.-])((?:data|text|training|processing)/[\w/]+)(?!\.\w)", text))
    assert len(paths) > 10
    assert {path for path in paths if not ((PACKAGE / path).is_dir() or (PACKAGE / f"{path}.py").is_file())} == set()


def test_the_page_is_short():
    assert len(PAGE.splitlines()) <= 250
