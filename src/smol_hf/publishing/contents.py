"""Decide which files of a folder are published, and which are left out and why."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

# The class of httpx or httpx2, whichever huggingface_hub uses.
from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]
from safetensors import SafetensorError, safe_open

from smol_hf.conversion.checkpoint_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    INDEXES,
    WHOLE,
    is_adapter,
    weight_files,
)
from smol_hf.conversion.formats.tensor_names import ConversionError

NETWORK_ERRORS = (HTTPError, OSError)
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz")
TEXTS = ("*.json", "*.py", "*.jinja", "*.txt", "*.md", "*.yaml", "LICENSE*", "NOTICE*")
WANTED = (*TEXTS, "*.safetensors", "*.model", "*.png", "*.jpg", "*.svg", "*.webp")
STATES = (
    "optimizer*", "scheduler*", "scaler*", "rng_state*", "training_args.bin", "trainer_state.json", "data_state.json",
    "manifest.json", "run.json",
)  # fmt: skip
LARGE = 10 << 20  # bytes from which the Hub stores any file by LFS
STATE_FOLDER = re.compile(r"checkpoint-\d+|global_step\d+")


class PublishError(ValueError):
    """A folder cannot be published, or an upload failed; the message says what to do."""


@dataclass(frozen=True)
class Contents:
    """The files of a folder. `files` (paths relative to `folder`) are published; `left_out`: path → reason."""

    folder: Path
    is_adapter: bool
    files: tuple[str, ...]
    left_out: dict[str, str]

    @property
    def texts(self) -> list[str]:
        return [name for name in self.files if is_text(name)]


def is_text(name: str) -> bool:
    return any(fnmatch(Path(name).name, pattern) for pattern in TEXTS)


def look_into(folder: str | Path) -> Contents:
    """Sort the files of a published checkpoint or adapter into those that are published and the others.

    Raises:
        PublishError: if the folder is not a published checkpoint, weights are missing, damaged or pickled, or a link
            leads out of the folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PublishError(f"there is no folder {folder}")
    refuse_other_folders(folder)
    adapter = is_adapter(folder)
    files, left_out = [], {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() and path.is_dir():
            left_out[name] = "link to a folder"
        elif path.is_dir():
            continue
        elif reason := reason_to_leave_out(name):
            left_out[name] = reason
        elif path.suffix in PICKLED:
            raise PublishError(
                f"{path} may contain a pickle, which runs code when it is loaded: save the weights with safetensors "
                "(smol-hf convert), and remove it"
            )
        elif not path.resolve().is_relative_to(folder.resolve()):
            raise PublishError(f"{path} is a link that leads out of the folder: put the file itself there")
        else:
            files.append(name)
    try:
        weights = [folder / ADAPTER_WEIGHTS] if adapter else weight_files(folder)
        for path in weights:
            refuse_damaged(path)
    except ConversionError as error:
        raise PublishError(str(error)) from error
    used = {path.name for path in weights}
    if not used & {ADAPTER_WEIGHTS, *WHOLE}:
        used |= set(INDEXES)
    unused = {name for name in files if name.endswith(".safetensors") or name in INDEXES} - used
    left_out |= dict.fromkeys(sorted(unused), "not part of the weights that are loaded")
    return Contents(folder, adapter, tuple(name for name in files if name not in unused), left_out)


def refuse_other_folders(folder: Path) -> None:
    """Raise PublishError for a training state, the output folder of a run, and a folder without a model."""
    names = ("checkpoint", "adapter")
    if folder.resolve().name.endswith(".incomplete"):
        raise PublishError(f"{folder} is incomplete: the run that wrote it was interrupted")
    if STATE_FOLDER.fullmatch(folder.resolve().name) or (folder / "trainer_state.json").is_file():
        siblings = [folder.resolve().parent / name for name in names]
        meant = next((path for path in siblings if path.is_dir()), None)
        advice = f"publish {meant}" if meant else "train to the end, and publish its checkpoint/"
        raise PublishError(f"{folder} is a training state, not a published checkpoint: {advice}")
    if (folder / "config.json").is_file() or is_adapter(folder):
        return
    inside = [folder / name for name in names if (folder / name).is_dir()]
    if inside:
        raise PublishError(f"{folder} is the output of a run: publish {' or '.join(map(str, inside))}")
    raise PublishError(f"{folder} is not a published checkpoint: it has neither config.json nor {ADAPTER_CONFIG}")


def reason_to_leave_out(name: str) -> str | None:
    parts = Path(name).parts
    if any(part.startswith(".") for part in parts):
        return "hidden"
    if any(part in ("__pycache__", "logs", "runs") for part in parts[:-1]):
        return "belongs to a run, not to the model"
    if any(STATE_FOLDER.fullmatch(part) for part in parts[:-1]) or any(fnmatch(parts[-1], each) for each in STATES):
        return "training state"
    if parts[-1].endswith((".jsonl", ".log")) or parts[-1].startswith("events.out."):
        return "log"
    if parts[-1].endswith(PICKLED) or any(fnmatch(parts[-1], pattern) for pattern in WANTED):
        return None
    return "not a kind of file that a checkpoint has"


def refuse_damaged(path: Path) -> None:
    """Raise PublishError if a file of weights is missing, damaged or pickled."""
    if not path.is_file():
        raise PublishError(f"{path} is missing")
    if path.suffix != ".safetensors":
        raise PublishError(f"{path} contains pickled weights: write them as safetensors with smol-hf convert")
    try:
        with safe_open(path, framework="numpy") as file:
            file.metadata()
    except (SafetensorError, OSError) as error:
        raise PublishError(f"{path} is damaged or cut off ({error})") from error
