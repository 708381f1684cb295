"""Locate checkpoints, and read tensors and configurations from their files. No code in them is executed."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file

from smol_hf.conversion.formats.tensor_names import ConversionError, refuse_other_layouts
from smol_hf.support.formatting import one_line
from smol_hf.training.checkpoint.checkpoints import suggest_checkpoint

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WHOLE = ("model.safetensors", "pytorch_model.bin")
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Files that a conversion reads: no code, and only weights in the two layouts of transformers.
WANTED = [
    "*.json", "*.txt", "*.jinja", "*.model", "model*.safetensors", "pytorch_model*.bin", "tokenizer*",
]  # fmt: skip


def locate(
    source: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    files: list[str] = WANTED,
) -> Path:
    """Return the folder (or `.pt` file) that `source` names. A Hub id is downloaded first, only its `files`."""
    path = Path(source).expanduser()
    if path.exists():
        return path
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise ConversionError(f"{source}: no such file or folder (a Hub id has the form owner/name)")
    try:
        folder = snapshot_download(
            source, revision=revision, token=token, local_files_only=local_files_only, allow_patterns=files
        )
    except LocalEntryNotFoundError as error:
        where = "in the local cache" if local_files_only else "here, and the Hub could not be reached"
        raise ConversionError(f"{source}: not found {where} ({one_line(error)})") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ConversionError(f"{source}: cannot be downloaded from the Hub: {one_line(error)}") from error
    return Path(folder)


def is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER_CONFIG).is_file()


def strings_in(value: Any) -> list[str]:
    """Return the strings in a value of an `auto_map`: a string, or dictionaries and lists of strings."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [text for each in value for text in strings_in(each)]
    return [value] if isinstance(value, str) else []


def read_json(path: Path) -> dict:
    """Read a JSON object. Raise ConversionError with the file's name for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if path.name == "config.json" and is_adapter(path.parent):
            raise ConversionError(
                f"{path.parent} is an adapter: merge it with its base first (smol-hf merge)"
            ) from None
        meant = suggest_checkpoint(path.parent) if path.name == "config.json" else ""
        raise ConversionError(f"{path}: there is no such file{meant}") from None
    except NotADirectoryError:
        raise ConversionError(f"{path.parent} is a file: name the folder of a checkpoint") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConversionError(f"{path}: invalid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConversionError(f"{path}: contains {type(value).__name__} instead of an object")
    return value


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def weight_files(folder: Path) -> list[Path]:
    """List the weight files of a folder in transformers' layout: one file, or shards.

    Raises:
        ConversionError: if a file is missing, or the index names files in other folders.
    """
    for whole, name in zip(WHOLE, INDEXES):  # the order in which transformers looks
        if (folder / whole).is_file():
            return [folder / whole]
        if (folder / name).is_file():
            return shards(folder, name)
    raise ConversionError(f"{folder}: no weights found; expected {', '.join((*WHOLE, *INDEXES))}")


def shards(folder: Path, name: str) -> list[Path]:
    weight_map = read_json(folder / name).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise ConversionError(f"{folder / name}: weight_map must name a file for each tensor")
    files = sorted(set(weight_map.values()))
    for file in files:
        if Path(file).name != file or "\\" in file or file in ("", ".", ".."):
            raise ConversionError(f"{folder / name}: names {file!r}, but shards must be in the folder of their index")
        if not (folder / file).is_file():
            raise ConversionError(f"{folder / file}: this shard is missing (of {len(files)} in {name})")
    return [folder / file for file in files]


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read all tensors of a folder by name, on the CPU, in the dtype in which they were saved."""
    tensors: dict[str, torch.Tensor] = {}
    for path in weight_files(folder):
        found = read_safetensors(path) if path.suffix == ".safetensors" else read_torch_file(path)
        for name, tensor in found.items():
            if not isinstance(tensor, torch.Tensor):
                raise ConversionError(f"{path}: {name} is {type(tensor).__name__}, not a tensor")
            if name in tensors:
                raise ConversionError(f"{path}: {name} was in another shard already")
            tensors[name] = tensor
    refuse_other_layouts(tensors)
    return tensors


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ConversionError(f"{path}: damaged or cut off ({error}): download it again") from error


def read_torch_file(path: Path) -> dict[str, Any]:
    """Read a dictionary from a file of `torch.save`. Raise ConversionError if that would run code."""
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = next((line.strip() for line in str(error).splitlines() if "global" in line.lower()), error)
        raise ConversionError(
            f"{path}: refused, it contains more than tensors and plain values, and reading it could run code "
            f"({reason}). If you trust the file, load it yourself and save its tensors with safetensors"
        ) from error
    except Exception as error:  # of any kind, for bytes that are no file of torch.save
        raise ConversionError(f"{path}: damaged or cut off ({type(error).__name__}: {one_line(error)})") from error
    if not isinstance(value, dict):
        raise ConversionError(f"{path}: contains {type(value).__name__} instead of a dictionary of tensors")
    return value
