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
from collections.abc import Callable
from dataclasses import astuple, fields, is_dataclass
from functools import cache
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
from smol_hf.support.atomic import atomic_file
from smol_hf.support.cache_folders import lock_of
from smol_hf.support.tokenizer_of import tokenizer_of

VERSION = 2
KEPT = 32  # most recently used entries
PACKAGE = Path(__file__).parents[1]
VERSIONED = ("smol_hf", "transformers")  # packages that are compared by another fact


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
    path, lock = entry_of(plan, verify_images), None
    with contextlib.suppress(OSError, Timeout):  # Timeout: another run measures the same data
        if path is not None:
            lock = lock_of(path.parent, path.stem)
            if leads:
                lock.acquire(blocking=False)
    wait()
    if path is None or lock is None:
        return measure_now(plan, verify_images, advance)
    with contextlib.suppress(OSError):
        lock.acquire()
    try:
        if leads:
            found = load(path)
            if found is None or not is_current(found, verify_images):
                found = measure_now(plan, verify_images, advance)
                save(path, found)
            return found
    finally:
        lock.release(force=True)
    # The leader is done, and all others read at once.
    return load(path) or measure_now(plan, verify_images, advance)


def measure_now(plan: Plan, verify_images: bool, advance: Callable[[], Any] | None) -> Survey:
    found = survey(plan, verify_images=verify_images, advance=advance)
    digest_images(found, verify_images)
    return found


def digest_images(found: Survey, read_images: bool) -> None:
    """Fill in the digests of the image files: of all bytes with `read_images`, or of at most 256 MiB together.

    The digest of a folder of frames is that of the names in it.
    """
    names = dict.fromkeys(name for images in found.images.values() for name in images)
    paths = {name: Path(name) for name in names if os.path.isfile(name) and os.access(name, os.R_OK)}
    found.read_whole = read_images or are_read_whole(list(paths.values()))
    digests = dict(zip(paths, digests_of_files(list(paths.values()), whole=found.read_whole)))
    digests |= {name: digest_of_names(name) for name in names if os.path.isdir(name)}
    found.images = {source: {name: digests.get(name) for name in images} for source, images in found.images.items()}


def digest_of_names(folder: str) -> str | None:
    """Return the SHA-256 of the sorted names in a folder; None if it cannot be read."""
    with contextlib.suppress(OSError):
        return hashlib.sha256("\0".join(sorted(os.listdir(folder))).encode("utf-8", "surrogateescape")).hexdigest()


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
    facts = {
        "version": VERSION,
        "packages": installed_packages(),
        "sources": [[each.name, each.prefix, each.fingerprint] for each in plan.sources],
        "work": [type(work), work.context_length, work.too_long, work.image_resizing],
        "readers": work.readers,
        "verify_images": verify_images,
    }
    try:
        # Fingerprints sample large files.
        stats = [(local_path(file), local_path(file).stat()) for source in plan.sources for file in source.files]
        facts["files"] = [[path, each.st_size, each.st_mtime_ns] for path, each in stats]
        facts["code"] = [digest_of_code(each) for each in code_of(work)]
        facts["processor"] = digest_of_processor(work.processor)
        name = hashlib.sha256(json.dumps(facts, default=comparable, sort_keys=True).encode()).hexdigest()
        return Path(cached_assets_path("smol_hf", "sizes")) / f"{name}.json"
    except (TypeError, OSError):
        return None


@cache
def installed_packages() -> list[str]:
    """Return names and versions, read once per process: there are hundreds of files to parse."""
    return sorted(f"{each.name} {each.version}" for each in importlib.metadata.distributions())


def comparable(value: Any) -> Any:
    """Return a form of a value for `json.dumps` that is equal for equal values. Raises TypeError if it has none."""
    if isinstance(value, Path):
        return os.path.abspath(value)
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if is_dataclass(value):
        return [type(value), {each.name: getattr(value, each.name) for each in fields(value)}]
    raise TypeError(f"{type(value).__name__} has no form that can be compared")


def digest_of_processor(processor: Any) -> list[Any]:
    """Return digests of the saved files of the processor, or of a text-only model's tokenizer."""
    saved = processor if hasattr(processor, "save_pretrained") else tokenizer_of(processor)
    with tempfile.TemporaryDirectory() as folder:
        saved.save_pretrained(folder)
        paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in paths]
        digests = digests_of_files(paths, whole=True)
    return [type(processor), getattr(processor, "template", ""), *zip(names, digests)]


def code_of(work: SampleWork) -> list[Path]:
    """Return the files and folders of code that determine sizes: ours, a checkpoint's, and adapters.

    Raises:
        TypeError: for code without a file, and for an adapter whose imports are unknown.
    """
    places = [PACKAGE]
    classes = (type(work), type(work.processor), type(tokenizer_of(work.processor)))
    places += [
        Path(inspect.getfile(each)).parent for each in classes if each.__module__.partition(".")[0] not in VERSIONED
    ]
    load_entry_points()
    for adapter in ADAPTERS.values():
        if adapter.read.__module__.startswith(MODULE_PREFIX):
            raise TypeError(f"the adapter {adapter.name} is a file of the user's, which may import others")
        package = sys.modules.get(adapter.package)
        places += map(Path, getattr(package, "__path__", None) or [inspect.getfile(adapter.read)])
    return list(dict.fromkeys(places))


def digest_of_code(place: Path) -> str:
    """Return the SHA-256 of a Python file, or of all Python files in a folder and its subfolders."""
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


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
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)  # no other process may use the old one, even if the disk is full
        with atomic_file(path) as file:
            file.write_text(f"{digest_of_text(text)}\n{text}", encoding="ascii")
        entries = sorted(path.parent.glob("*.json"), key=lambda each: each.stat().st_mtime)
        for old in entries[:-KEPT]:
            old.unlink(missing_ok=True)


def load(path: Path) -> Survey | None:
    """Return the content of an entry; None for a missing or damaged one."""
    try:
        digest, _, text = path.read_text(encoding="ascii").partition("\n")
        os.utime(path)
    except (OSError, UnicodeDecodeError):
        return None
    if digest != digest_of_text(text):
        return None
    saved = json.loads(text)
    found = Survey(read_whole=saved["read_whole"])
    for source, each in enumerate(saved["sources"]):
        found.rows[source] = [None if row is None else row[0] for row in each["rows"]]
        found.found |= {(source, row[0]): unpacked(row[1:]) for row in each["rows"] if row is not None}
        if each["use"] is not None:
            counters = {name: Counter(each["use"][name]) for name in ("ignored", "unknown_texts")}
            found.use[source] = RecordUse(**{**each["use"], **counters})
        if each["images"]:
            found.images[source] = dict(each["images"])
    return found


def packed(known: Size | SampleError) -> list[Any]:
    if isinstance(known, Size):
        return list(astuple(known))
    return [KIND_OF[type(known)], known.where, known.problem, known.source]


def unpacked(saved: list[Any]) -> Size | SampleError:
    if not isinstance(saved[0], str):
        return size_of(saved)
    kind, *facts = saved
    return KINDS[kind](*facts)


def size_of(saved: list[Any]) -> Size:
    *facts, units, number = saved
    return Size(*facts, units=tuple(map(size_of, units)), number=number)


def digest_of_text(text: str) -> str:
    return hashlib.sha256(text.encode("ascii")).hexdigest()
