"""A cache of record sizes, so that a second run on unchanged data measures nothing.

An entry is a file in `<HF_HOME>/assets/smol_hf/sizes` (the folder of `cached_assets_path`). Its name is a digest of
everything that determines a size, and its first line a digest of the rest. It also contains the digests of the image
files of the records. If one of them differs, the data is measured again.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import inspect
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, fields, is_dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout
from huggingface_hub import cached_assets_path

from smol_hf.data.conversation import KIND_OF, KINDS, SampleError
from smol_hf.data.records.own_file import MODULE_PREFIX
from smol_hf.data.records.registry import ADAPTERS, load_entry_points
from smol_hf.data.sources.files import local_path
from smol_hf.data.sources.fingerprints import are_read_whole, digests_of_files
from smol_hf.data.stream.preparation import SampleWork
from smol_hf.data.stream.record_use import RecordUse
from smol_hf.data.stream.stream import Plan
from smol_hf.data.stream.survey import Size, Survey, survey
from smol_hf.support.cache_folders import lock_of
from smol_hf.support.tokenizer_of import tokenizer_of

VERSION = 1
KEPT = 32  # most recently used entries
PACKAGE = Path(__file__).parents[1]
VERSIONED = ("smol_hf", "transformers")  # packages that are compared by another fact


class NotRememberedError(ValueError):
    """Sizes that depend on a value that cannot be compared, such as a function without a file."""


def measured(
    plan: Plan,
    *,
    verify_images: bool = False,
    advance: Callable[[], Any] | None = None,
    leads: bool = True,
    wait: Callable[[], Any] = lambda: None,
) -> Survey:
    """Return the `survey` of a plan with the digests of its image files, from the cache or measured now.

    Args:
        verify_images, advance: see `survey`.
        leads: measure without an entry. The other processes of the run wait for a lock, which never times out, and
            read the leader's entry. Without a writable folder, each process measures.
        wait: a barrier of the processes of the run.
    """
    path = entry_of(plan, verify_images)
    if path is None:
        wait()
        return measure_now(plan, verify_images, advance)
    with turn(path, leads, wait) as is_checked:
        found = load(path)
        if found is not None and not is_checked and not is_current(found, verify_images):
            found = None
            with contextlib.suppress(OSError):
                path.unlink()  # so that no other process uses it
        if found is None:
            found = measure_now(plan, verify_images, advance)
            if not is_checked:
                save(path, found)
        return found


@contextlib.contextmanager
def turn(path: Path, leads: bool, wait: Callable[[], Any]) -> Iterator[bool]:
    """Let the leader go first. Yields whether another process of the run has just checked the entry."""
    lock = None
    with contextlib.suppress(OSError):
        lock = lock_of(path.parent, path.stem)
        if leads:
            with contextlib.suppress(Timeout):  # another run measures the same data
                lock.acquire(blocking=False)
    wait()
    if lock is None:
        yield False
        return
    with contextlib.suppress(OSError):
        lock.acquire()
    try:
        if not leads:
            lock.release(force=True)  # the leader is done: all others read at once
        yield not leads
    finally:
        lock.release(force=True)


def measure_now(plan: Plan, verify_images: bool, advance: Callable[[], Any] | None) -> Survey:
    found = survey(plan, verify_images=verify_images, advance=advance)
    digest_images(found, verify_images)
    return found


# Images --------------------------------------------------------------------------------------------------------------


def digest_images(found: Survey, read_images: bool) -> None:
    """Fill in the digests of the image files: of all bytes with `read_images`, or of at most 256 MiB together."""
    names = dict.fromkeys(name for images in found.images.values() for name in images)
    paths = {name: Path(name) for name in names if os.path.isfile(name) and os.access(name, os.R_OK)}
    found.read_whole = read_images or are_read_whole(list(paths.values()))
    digests = dict(zip(paths, digests_of_files(list(paths.values()), whole=found.read_whole)))
    found.images = {source: {name: digests.get(name) for name in images} for source, images in found.images.items()}


def is_current(found: Survey, read_images: bool) -> bool:
    """Return True if the image files are those of the entry."""
    now = Survey(images=found.images)
    digest_images(now, read_images)
    return (now.images, now.read_whole) == (found.images, found.read_whole)


# The name of an entry ------------------------------------------------------------------------------------------------


def entry_of(plan: Plan, verify_images: bool) -> Path | None:
    """Return the file of this plan's sizes; None if their inputs cannot be compared."""
    work = plan.work
    if not isinstance(work, SampleWork) or not all(source.files for source in plan.sources):
        return None
    try:
        facts = {
            "version": VERSION,
            "packages": sorted(f"{each.name} {each.version}" for each in importlib.metadata.distributions()),
            "code": [digest_of_code(each) for each in code_of(work)],
            "sources": [[each.name, each.prefix, each.fingerprint, stats(each.files)] for each in plan.sources],
            "work": [facts_of(type(work)), work.context_length, list(work.too_long), work.image_resizing],
            "processor": digest_of_processor(work.processor),
            "readers": facts_of(work.readers),
            "verify_images": verify_images,
        }
        folder = Path(cached_assets_path("smol_hf", "sizes"))
    except (NotRememberedError, OSError):
        return None
    return folder / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()}.json"


def stats(files: Sequence[str]) -> list[list[Any]]:
    """Return path, size and time of each file, because fingerprints sample large files."""
    found = [(os.path.abspath(local_path(file)), local_path(file).stat()) for file in files]
    return [[path, each.st_size, each.st_mtime_ns] for path, each in found]


def facts_of(value: Any) -> Any:
    """Return a value as JSON that is equal for equal values. Raises NotRememberedError for one without such a form."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Path):
        return os.path.abspath(value)
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if is_dataclass(value):
        return [facts_of(type(value)), {each.name: facts_of(getattr(value, each.name)) for each in fields(value)}]
    if isinstance(value, dict):
        return sorted([str(key), facts_of(each)] for key, each in value.items())
    if isinstance(value, (set, frozenset)):
        return sorted(map(facts_of, value))
    if isinstance(value, (list, tuple)):
        return [facts_of(each) for each in value]
    raise NotRememberedError(f"{type(value).__name__} has no form that can be compared")


def digest_of_processor(processor: Any) -> list[str]:
    """Return digests of the saved files of the processor, or of a text-only model's tokenizer."""
    saved = processor if hasattr(processor, "save_pretrained") else tokenizer_of(processor)
    with tempfile.TemporaryDirectory() as folder:
        saved.save_pretrained(folder)
        paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in paths]
        digests = digests_of_files(paths, whole=True)
    return [facts_of(type(processor)), getattr(processor, "template", ""), *map(":".join, zip(names, digests))]


def code_of(work: SampleWork) -> list[Path]:
    """Return the files and folders of code that determine sizes: ours, a checkpoint's, and adapters."""
    places = [PACKAGE]
    classes = (type(work), type(work.processor), type(tokenizer_of(work.processor)))
    places += [file_of(each).parent for each in classes if each.__module__.partition(".")[0] not in VERSIONED]
    load_entry_points()
    for adapter in ADAPTERS.values():
        if adapter.read.__module__.startswith(MODULE_PREFIX):
            raise NotRememberedError(f"the adapter {adapter.name} is a file of the user's, which may import others")
        package = sys.modules.get(adapter.package)
        places += map(Path, getattr(package, "__path__", [file_of(adapter.read)]))
    return list(dict.fromkeys(places))


def file_of(code: Any) -> Path:
    try:
        return Path(inspect.getfile(code))
    except TypeError as error:
        raise NotRememberedError(f"{code} has no file") from error


def digest_of_code(place: Path) -> str:
    """Return the SHA-256 of a Python file, or of all Python files in a folder and its subfolders."""
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


# An entry ------------------------------------------------------------------------------------------------------------


def save(path: Path, found: Survey) -> None:
    """Write the entry atomically. A full or read-only disk does not stop the run."""
    kinds = {type(each) for each in found.found.values() if isinstance(each, SampleError)}
    if not kinds <= set(KIND_OF):
        return
    sources = [
        {
            "rows": [None if where is None else [where, *packed(found.found[source, where])] for where in rows],
            "use": vars(found.use[source]) if source in found.use else None,
            "images": list(found.images.get(source, {}).items()),
        }
        for source, rows in found.rows.items()
    ]
    text = json.dumps({"read_whole": found.read_whole, "sources": sources}, separators=(",", ":"))
    unfinished = path.with_suffix(f".{os.getpid()}")
    try:
        unfinished.write_text(f"{digest_of_text(text)}\n{text}", encoding="ascii")
        os.replace(unfinished, path)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        return
    with contextlib.suppress(OSError):
        entries = sorted(path.parent.glob("*.json"), key=lambda each: each.stat().st_mtime)
        for old in entries[:-KEPT]:
            old.unlink(missing_ok=True)


def load(path: Path) -> Survey | None:
    """Return the content of an entry; None for a missing or damaged one."""
    try:
        digest, _, text = path.read_text(encoding="ascii").partition("\n")
        if digest != digest_of_text(text):
            return None
        os.utime(path)
    except (OSError, UnicodeDecodeError):
        return None
    saved = json.loads(text)
    found = Survey(read_whole=saved["read_whole"])
    for source, each in enumerate(saved["sources"]):
        found.rows[source] = [None if row is None else row[0] for row in each["rows"]]
        found.found |= {(source, row[0]): unpacked(row[1:]) for row in each["rows"] if row is not None}
        if each["use"] is not None:
            found.use[source] = RecordUse(**{**each["use"], "ignored": Counter(each["use"]["ignored"])})
        if each["images"]:
            found.images[source] = dict(each["images"])
    return found


def packed(known: Size | SampleError) -> list[Any]:
    if isinstance(known, Size):
        return list(astuple(known))
    return [KIND_OF[type(known)], known.where, known.problem, known.source]


def unpacked(saved: list[Any]) -> Size | SampleError:
    if not isinstance(saved[0], str):
        *numbers, units, number = saved
        return Size(*numbers, tuple(map(unpacked, units)), number)
    fault = KINDS[saved[0]](*saved[1:3])
    fault.source = saved[3]
    return fault


def digest_of_text(text: str) -> str:
    return hashlib.sha256(text.encode("ascii")).hexdigest()
