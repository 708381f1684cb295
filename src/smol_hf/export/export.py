"""`smol-hf export`: write a checkpoint in the format of another engine, and compare the engine's answers."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from smol_hf.conversion.checkpoint_files import is_adapter, locate, read_json
from smol_hf.conversion.convert import atomic_output, check_output, convert
from smol_hf.conversion.formats.processors import has_tokenizer
from smol_hf.conversion.formats.registry import OURS
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.conversion.merge import merge
from smol_hf.conversion.native.card import LICENSES, card_of_export
from smol_hf.conversion.sharded import has_shards
from smol_hf.export.comparison import compare
from smol_hf.export.registry import target_of
from smol_hf.export.target import Target
from smol_hf.inference.media import refuse_unreadable_media
from smol_hf.inference.prompts import read_prompts
from smol_hf.support.atomic import incomplete_name, incomplete_of, parents_of, remove_left_overs

LOCK = "lock"
# They go with each export, if the checkpoint has them.
TEXTS = ("README.md", *LICENSES)


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
    target, output = target_of(to), Path(output).expanduser()
    given = target_options(target, options)
    check_output(output)
    if prompts_file is not None:
        if not compared:
            raise ValueError("--prompts-file has no effect with --no-compare: leave it out")
        refuse_unreadable_media(read_prompts(prompts_file))  # before the export, which takes longer
    source = locate(str(checkpoint), revision=revision, token=token, local_files_only=local_files_only)
    check_output(output, source)
    refuse_foreign(source)
    original = source
    with work_folder(output) as place:
        if is_adapter(source):
            merged = place / "merged"
            merge(str(source), merged, token=token, local_files_only=local_files_only)
            copy_texts(source, merged)
            source = merged
        with atomic_output(output) as incomplete:
            native = place / "native"
            facts = convert(str(source), native, to="native")
            card = (native / "README.md").read_text(encoding="utf-8")
            notes = [*facts["notes"], *target.write(native, incomplete, {**given, "checkpoint": original})]
            if not (incomplete / "README.md").exists():
                (incomplete / "README.md").write_text(card_of(target, card, incomplete), encoding="utf-8")
            copy_texts(source, incomplete)
        seconds = round(time.monotonic() - started, 2)
        comparison = compare_written(source, output, target, prompts_file) if compared else None
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


def compare_written(source: Path, output: Path, target: Target, prompts_file: Path | None) -> dict[str, Any]:
    """Compare a complete export with its source; see `compare`. An error says that the export is written."""
    try:
        return compare(source, output, target, prompts_file)
    except (ValueError, OSError, RuntimeError) as error:
        raise ValueError(f"{output} is written, but it cannot be compared with the checkpoint: {error}") from error


def refuse_foreign(source: Path) -> None:
    """Raise ConversionError for a checkpoint of another format than ours."""
    if is_adapter(source):
        return
    if source.is_file():
        raise ConversionError(f"{source} is a file: convert it first (smol-hf convert {source} CHECKPOINT)")
    if has_shards(source):
        raise ConversionError(f"{source} has weights in shards: merge them first (smol-hf merge {source} CHECKPOINT)")
    config = read_json(source / "config.json")
    if (model_type := config.get("model_type")) not in OURS:
        raise ConversionError(
            f"{source} is a model of transformers' own classes already ({model_type}): give the checkpoint of smol_hf "
            "instead, or convert it first (smol-hf convert)"
        )
    if "vision_config" in config and has_tokenizer(source) and not (source / "processor_config.json").is_file():
        raise ConversionError(f"{source} has no processor_config.json, which says how images are shown: add it")


@contextmanager
def work_folder(output: Path) -> Iterator[Path]:
    """Yield a hidden folder next to `output`, on its disk, for files in between. Remove those of killed attempts.

    Raises:
        ConversionError: if another process exports into `output` at this time.
    """
    output = output.expanduser().resolve()
    with parents_of(output):
        refuse_running(output)
        remove_left_overs(output)
        place = incomplete_name(output)
        place.mkdir()
        try:
            with FileLock(place / LOCK):
                yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


def refuse_running(output: Path) -> None:
    """Raise ConversionError if another process exports into `output`. The system releases the lock of a killed one."""
    for folder in incomplete_of(output):
        if (folder / LOCK).is_file():
            try:
                with FileLock(folder / LOCK, blocking=False):
                    pass
            except Timeout:
                raise ConversionError(f"another process exports into {output}: wait until it ends") from None


def target_options(target: Target, options: dict[str, Any]) -> dict[str, Any]:
    """Add the defaults of the target's options. Raise ValueError for a given one that it does not have."""
    given = {name: value for name, value in options.items() if value is not None}
    if unknown := sorted(given.keys() - target.options.keys()):
        name = unknown[0].replace("_", "-")
        raise ValueError(f"--{name} has no effect with --to {target.name}: leave it out")
    return {**target.options, **given}


def card_of(target: Target, native_card: str, folder: Path) -> str:
    """Return the card of an export. Its commands name neither the folder nor its parent on this machine."""
    names = {str(folder): "FOLDER", str(folder.parent): "PARENT", folder.name: "FOLDER"}
    commands = target.commands(folder)
    for path, name in names.items():
        commands = [command.replace(path, name) for command in commands]
    return card_of_export(native_card, target.engine, commands)


def copy_texts(source: Path, folder: Path) -> None:
    """Copy the card and the licence, unless the target wrote its own."""
    for name in TEXTS:
        if (source / name).is_file() and not (folder / name).exists():
            shutil.copyfile(source / name, folder / name)
