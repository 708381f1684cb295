"""`smol-hf export`: write a checkpoint in the format of another engine, and compare the engine's answers."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from smol_hf.conversion.checkpoint_files import is_adapter, locate
from smol_hf.conversion.convert import atomic_output, check_output, convert
from smol_hf.conversion.merge import merge
from smol_hf.export.comparison import compare
from smol_hf.export.registry import target_of
from smol_hf.export.target import Target

# They go with each export, if the checkpoint has them.
TEXTS = ("README.md", "LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE")


def export(
    checkpoint: str | Path,
    output: str | Path,
    to: str,
    *,
    compared: bool = True,
    prompts_file: Path | None = None,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Export `checkpoint` (ours, or an adapter of one) into the folder `output`.

    Args:
        to: name of a target.
        compared: ask the engine and the checkpoint the same prompts, if the engine's package is installed.
        prompts_file: see `compare`.
        options: of the target.

    Returns:
        `target`, `output`, `notes`, `files` (name → bytes), `commands` (which run the result), `comparison` (see
        `compare`; None if not asked for), `seconds` (to write).

    Raises:
        ConversionError: with the unsupported part and what to choose. Nothing is written then.
        FileExistsError: if `output` is not empty.
        ValueError: for an unknown target, or an option that the target does not have.
    """
    started = time.monotonic()
    target, output = target_of(to), Path(output)
    given = target_options(target, options)
    check_output(output)
    source = locate(str(checkpoint), revision=revision, token=token, local_files_only=local_files_only)
    check_output(output, source)
    original = source
    with TemporaryDirectory(prefix="smol_hf_export_") as place:
        if is_adapter(source):
            merged = Path(place, "merged")
            merge(str(source), merged)
            copy_texts(source, merged)
            source = merged
        with atomic_output(output) as incomplete:
            native = Path(place, "native")
            facts = convert(str(source), native, to="native")
            notes = [*facts["notes"], *target.write(native, incomplete, {**given, "checkpoint": original})]
            copy_texts(source, incomplete)
        seconds = round(time.monotonic() - started, 2)
        comparison = compare(source, output, target, prompts_file) if compared else None
    return {
        "target": target.name,
        "output": str(output),
        "notes": notes,
        "files": {
            str(path.relative_to(output)): path.stat().st_size for path in sorted(output.rglob("*")) if path.is_file()
        },
        "commands": target.commands(output),
        "comparison": comparison,
        "seconds": seconds,
    }


def target_options(target: Target, options: dict[str, Any]) -> dict[str, Any]:
    """Add the defaults of the target's options. Raise ValueError for a given one that it does not have."""
    given = {name: value for name, value in options.items() if value is not None}
    if unknown := sorted(given.keys() - target.options.keys()):
        name = unknown[0].replace("_", "-")
        raise ValueError(f"--{name} has no effect with --to {target.name}: leave it out")
    return {**target.options, **given}


def copy_texts(source: Path, folder: Path) -> None:
    """Copy the card and the licence, unless the target wrote its own."""
    for name in TEXTS:
        if (source / name).is_file() and not (folder / name).exists():
            shutil.copyfile(source / name, folder / name)
