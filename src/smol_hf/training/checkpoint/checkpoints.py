"""Checkpoints that are whole or not there.

A checkpoint is written into a hidden folder, described by a manifest of sizes and SHA-256 hashes, and renamed when it
is complete: a rename is one step for the file system, so a run killed at any moment leaves the previous checkpoints
as they were. A run resumes from the newest checkpoint whose files all match its manifest, and says which it passed
over and why. A missing optimizer or schedule is never replaced by a fresh one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from smol_hf.support.hashing import hash_file

INCOMPLETE = ".incomplete"
MANIFEST = "manifest.json"
NEEDED_TO_RESUME = ("trainer_state.json", "scheduler.pt", "data_state.json")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be resumed from; the message names the file."""


def write_manifest(folder: Path, step: int) -> None:
    """Describe every file of the folder, and make sure that they are on the disk before the description is."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            flush_to_disk(path)
            files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": hash_file(path)}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"step": step, "files": files}, indent=1) + "\n", encoding="utf-8")
    flush_to_disk(manifest)


def flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(incomplete: Path, final: Path) -> None:
    """Move a complete checkpoint to its name, in place of an older one of the same step."""
    if final.exists():
        shutil.rmtree(final)
    os.rename(incomplete, final)
    flush_to_disk(final.parent)


def verify(folder: Path) -> None:
    """Compare a checkpoint with its manifest. Raises CheckpointError, naming the first file that is wrong."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = {name: (entry["size"], entry["sha256"]) for name, entry in manifest["files"].items()}
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder.name}: {MANIFEST} is missing, so it was never completed") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder.name}: {MANIFEST} is damaged ({error})") from error
    for name, (size, sha256) in files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{folder.name}: {name} is missing")
        if path.stat().st_size != size:
            raise CheckpointError(f"{folder.name}: {name} has {path.stat().st_size} bytes, not {size}")
        if hash_file(path) != sha256:
            raise CheckpointError(f"{folder.name}: the content of {name} changed after it was saved")
    for name in NEEDED_TO_RESUME:
        if name not in files:
            raise CheckpointError(f"{folder.name}: it was saved without {name}, which resuming needs")
    if not any(name.startswith(("optimizer", "global_step")) for name in files):
        raise CheckpointError(f"{folder.name}: it was saved without the optimizer, which resuming needs")


def list_checkpoints(output_dir: Path) -> list[Path]:
    """`checkpoint-<step>` folders, newest step first."""
    found = [path for path in output_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.rsplit("-", 1)[1]), reverse=True)


def suggest_checkpoint(output_dir: Path) -> str:
    """`; did you mean RUN/checkpoint?` for the output folder of a run: what it published or saved last; else ''."""
    published = (output_dir / name for name in ("checkpoint", "adapter"))
    for folder in (*published, *list_checkpoints(output_dir)):
        if any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
            return f"; did you mean {folder}?"
    return ""


def step_of(checkpoint: Path) -> int:
    """The step at which it was saved."""
    return json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]


def newest_valid_checkpoint(output_dir: Path) -> tuple[Path | None, list[str]]:
    """(the newest checkpoint that verifies, why each newer one was passed over)."""
    rejected = []
    for folder in list_checkpoints(output_dir):
        try:
            verify(folder)
        except CheckpointError as error:
            rejected.append(str(error))
            continue
        return folder, rejected
    return None, rejected


def choose_checkpoint(output_dir: Path, resume: str | bool | None) -> tuple[Path | None, list[str]]:
    """The checkpoint to resume from, and messages for the user.

    Args:
        resume: None or false: start anew, which an output folder with checkpoints in it refuses. true: the newest
            that verifies (none at all yet: start anew). A path: this one.

    Raises:
        CheckpointError: when nothing can be resumed although something should, or would be overwritten.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise CheckpointError(f"{output_dir} is a file: output_dir must be a folder")
    if resume in (None, False, "false", "False"):
        existing = list_checkpoints(output_dir)
        if existing:
            raise CheckpointError(
                f"{output_dir} holds {existing[0].name} of an earlier run: go on with it by "
                "--resume_from_checkpoint true (smol-hf pretrain: --resume), or choose another output_dir"
            )
        return None, []
    if resume not in (True, "true", "True"):
        if not Path(resume).is_dir():
            raise CheckpointError(f"there is no checkpoint {resume} to resume from")
        verify(Path(resume))
        return Path(resume), [f"resuming from {resume}"]
    checkpoint, rejected = newest_valid_checkpoint(output_dir)
    messages = [f"not resuming from {reason}" for reason in rejected]
    if checkpoint is None and rejected:
        raise CheckpointError("no checkpoint can be resumed from:\n  " + "\n  ".join(rejected))
    if checkpoint is None:
        return None, [f"{output_dir} holds no checkpoint yet: starting at step 0"]
    return checkpoint, [*messages, f"resuming from {checkpoint.name}"]
