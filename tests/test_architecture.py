"""Rules of the code that import-linter (`make lint`) cannot check: the travelling code, layout, names of libraries."""

import ast
import importlib
import itertools
import sys
from pathlib import Path

import pytest
import transformers
from transformers.dynamic_module_utils import get_relative_imports

import smol_hf
from smol_hf.modeling import label_loss
from smol_hf.processing import chat_format

PACKAGE = Path(smol_hf.__file__).parent
TRAVELLING = [PACKAGE / "modeling", PACKAGE / "processing"]  # each flat, and without imports from the other
ENTRY_MODULES = ["modeling_smol_hf", "modeling_smol_hf_text", "processing_smol_hf"]


def name_of(path):
    return str(path.relative_to(PACKAGE))


def modules(folder):
    return sorted(folder.rglob("*.py"))


TRAVELLING_MODULES = sorted(path for folder in TRAVELLING for path in folder.glob("*.py"))


def names_of_the_package(source):
    """Public names that this source imports from the package itself, not from the module that defines them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "smol_hf":
            yield from (alias.name for alias in node.names if alias.name in smol_hf.PUBLIC)


@pytest.mark.parametrize("path", modules(PACKAGE), ids=name_of)
def test_a_module_imports_from_the_module_that_defines_a_name(path):
    """The lazy names of the package would hide such an import from import-linter."""
    assert list(names_of_the_package(path.read_text())) == []


def test_an_import_from_the_package_is_seen():
    assert list(names_of_the_package("from smol_hf import SmolTrainer, __version__")) == ["SmolTrainer"]


def auto_classes_of_transformers(source):
    """The Auto classes that this source takes from transformers, which need not know our models."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "transformers":
            yield from (alias.name for alias in node.names if alias.name.startswith("Auto"))


ISOLATED = ("isolated_check", "isolated_load")  # run in processes that cannot import this package


@pytest.mark.parametrize("path", [path for path in modules(PACKAGE) if path.stem not in ISOLATED], ids=name_of)
def test_auto_classes_come_from_the_module_that_registers_our_models(path):
    travels_or_registers = path.parent in TRAVELLING or path == PACKAGE / "auto.py"
    assert travels_or_registers or list(auto_classes_of_transformers(path.read_text())) == []


def test_an_auto_class_of_transformers_is_seen():
    assert list(auto_classes_of_transformers("from transformers import AutoConfig, set_seed")) == ["AutoConfig"]


# -- the code that travels --------------------------------------------------------------------------------------------


def foreign_imports(source, siblings):
    """Imports that a travelling module may not have."""
    allowed = {"torch", "transformers", "numpy", "PIL"} | sys.stdlib_module_names
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            wrong = [alias.name for alias in node.names if alias.name.split(".")[0] not in allowed]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            wrong = [node.module] if node.module.split(".")[0] not in allowed else []
        elif isinstance(node, ast.ImportFrom):  # transformers copies the files that `from .x import` names
            wrong = [] if node.level == 1 and node.module in siblings else [ast.unparse(node)]
        else:
            continue
        yield from wrong


@pytest.mark.parametrize("path", TRAVELLING_MODULES, ids=lambda path: path.stem)
def test_a_travelling_module_imports_only_what_is_everywhere(path):
    siblings = {sibling.stem for sibling in path.parent.glob("*.py")}
    assert list(foreign_imports(path.read_text(), siblings)) == []


@pytest.mark.parametrize(
    "source",
    [
        "import smol_hf",
        "from smol_hf.modeling.vision import normalize_tiles",
        "import torchvision.transforms",
        "from einops import rearrange",
        "from . import vision",
        "from ..data import collator",
        "from .vision.inner import thing",
        "from .nowhere import thing",
    ],
)
def test_a_foreign_import_is_seen(source):
    assert len(list(foreign_imports(f"def lazily():\n    {source}", {"vision"}))) == 1
    assert not list(foreign_imports("import math\nfrom .vision import normalize_tiles\nimport torch.nn", {"vision"}))


def siblings_of(module):
    (path,) = [path for path in TRAVELLING_MODULES if path.stem == module]
    tree = ast.parse(path.read_text())
    return {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level}


@pytest.mark.parametrize("module", ENTRY_MODULES)
def test_an_entry_module_imports_its_whole_closure_itself(module):
    """transformers 4.57 does not follow the imports of imports in a local folder."""
    closure, waiting = set(), list(siblings_of(module))
    while waiting:
        sibling = waiting.pop()
        if sibling not in closure:
            closure.add(sibling)
            waiting += siblings_of(sibling)
    assert siblings_of(module) == closure


@pytest.mark.parametrize("path", TRAVELLING_MODULES, ids=lambda path: path.stem)
def test_transformers_sees_the_same_siblings(path):
    """It searches the text, where a line of a docstring may look like an import."""
    siblings = set() if path.stem == "__init__" else siblings_of(path.stem)
    assert set(get_relative_imports(path)) == siblings


def test_the_code_that_travels_is_flat():
    assert sorted(path for folder in TRAVELLING for path in modules(folder)) == TRAVELLING_MODULES


def test_no_two_travelling_modules_have_one_name():
    """In a checkpoint they lie in one folder."""
    names = [path.name for path in TRAVELLING_MODULES if path.name != "__init__.py"]
    assert len(names) == len(set(names))


def test_both_halves_mark_a_missing_label_alike():
    """Neither may import the other, so each says it."""
    assert chat_format.IGNORE_INDEX == label_loss.IGNORE_INDEX


# -- size and layout --------------------------------------------------------------------------------------------------

FOLDERS = sorted({path.parent for path in modules(PACKAGE)})
# Flat, since they travel or have one module for each form of records.
MORE_MODULES = {
    PACKAGE / "modeling": 18,
    PACKAGE / "processing": 26,
    PACKAGE / "data/records": 16,
    PACKAGE / "data/sources": 11,  # one for each kind of files
    PACKAGE / "commands": 14,  # one for each command or group
}


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_a_folder_has_few_modules(folder):
    names = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(names) <= MORE_MODULES.get(folder, 10), names


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_a_folder_has_a_docstring(folder):
    """It says what the folder is for, and in which order to read it."""
    assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))


@pytest.mark.parametrize("path", modules(PACKAGE), ids=name_of)
def test_a_module_is_short(path):
    assert len(path.read_text().splitlines()) <= (150 if path.parent in TRAVELLING else 300)


# -- names of transformers ------------------------------------------------------------------------------------------


def names_of_transformers(sources):
    """(name, module) of everything that these sources import from transformers."""
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and not node.level and node.module.split(".")[0] == "transformers":
                yield from ((alias.name, node.module) for alias in node.names)


def documented_names():
    """(name, module) → whether each release has it, from the table of docs/compatibility.md."""
    lines = (PACKAGE.parents[1] / "docs" / "compatibility.md").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| Name"))
    releases = [cell.strip() for cell in lines[start].split("|")[3:6]]
    table = {}
    for line in itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :]):
        names, module, *present = [cell.strip().replace("`", "") for cell in line.split("|")[1:6]]
        table.update({(name, module): dict(zip(releases, present)) for name in names.split(", ")})
    return table


def test_the_table_of_compatibility_has_every_name():
    assert documented_names().keys() == set(names_of_transformers(path.read_text() for path in TRAVELLING_MODULES))


def test_the_table_of_compatibility_is_true_here():
    for (name, module), present in documented_names().items():
        found = hasattr(importlib.import_module(module), name)
        newest = list(present.values())[-1]  # is expected of later releases too
        assert found == (present.get(transformers.__version__, newest) == "yes"), name
