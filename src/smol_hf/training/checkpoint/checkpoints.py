"""Checkpoints that are complete or absent.

A checkpoint is written into a hidden folder, described by a manifest of sizes and SHA-256 hashes, and renamed when it
is complete. A rename is atomic, so a killed run leaves the earlier checkpoints intact. A run resumes from the newest
checkpoint whose files match its manifest, and reports the rejected ones. A missing optimizer or schedule is an error.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from smol_hf.support.hashing import hash_file

INCOMPLETE = ".incomplete"
MANIFEST = "manifest.json"
WEIGHT_SHARDS, OPTIMIZER_SHARDS = "pytorch_model_fsdp_0", "optimizer_0"  # folders of torch's distributed checkpoint
INDEX = "model.safetensors.index.json"
NEEDED_TO_RESUME = {
    "the weights": rf"(adapter_)?model\.(safetensors|bin)|{INDEX}|{WEIGHT_SHARDS}/.*|pytorch_model_fsdp\.bin"
    r"|global_step\d+/.*model_states\.pt",
    "the optimizer": rf"optimizer\.(pt|bin)|{OPTIMIZER_SHARDS}/.*|global_step\d+/.*_states\.pt",
    "trainer_state.json": r"trainer_state\.json",
    "scheduler.pt": r"scheduler\.pt",
    "data_state.json": r"data_state\.json",
}
OF_A_PROCESS = r"(global_step\d+/(?:bf16_)?zero_pp_rank_)\d+(_mp_rank_\d+_(?:optim|model)_states\.pt)"  # of DeepSpeed


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be resumed from; the message names the file."""


def write_manifest(folder: Path, step: int, processes: int = 0) -> None:
    """Describe every file of the folder, after all of them are flushed to the disk.

    Raises CheckpointError if a file of one of the processes is missing.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            flush_to_disk(path)
            files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": hash_file(path)}
    refuse_missing(folder, files, processes)
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"step": step, "files": files}, indent=1) + "\n", encoding="utf-8")
    flush_to_disk(manifest)


def flush_to_disk(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_into_place(incomplete: Path, final: Path) -> None:
    """Rename a complete checkpoint, replacing an older one of the same step."""
    if final.is_dir() and not final.is_symlink():
        shutil.rmtree(final)
    else:  # a file of that name is no checkpoint, see `verify`
        final.unlink(missing_ok=True)
    os.rename(incomplete, final)
    flush_to_disk(final.parent)


def verify(folder: Path) -> None:
    """Compare a checkpoint with its manifest, and check that a run can resume from it.

    Raises CheckpointError for the first wrong file.
    """
    files = read_manifest(folder)
    verify_files(folder, files)
    for kind, pattern in NEEDED_TO_RESUME.items():
        if not any(re.fullmatch(pattern, name) for name in files):
            raise CheckpointError(f"{folder.name}: it was saved without {kind}, which resuming needs")
    refuse_missing(folder, files, sum(name.startswith("rng_state") for name in files))


def read_manifest(folder: Path) -> dict[str, tuple[int, str]]:
    """Return the size and the SHA-256 of each file. Raises CheckpointError for a missing or damaged manifest."""
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder.name}: it is a file, not the folder of a checkpoint")
    if (folder / MANIFEST).is_dir():
        raise CheckpointError(f"{folder.name}: {MANIFEST} is a folder, not a file")
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return {name: (entry["size"], entry["sha256"]) for name, entry in manifest["files"].items()}
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder.name}: {MANIFEST} is missing, so it was never completed") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder.name}: {MANIFEST} is damaged ({error})") from error


def verify_files(folder: Path, files: dict[str, tuple[int, str]]) -> None:
    """Compare files with their entries in the manifest. Raises CheckpointError for the first wrong file."""
    for name, (size, sha256) in files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{folder.name}: {name} is missing")
        if path.stat().st_size != size:
            raise CheckpointError(f"{folder.name}: {name} has {path.stat().st_size} bytes, not {size}")
        if hash_file(path) != sha256:
            raise CheckpointError(f"{folder.name}: the content of {name} changed after it was saved")


def refuse_missing(folder: Path, files: Collection[str], processes: int) -> None:
    """Raise CheckpointError for the first file that the others need, and that is not among `files`."""
    for name in files_of_shards(folder, files, processes):
        if name not in files:
            raise CheckpointError(
                f"{folder.name}: {name} is missing: a process wrote it elsewhere, or stopped before it was complete"
            )


def files_of_shards(folder: Path, files: Collection[str], processes: int) -> Iterator[str]:
    """Yield the files of a checkpoint that follow from its other files and from the number of processes."""
    if processes > 1:
        yield from (f"rng_state_{rank}.pth" for rank in range(processes))
    if INDEX in files:
        yield from sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    for shards in (WEIGHT_SHARDS, OPTIMIZER_SHARDS):
        if any(name.startswith(f"{shards}/") for name in files):
            yield f"{shards}/.metadata"
            from torch.distributed.checkpoint.filesystem import FileSystemReader  # `runs show` needs no torch

            stored = FileSystemReader(folder / shards).read_metadata().storage_data
            yield from sorted({f"{shards}/{place.relative_path}" for place in stored.values()})
    for one in filter(None, (re.fullmatch(OF_A_PROCESS, name) for name in files)):
        yield from (f"{one[1]}{rank}{one[2]}" for rank in range(processes))


def list_checkpoints(output_dir: Path) -> list[Path]:
    """List the folders `checkpoint-<step>`, newest first."""
    return [path for path in list_named(output_dir) if path.is_dir()]


def newest_complete(output_dir: Path) -> Path | None:
    """Return the newest checkpoint that has a manifest."""
    return next((path for path in list_checkpoints(output_dir) if (path / MANIFEST).is_file()), None)


def list_named(output_dir: Path) -> list[Path]:
    """List the files and folders `checkpoint-<step>`, newest first."""
    found = [path for path in output_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.rsplit("-", 1)[1]), reverse=True)


def refuse_run(folder: Path, output_dir: Path) -> None:
    """Raise CheckpointError for the output folder of a run, and name its checkpoint that is meant."""
    newest = newest_complete(folder)
    if newest is not None and not (folder / MANIFEST).exists():
        same = folder.resolve() == output_dir.resolve()
        how = "--resume_from_checkpoint true" if same else f"--resume_from_checkpoint {newest}"
        raise CheckpointError(
            f"{folder} is the output folder of a run, not a checkpoint: resume its newest, {newest.name}, with {how}"
        )


def layout_of(checkpoint: Path) -> str:
    """Return the strategy that wrote the files of a checkpoint; "" for complete weights."""
    if (checkpoint / WEIGHT_SHARDS).is_dir():
        return "FSDP with SHARDED_STATE_DICT"
    if (checkpoint / "pytorch_model_fsdp.bin").is_file():
        return "FSDP with FULL_STATE_DICT"
    return "DeepSpeed" if any(checkpoint.glob("global_step*")) else ""


def suggest_checkpoint(output_dir: Path) -> str:
    """Return `; did you mean RUN/checkpoint?` if the folder is a run's output folder with a checkpoint; else ''."""
    published = (output_dir / name for name in ("checkpoint", "adapter"))
    for folder in (*published, *list_checkpoints(output_dir)):
        if any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
            return f"; did you mean {folder}?"
    return ""


def step_of(checkpoint: Path) -> int:
    """Return the step of a checkpoint."""
    return json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]


def choose_checkpoint(output_dir: Path, resume: str | bool | None) -> tuple[Path | None, list[str]]:
    """Return the checkpoint to resume from, and messages for the user.

    Args:
        resume: None or false: start anew; an error if the output folder has checkpoints. true: the newest that
            verifies, or start anew without any. A path: this checkpoint.

    Raises:
        CheckpointError: if no checkpoint can be resumed, or checkpoints would be overwritten.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise CheckpointError(f"{output_dir} is a file: output_dir must be a folder")
    if resume in (None, False, "false", "False"):
        if existing := list_checkpoints(output_dir):
            raise CheckpointError(
                f"{output_dir} holds {existing[0].name} of an earlier run: resume it with "
                "--resume_from_checkpoint true (smol-hf pretrain: --resume), or choose another output_dir"
            )
        return None, []
    if resume not in (True, "true", "True"):
        if not Path(resume).is_dir():
            raise CheckpointError(f"there is no checkpoint {resume} to resume from")
        refuse_run(Path(resume), output_dir)
        verify(Path(resume))
        return Path(resume), [f"resuming from {resume}"]
    rejected: list[str] = []
    for checkpoint in list_named(output_dir):
        try:
            verify(checkpoint)
        except CheckpointError as error:
            rejected.append(str(error))
            continue
        return checkpoint, [*(f"not resuming from {each}" for each in rejected), f"resuming from {checkpoint.name}"]
    if rejected:
        raise CheckpointError("no checkpoint can be resumed from:\n  " + "\n  ".join(rejected))
    return None, [f"{output_dir} holds no checkpoint yet: starting at step 0"]
