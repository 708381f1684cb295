"""A recipe's `data` → its source: local or remote files, patterns and folders, and Hub datasets."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from smol_hf.data.conversation import SampleError
from smol_hf.data.sources.files import (
    file_name,
    file_system,
    find_files,
    for_each,
    has_pattern,
    is_remote,
    labels_of,
    list_folder,
    local_path,
    reaching,
)
from smol_hf.data.sources.hub_dataset import ID, PREFIX, HubDataset, find_dataset, hub_id, pinned, repository_of
from smol_hf.data.sources.image_folder_source import ImageFolderSource, is_image_file, is_metadata
from smol_hf.data.sources.json_source import JsonArraySource, JsonLinesSource
from smol_hf.data.sources.parquet_source import ParquetSource
from smol_hf.data.sources.source import JoinedSource, Source
from smol_hf.data.sources.tar_source import TarSource
from smol_hf.support.sample_lists import LEDGERS


def open_json(kind: type[JsonLinesSource] | type[JsonArraySource]) -> Callable[[str, list[str]], Source]:
    def open_files(name: str, urls: list[str]) -> Source:
        labels = labels_of(urls)
        parts = for_each(lambda url: kind(name, url, labels[url]), sorted(urls))
        return parts[0] if len(parts) == 1 else JoinedSource(name, parts)

    return open_files


KINDS: dict[str, Callable[[str, list[str]], Source]] = {
    ".jsonl": open_json(JsonLinesSource),
    ".ndjson": open_json(JsonLinesSource),
    ".json": open_json(JsonArraySource),
    ".parquet": ParquetSource,
    ".tar": TarSource,
}
COMPRESSED = re.compile(r"\.(gz|bz2|xz|zst|tgz|zip|7z)$", re.IGNORECASE)


@dataclass(frozen=True)
class Opened:
    """A source and the origin of its media.

    Attributes:
        media_folder: folder of the media that its records name. None: records must contain their media as bytes.
        inside_only: the records are not trusted, so they must not name files outside the folder.
        dataset: id on the Hub, which may select the adapter.
    """

    source: Source
    media_folder: Path | None
    inside_only: bool = False
    dataset: str | None = None


def open_location(
    data: str,
    *,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    download: bool = False,
) -> Opened:
    """Open the source that `data` names.

    Args:
        data: a file (`.jsonl`, `.json`, `.parquet`, `.tar`), a pattern of files, a folder of shards of one kind or of
            images (each local or a URL of fsspec), or a Hub dataset.
        config, split, revision, download: of a Hub dataset, see `find_dataset`.

    Raises:
        FileNotFoundError: for missing data. ValueError: for ambiguous data, and for keys of Hub datasets with files.
            SampleError: for a file that cannot be read.
    """
    location = resolve_location(data, config=config, split=split, revision=revision, download=download)
    if location.dataset is not None:
        return open_dataset(location.dataset)
    path = location.path
    opened = open_folder(path) if location.is_folder else open_files(location.files, file_name(path))
    if is_remote(path):
        opened.source.remote = True
        return replace(opened, dataset=repository_of(path))
    return opened


@dataclass(frozen=True)
class Location:
    """A Hub dataset, a folder, or files (one, or those of a pattern).

    Attributes:
        path: the path or URL; for a Hub file, at the current commit.
    """

    path: str
    dataset: HubDataset | None = None
    is_folder: bool = False
    files: tuple[str, ...] = ()


def resolve_location(
    data: str, *, config: str | None, split: str | None, revision: str | None, download: bool
) -> Location:
    """Find out what `data` names. See `open_location` for the arguments and errors."""
    if (name := hub_id(data)) is not None:
        return Location(data, find_dataset(name, config, split, revision, download))
    refuse_dataset_keys(data, config=config, split=split, revision=revision, download=download)
    path = pinned(data)
    if not is_remote(path) and os.path.exists(local_path(path)):
        is_folder = local_path(path).is_dir()
    elif has_pattern(path):
        return Location(path, files=tuple(find_files(path)))
    elif is_remote(path):
        system, inside = file_system(path)
        with reaching(path):
            is_folder = system.isdir(inside)
    else:
        raise FileNotFoundError(missing_file(path))
    return Location(path, is_folder=is_folder, files=() if is_folder else (path,))


def refuse_dataset_keys(data: str, **given: str | bool | None) -> None:
    """Raise ValueError for keys of a Hub dataset if `data` names files."""
    if useless := [key for key, value in given.items() if value not in (None, False)]:
        raise ValueError(f"{' and '.join(useless)} belong to a dataset of the Hub, and {data} names files")


def missing_file(data: str) -> str:
    advice = f"; a dataset of the Hub is also called {PREFIX}{data}" if ID.fullmatch(data) else ""
    return f"the data file {data} does not exist{advice}"


def open_files(urls: Sequence[str], name: str) -> Opened:
    """Open files of one kind as one source. Their records may name media, by paths from their common folder."""
    source = files_source(name, list(urls))
    if isinstance(source, TarSource) or any(map(is_remote, urls)):
        return Opened(source, None, inside_only=True)
    folders = {local_path(url).parent for url in urls}
    return Opened(source, folders.pop() if len(folders) == 1 else Path(os.path.commonpath(folders)))


def files_source(name: str, urls: list[str]) -> Source:
    """Return the source of some files. Raises ValueError for several kinds, or an unsupported kind."""
    kinds: dict[str, list[str]] = {}
    for url in urls:
        kinds.setdefault(posixpath.splitext(file_name(url))[1].lower(), []).append(url)
    if len(kinds) > 1:
        examples = ", ".join(file_name(each[0]) for each in kinds.values())
        pattern = f"*{next(iter(kinds))}"
        raise ValueError(f"{name} holds files of several kinds ({examples}): name one kind, such as {pattern}")
    (kind,) = kinds
    if COMPRESSED.search(kind):
        raise compressed(file_name(urls[0]))
    if kind not in KINDS and len(urls) == 1 and not is_remote(urls[0]):
        kind = ".jsonl"  # lines of JSON with any suffix
    if kind not in KINDS:
        raise ValueError(
            f"{name} holds {kind or 'files without an ending'}: the supported kinds are {', '.join(KINDS)}"
        )
    return KINDS[kind](name, urls)


def compressed(where: str) -> SampleError:
    return SampleError(where, "is compressed: uncompress it, since no record in it can be read without all before it")


def open_folder(folder: str) -> Opened:
    """Open a folder of shards of one kind, or of images."""
    folder = folder.rstrip("/") or "/"
    root = folder if is_remote(folder) else os.path.realpath(local_path(folder))
    name, urls = file_name(folder), list_folder(root)
    if name in (".", ".."):
        name = file_name(root)
    root = pinned_root(root, urls)
    images = {posixpath.splitext(url)[0] for url in urls if is_image_file(url)}
    captions = [url for url in urls if is_metadata(url) or posixpath.splitext(url)[0] in images] if images else []
    captions = [url for url in captions if not is_image_file(url)]
    shards = [
        url
        for url in urls
        if posixpath.dirname(url) == root
        and (url.lower().endswith(tuple(KINDS)) or COMPRESSED.search(url))
        and url not in captions
        and file_name(url) not in LEDGERS
    ]
    if shards and captions:
        both = f"{file_name(shards[0])} and {file_name(captions[0])}, which is about images"
        raise ValueError(f"the data folder {folder} has both {both}: name the file that is meant, or keep one of them")
    if images and not shards:
        source: Source = ImageFolderSource(name, root, urls)
        return Opened(source, None if is_remote(folder) else Path(root), inside_only=True)
    if not shards:
        raise FileNotFoundError(nothing_in(folder, urls))
    opened = open_files(shards, name)
    return Opened(opened.source, None if opened.media_folder is None else local_path(folder), opened.inside_only)


def pinned_root(root: str, urls: list[str]) -> str:
    """Return the folder as the URLs of its files spell it (memory:///x for memory://x)."""
    if not urls or not is_remote(root) or urls[0].startswith(root + "/"):
        return root
    system, path = file_system(root)
    return system.unstrip_protocol(path).rstrip("/")


def nothing_in(folder: str, urls: list[str]) -> str:
    deeper = next((url for url in urls if url.lower().endswith(tuple(KINDS))), None)
    if deeper is not None:
        return (
            f"the data folder {folder} holds no {', '.join(KINDS)} file itself, but {deeper} is inside: name that "
            f"folder, or a pattern such as {folder}/*/*{posixpath.splitext(deeper)[1]}"
        )
    return f"the data folder {folder} holds no {' or '.join(KINDS)} file and no image"


def open_dataset(dataset: HubDataset) -> Opened:
    """Open the files of a split of a Hub dataset. Its records are not trusted."""
    files = dataset.files
    if any(map(is_image_file, files)):
        source: Source = ImageFolderSource(dataset.name, dataset.root, files)
    else:
        source = files_source(dataset.name, files)
    source.prefix = f"{dataset.name}/"
    facts = [dataset.repository, dataset.revision, dataset.config, dataset.split, source.fingerprint]
    source.fingerprint = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    source.remote, source.revision = is_remote(dataset.root), dataset.revision
    return Opened(source, None, inside_only=True, dataset=dataset.repository)
