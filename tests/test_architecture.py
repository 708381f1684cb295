"""The house keeps its order: what may import what, what travels with a checkpoint, and what no module does."""

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

# A folder may import those before it. "top-level modules" are train, dpo and the package itself.
ROOMS = [
    "modeling", "processing", "auto", "data", "training", "conversion", "inference", "publishing",
    "top-level modules", "demo",
    "commands",
]  # fmt: skip
APART = ["modeling", "processing"]  # travel with a checkpoint, where nothing else of ours is
HELPERS = ["support"]  # import nothing of ours; every folder but those that travel may use them


def name_of(path):
    return str(path.relative_to(PACKAGE))


def modules(folder):
    return sorted(folder.rglob("*.py"))


TRAVELLING_MODULES = sorted(path for folder in TRAVELLING for path in folder.glob("*.py"))


def our_imports(source, module):
    """The modules of ours that this source imports, wherever the import stands: ("data", "conversation"), …

    `module` is the dotted name of the package that the source belongs to, against which dots are resolved.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: len(module.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            if first == "smol_hf":
                yield tuple(rest)


def room_of(parts, package):
    """The room, or the helper, that a name inside the package belongs to."""
    if parts and (parts[0] in [*HELPERS, "auto"] or (package / parts[0]).is_dir()):
        return parts[0]
    return "top-level modules"


def wrong_arrows(package):
    """Every import against the order, as `file → room`."""
    for path in modules(package):
        relative = path.relative_to(package).with_suffix("")
        importer = room_of(relative.parts, package)
        for imported_name in our_imports(path.read_text(), ".".join(["smol_hf", *relative.parts[:-1]])):
            imported = room_of(imported_name, package)
            if imported == importer and importer not in HELPERS:
                continue
            if importer in HELPERS:
                allowed = []
            else:
                allowed = ROOMS[: ROOMS.index(importer)] + HELPERS if importer not in APART else []
            if imported not in allowed:
                yield f"{relative} → {imported}"


def test_every_room_is_in_the_order():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert rooms <= {*ROOMS, *HELPERS}, "a new room needs its place in ROOMS"


def test_the_arrows_go_one_way():
    assert list(wrong_arrows(PACKAGE)) == []


@pytest.mark.parametrize(
    "path, source, arrow",
    [
        ("data/mixture/mixture.py", "from smol_hf.training.trainer import SmolTrainer", "data/mixture → training"),
        ("data/mixture/mixture.py", "def lazily():\n    import smol_hf.publishing.card", "data/mixture → publishing"),
        ("data/digits/pages.py", "from ...training import trainer", "data/digits/pages → training"),
        ("data/mixture/mixture.py", "from smol_hf.auto import AutoModel", None),
        ("auto.py", "from smol_hf.data import collator", "auto → data"),
        ("conversion/scores.py", "from ..inference import chat", "conversion/scores → inference"),
        ("training/run.py", "from smol_hf import SmolTrainer", "training/run → top-level modules"),
        ("training/run.py", "from smol_hf.commands.main import main", "training/run → commands"),
        ("modeling/vision.py", "from smol_hf.support.formatting import percent", "modeling/vision → support"),
        ("support/formatting.py", "from smol_hf.data import collator", "support/formatting → data"),
        ("training/run.py", "from smol_hf.data import collator\nfrom smol_hf.support.formatting import percent", None),
        ("modeling/vision.py", "from smol_hf.processing import chat_format", "modeling/vision → processing"),
        ("processing/batching.py", "from smol_hf.modeling import masks", "processing/batching → modeling"),
        ("training/run.py", "from .trainer import SmolTrainer\nfrom ..modeling import vision", None),
        ("train.py", "from smol_hf.demo import run", "train → demo"),
        ("commands/main.py", "from smol_hf.publishing import card\nfrom smol_hf.train import main", None),
    ],
)
def test_a_wrong_arrow_is_seen(tmp_path, path, source, arrow):
    for room in [*ROOMS, *HELPERS, "data/embedded"]:
        if room not in ("auto", "top-level modules"):
            (tmp_path / room).mkdir()
    (tmp_path / path).write_text(source)
    assert list(wrong_arrows(tmp_path)) == ([arrow] if arrow else [])


def auto_classes_of_transformers(source):
    """The Auto classes that this source takes from transformers, which need not know our models."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "transformers":
            yield from (alias.name for alias in node.names if alias.name.startswith("Auto"))


ISOLATED = ("isolated_check", "isolated_load")  # run in processes that cannot import this package


@pytest.mark.parametrize("path", [path for path in modules(PACKAGE) if path.stem not in ISOLATED], ids=name_of)
def test_auto_classes_are_taken_from_where_our_models_are_registered(path):
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


@pytest.mark.parametrize("path", TRAVELLING_MODULES, ids=lambda path: path.stem)
def test_a_travelling_module_stays_short(path):
    assert len(path.read_text().splitlines()) <= 150


def test_the_code_that_travels_is_flat():
    assert sorted(path for folder in TRAVELLING for path in modules(folder)) == TRAVELLING_MODULES


def test_no_two_travelling_modules_have_one_name():
    """In a checkpoint they lie in one folder."""
    names = [path.name for path in TRAVELLING_MODULES if path.name != "__init__.py"]
    assert len(names) == len(set(names))


def test_both_halves_mark_a_missing_label_alike():
    """Neither may import the other, so each says it."""
    assert chat_format.IGNORE_INDEX == label_loss.IGNORE_INDEX


# -- errors are not swallowed -----------------------------------------------------------------------------------------


def broad_handlers(source):
    """Line numbers of handlers that catch everything.

    `except BaseException as error` is right where the error is handed on, as from a thread to its caller.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            caught = {kind and ast.unparse(kind) for kind in kinds}
            used = {name.id for statement in node.body for name in ast.walk(statement) if isinstance(name, ast.Name)}
            handed_on = caught == {"BaseException"} and node.name in used
            if caught & {None, "Exception", "BaseException"} and not handed_on:
                yield node.lineno


@pytest.mark.parametrize("path", modules(PACKAGE), ids=name_of)
def test_no_handler_catches_everything(path):
    assert list(broad_handlers(path.read_text())) == []


@pytest.mark.parametrize(
    "handler",
    ["except", "except Exception", "except Exception as error", "except (OSError, BaseException) as error"],
)
def test_a_broad_handler_is_seen(handler):
    assert list(broad_handlers(f"try:\n    work()\n{handler}:\n    print(error)")) == [3]


def test_a_precise_handler_is_not():
    assert not list(broad_handlers("try:\n    work()\nexcept (OSError, ValueError):\n    pass"))
    assert not list(broad_handlers("try:\n    work()\nexcept BaseException as error:\n    failures.append(error)"))
    assert list(broad_handlers("try:\n    work()\nexcept BaseException as error:\n    pass"))


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
