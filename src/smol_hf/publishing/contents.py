"""What of a folder is published: its files, what is left out and why, and whether it is a published checkpoint."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from safetensors import SafetensorError, safe_open

from smol_hf.conversion.checkpoint_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, INDEXES, WHOLE, weight_files
from smol_hf.conversion.formats.tensor_names import ConversionError

PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz")
TEXTS = ("*.json", "*.py", "*.jinja", "*.txt", "*.md", "*.yaml", "LICENSE*", "NOTICE*")
WANTED = (*TEXTS, "*.safetensors", "*.model", "*.png", "*.jpg", "*.svg", "*.webp")
STATES = (
    "optimizer*", "scheduler*", "scaler*", "rng_state*", "training_args.bin", "trainer_state.json", "data_state.json",
    "manifest.json", "run.json",
)  # fmt: skip
LARGE = 10 << 20  # bytes from which the Hub keeps any file by LFS
STATE_FOLDER = re.compile(r"checkpoint-\d+|global_step\d+")


class PublishError(ValueError):
    """A folder that is not published, or an upload that did not succeed; the message says what to do."""


@dataclass(frozen=True)
class Contents:
    """`files` are published, as paths relative to `folder`; `left_out` are not: path → why."""

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
    """Sort the files of a published checkpoint, or of an adapter, into those that are published and the others.

    Raises:
        PublishError: when the folder is none; it says which folder is meant where that can be known. When weights
            are missing, damaged or pickled, or a link leads out of the folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PublishError(f"there is no folder {folder}")
    refuse_other_folders(folder)
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
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
                f"{path} may hold a pickle, which runs code when it is loaded: save the weights with safetensors "
                "(smol-hf convert), and remove it"
            )
        elif not path.resolve().is_relative_to(folder.resolve()):
            raise PublishError(f"{path} is a link that leads out of the folder: put the file itself there")
        else:
            files.append(name)
    try:
        weights = [folder / ADAPTER_WEIGHTS] if is_adapter else weight_files(folder)
        for path in weights:
            refuse_damaged(path)
    except ConversionError as error:
        raise PublishError(str(error)) from error
    used = {path.name for path in weights}
    if not used & {ADAPTER_WEIGHTS, *WHOLE}:
        used |= set(INDEXES)
    for name in [name for name in files if name.endswith(".safetensors") or name in INDEXES]:
        if name not in used:
            files.remove(name)
            left_out[name] = "not of the weights that are loaded"
    return Contents(folder, is_adapter, tuple(files), left_out)


def refuse_other_folders(folder: Path) -> None:
    """Raises PublishError for a state to resume from, a run's whole output, and what has no model in it."""
    names = ("checkpoint", "adapter")
    if folder.resolve().name.endswith(".incomplete"):
        raise PublishError(f"{folder} was never completed: the run that wrote it was interrupted")
    if STATE_FOLDER.fullmatch(folder.resolve().name) or (folder / "trainer_state.json").is_file():
        beside = [folder.resolve().parent / name for name in names]
        meant = next((path for path in beside if path.is_dir()), None)
        advice = f"{meant} is the published one" if meant else "train to the end, and publish its checkpoint/"
        raise PublishError(f"{folder} is a state to resume training from, not a published checkpoint: {advice}")
    if (folder / "config.json").is_file() or (folder / ADAPTER_CONFIG).is_file():
        return
    inside = [folder / name for name in names if (folder / name).is_dir()]
    if inside:
        raise PublishError(f"{folder} is the output of a run: publish {' or '.join(map(str, inside))}")
    raise PublishError(f"{folder} is no published checkpoint: it has neither config.json nor {ADAPTER_CONFIG}")


def reason_to_leave_out(name: str) -> str | None:
    parts = Path(name).parts
    if any(part.startswith(".") for part in parts):
        return "hidden"
    if any(part in ("__pycache__", "logs", "runs") for part in parts[:-1]):
        return "of a run, not of the model"
    if any(STATE_FOLDER.fullmatch(part) for part in parts[:-1]) or any(fnmatch(parts[-1], each) for each in STATES):
        return "state to resume training from"
    if parts[-1].endswith((".jsonl", ".log")) or parts[-1].startswith("events.out."):
        return "log"
    if parts[-1].endswith(PICKLED) or any(fnmatch(parts[-1], pattern) for pattern in WANTED):
        return None
    return "of no kind that a checkpoint has"


def refuse_damaged(path: Path) -> None:
    """Raises PublishError when a file of weights is missing, cut off, or pickled."""
    if not path.is_file():
        raise PublishError(f"{path} is missing")
    if path.suffix != ".safetensors":
        raise PublishError(f"{path} holds pickled weights: smol-hf convert writes them as safetensors")
    try:
        with safe_open(path, framework="numpy") as file:
            file.metadata()
    except (SafetensorError, OSError) as error:
        raise PublishError(f"{path} is damaged or cut off ({error})") from error
