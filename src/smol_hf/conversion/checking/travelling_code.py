"""The model code inside a checkpoint: compare it with the code of this package, and replace it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_import_files, get_relative_imports

from smol_hf import modeling, processing
from smol_hf.conversion.checkpoint_files import is_adapter, read_json, write_json
from smol_hf.conversion.convert import atomic_output, check_output
from smol_hf.conversion.formats.registry import OURS
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.processing.processing_smol_hf import SmolHFProcessor

# {module: its file} of all code that a checkpoint may carry, in one flat folder.
MODULES = {
    path.stem: path
    for package in (modeling, processing)
    for folder in package.__path__
    for path in Path(folder).glob("*.py")
    if path.name != "__init__.py"
}
PROCESSOR_MAP = {"AutoProcessor": f"processing_smol_hf.{SmolHFProcessor.__name__}"}
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")


def auto_maps(folder: Path) -> dict[str, dict[str, str]]:
    """Return {configuration file: the `auto_map` that this package writes} for a checkpoint or adapter of ours."""
    maps = {}
    if is_adapter(folder):
        is_vlm = (folder / "processor_config.json").is_file()
    else:
        model_type = read_json(folder / "config.json").get("model_type")
        if model_type not in OURS:
            raise ConversionError(f"{folder} is a {model_type} model: only checkpoints of smol_hf have its code")
        config, model = OURS[model_type]
        module = model.__module__.rpartition(".")[2]
        maps["config.json"] = {
            "AutoConfig": f"{config.__module__.rpartition('.')[2]}.{config.__name__}",
            **{name: f"{module}.{of_module}" for name, of_module in model.auto_classes.items()},
        }
        is_vlm = model_type == SmolHFConfig.model_type
    for name in PROCESSOR_FILES if is_vlm else ():
        if (folder / name).is_file() and read_json(folder / name).get("auto_map"):
            maps[name] = PROCESSOR_MAP
    return maps


def code_of(maps: dict[str, dict[str, str]]) -> dict[str, Path]:
    """Return {file name: file of this package} of the modules that these maps name, and of their imports."""
    modules = {value.partition(".")[0] for each in maps.values() for value in each.values()}
    entries = [MODULES[module] for module in sorted(modules)]
    files = [path for entry in entries for path in (entry, *map(Path, get_relative_import_files(entry)))]
    return {path.name: path for path in files}


def code_in(folder: Path) -> set[str]:
    """Name our modules in a checkpoint, those of this and of earlier releases. A user's own files are not included."""
    names = {path.name for path in MODULES.values()}
    pending = {path.name for path in folder.glob("*_smol_hf*.py")} & names
    reached = set(pending)
    while pending:
        imported = {f"{module}.py" for name in pending for module in get_relative_imports(folder / name)}
        pending = {name for name in imported - reached if (folder / name).is_file()}
        reached |= pending
    return reached | {name for name in names if (folder / name).is_file()}


def outdated_code(folder: Path) -> list[str]:
    """Name our modules that differ from this package's, that are missing, or that are no longer used."""
    expected = code_of(auto_maps(folder))
    present = {name: folder / name for name in code_in(folder)}
    same = {name for name in {*expected} & {*present} if expected[name].read_bytes() == present[name].read_bytes()}
    return sorted({*expected, *present} - same)


def refresh_code(source: str, output: str | Path) -> dict:
    """Copy the checkpoint or adapter `source` to `output` with the code of this package. Weights do not change.

    Returns:
        `source`, `output`, `renewed`, `added`, `removed` (names of code files), `seconds`.

    Raises:
        ConversionError: if `source` is not a published checkpoint or an adapter of ours. Nothing is written then.
        FileExistsError: if `output` is not empty.
    """
    started = time.monotonic()
    folder, output = Path(source).expanduser(), Path(output).expanduser()
    check_output(output)
    if not folder.is_dir():
        raise ConversionError(f"{source}: --refresh-code takes a folder; download the checkpoint first (hf download)")
    check_output(output, folder)
    if (folder / "trainer_state.json").is_file():
        raise ConversionError(
            f"{source} is a training state, which resumes with the installed code: it needs no refresh"
        )
    maps = auto_maps(folder)
    expected, changed = code_of(maps), outdated_code(folder)
    present = code_in(folder)

    def left_out(place: str, names: list[str]) -> set[str]:
        return {*present, "__pycache__"} & {*names} if Path(place) == folder else set()

    with atomic_output(output) as incomplete:
        shutil.copytree(folder, incomplete, ignore=left_out, dirs_exist_ok=True)
        for name, path in expected.items():
            shutil.copyfile(path, incomplete / name)
        for name, auto_map in maps.items():
            write_json(incomplete / name, {**read_json(folder / name), "auto_map": auto_map})
    return {
        "source": str(folder),
        "output": str(output),
        "renewed": [name for name in changed if name in expected and name in present],
        "added": [name for name in changed if name not in present],
        "removed": [name for name in changed if name not in expected],
        "seconds": round(time.monotonic() - started, 2),
    }
