"""A recipe's `data` → its source: local or remote files, patterns and folders, and Hub datasets."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
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
from smol_hf.data.sources.shard_records import (
    PREPARATION,
    SHARDS,
    describe_incomplete,
    incomplete_shards,
    read_preparation,
)
from smol_hf.data.sources.source import JoinedSource, Source
from smol_hf.data.sources.tar_source import TarSource
from smol_hf.support.sample_lists import LEDGERS


def open_json(kind: Callable[[str, str, str], Source], name: str, urls: list[str]) -> Source:
    labels = labels_of(urls)
    parts = for_each(lambda url: kind(name, url, labels[url]), sorted(urls))
    return parts[0] if len(parts) == 1 else JoinedSource(name, parts)


KINDS: dict[str, Callable[[str, list[str]], Source]] = {
    ".jsonl": partial(open_json, JsonLinesSource),
    ".ndjson": partial(open_json, JsonLinesSource),
    ".json": partial(open_json, JsonArraySource),
    ".parquet": ParquetSource,
    ".tar": TarSource,
}
TABLES = (".csv", ".tsv", ".xlsx", ".xls", ".ods")
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
    opened = open_folder(location) if location.is_folder else open_files(location.files, file_name(location.path))
    if is_remote(location.path):
        opened.source.remote = True
        return replace(opened, dataset=repository_of(location.path))
    return opened


@dataclass(frozen=True)
class Location:
    """A Hub dataset, a folder, or files (one, or those of a pattern).

    Attributes:
        path: the path or URL; for a Hub file, at the current commit.
        files: all files, of a folder also those in its subfolders.
        root: the start of their names, of a folder or a dataset.
    """

    path: str
    dataset: HubDataset | None = None
    is_folder: bool = False
    files: Sequence[str] = ()
    root: str = ""


def resolve_location(
    data: str, *, config: str | None, split: str | None, revision: str | None, download: bool
) -> Location:
    """Find out what `data` names. See `open_location` for the arguments and errors."""
    if (name := hub_id(data)) is not None:
        dataset = find_dataset(name, config, split, revision, download)
        return Location(data, dataset, files=dataset.files, root=dataset.root)
    refuse_dataset_keys(data, config=config, split=split, revision=revision, download=download)
    path = pinned(data)
    if not is_remote(path) and os.path.exists(local_path(path)):
        is_folder = local_path(path).is_dir()
    elif has_pattern(path):
        return Location(path, files=find_files(path))
    elif is_remote(path):
        system, inside = file_system(path)
        with reaching(path):
            is_folder = system.isdir(inside)
    else:
        advice = ": name a file, a folder, a pattern or a dataset of the Hub"
        if ID.fullmatch(path):
            advice = f"; a dataset of the Hub is also called {PREFIX}{path}"
        raise FileNotFoundError(f"the data file {path} does not exist{advice}")
    if not is_folder:
        return Location(path, files=[path])
    root = path.rstrip("/") if is_remote(path) else os.path.realpath(local_path(path))
    files = list_folder(root)
    if files and is_remote(root) and not files[0].startswith(root + "/"):  # memory:///x for memory://x
        system, inside = file_system(root)
        root = system.unstrip_protocol(inside).rstrip("/")
    return Location(path, is_folder=True, files=without_shard_records(path, root, files), root=root)


def without_shard_records(folder: str, root: str, files: list[str]) -> list[str]:
    """Return the files of a folder without the records of its shards, see `data/prepare/shards`.

    Raises:
        FileNotFoundError: if shards or their files are missing. SampleError: for a damaged record of all shards.
    """
    records = f"{root}/{SHARDS}/"
    if f"{records}{PREPARATION}" not in files:
        return files
    total = read_preparation(root)["shards"]
    if faults := incomplete_shards(root, {url.removeprefix(f"{root}/") for url in files}, total):
        raise FileNotFoundError(f"the data folder {folder} is incomplete: {describe_incomplete(faults, total)}")
    return [url for url in files if not url.startswith(records)]


def refuse_dataset_keys(data: str, **given: str | bool | None) -> None:
    """Raise ValueError for keys of a Hub dataset if `data` names files."""
    if useless := [key for key, value in given.items() if value not in (None, False)]:
        raise ValueError(f"{' and '.join(useless)} belong to a dataset of the Hub, and {data} names files")


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
    if kind in TABLES:
        example = f'load_dataset("csv", data_files="{file_name(urls[0])}", split="train").to_json("data.jsonl")'
        csv = f", such as by datasets.{example}" if kind == ".csv" else ""
        raise ValueError(f"{name} is a table of kind {kind}: convert it to JSON lines first{csv}")
    if kind not in KINDS and len(urls) == 1 and not is_remote(urls[0]):
        kind = ".jsonl"  # lines of JSON with any suffix
    if kind not in KINDS:
        raise ValueError(
            f"{name} holds {kind or 'files without an ending'}: the supported kinds are {', '.join(KINDS)}"
        )
    return KINDS[kind](name, urls)


def compressed(where: str) -> SampleError:
    return SampleError(where, "is compressed: uncompress it, since no record in it can be read without all before it")


def open_folder(location: Location) -> Opened:
    """Open a folder of shards of one kind, or of images."""
    folder, root, urls = location.path.rstrip("/") or "/", location.root, location.files
    name = file_name(root if file_name(folder) in (".", "..") else folder)
    images = {posixpath.splitext(url)[0] for url in urls if is_image_file(url)}
    captions = [
        url
        for url in urls
        if images and not is_image_file(url) and (is_metadata(url) or posixpath.splitext(url)[0] in images)
    ]
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
        source: Source = ImageFolderSource(name, root, list(urls))
        return Opened(source, None if is_remote(folder) else Path(root), inside_only=True)
    if not shards:
        raise FileNotFoundError(nothing_in(folder, urls))
    opened = open_files(shards, name)
    return opened if opened.media_folder is None else replace(opened, media_folder=local_path(folder))


def nothing_in(folder: str, urls: Sequence[str]) -> str:
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
