"""What names documents → the reader of them: text files, folders, patterns and records, here or elsewhere, and
datasets of the Hub."""

from __future__ import annotations

import os
import posixpath
import re

from smol_hf.data.sources.files import (
    file_name,
    is_remote,
    labels_of,
    list_folder,
    local_path,
)
from smol_hf.data.sources.hub_dataset import HubDataset
from smol_hf.data.sources.location import (
    COMPRESSED,
    KINDS,
    Location,
    files_source,
    open_dataset,
    pinned_root,
    resolve_location,
)
from smol_hf.support.sample_lists import LEDGERS
from smol_hf.text.documents.document import CHUNK, Document, Documents
from smol_hf.text.documents.records import Records
from smol_hf.text.documents.texts import TextFiles

__all__ = ["CHUNK", "TEXT_KEY", "Document", "Documents", "open_documents", "unescaped"]

TEXT_KEY = "text"
ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}
RECORDS = (".jsonl", ".json", ".parquet")


def open_documents(
    location: str,
    *,
    text_key: str = TEXT_KEY,
    separator: str | None = None,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    download: bool = False,
) -> Documents:
    """The documents of what `location` names: a text file, a folder or pattern of them (one document each, whole
    sub-folders too), files of records (`.jsonl`, `.ndjson`, `.json`, `.parquet`), all of them here or under an address
    of fsspec, or a dataset of the Hub. A file of any other ending is text.

    Args:
        text_key: of records: the key or column whose string is the document.
        separator: of text files: what stands between two documents of a file.
        config, split, revision, download: of a dataset of the Hub; see `find_dataset`.

    Raises:
        FileNotFoundError: when there is none. ValueError: for text files beside records, and for keys that the data
            has no use for. SampleError: for data without any text, and a file that cannot be read as a whole.
    """
    if separator == "":
        raise ValueError("separator is empty: leave it out where a file is one document")
    named = resolve_location(location, config=config, split=split, revision=revision, download=download)
    if named.dataset is not None:
        return open_split(named.dataset, text_key, separator)
    location = named.path
    root, urls = files_of(named)
    name = file_name(location)
    records = [url for url in urls if is_records(url)]
    texts = [url for url in urls if not is_records(url) and not COMPRESSED.search(url)]
    if records and texts:
        raise ValueError(
            f"{location} holds text ({file_name(texts[0])}) and records ({file_name(records[0])}): name the ones that "
            f"are meant, by a folder of their own or by a pattern such as {name}/*{ending(records[0])}"
        )
    if not texts:
        refuse_separator(name, separator)
        source = files_source(name, urls)  # refuses archives, and several kinds
        source.remote = is_remote(location)
        return Records(source, text_key)
    return text_files(name, labels_under(root, urls), text_key, separator)


def open_split(dataset: HubDataset, text_key: str, separator: str | None) -> Documents:
    """The documents of a split of a dataset of the Hub, at its commit."""
    if any(is_records(url) or COMPRESSED.search(url) for url in dataset.files):
        refuse_separator(dataset.name, separator)
        return Records(open_dataset(dataset).source, text_key)
    labels = {url: f"{dataset.name}/{label}" for url, label in labels_of(dataset.files).items()}
    documents = text_files(dataset.name, labels, text_key, separator)
    documents.revision = dataset.revision
    return documents


def text_files(name: str, labels: dict[str, str], text_key: str, separator: str | None) -> TextFiles:
    if text_key != TEXT_KEY:
        raise ValueError(f"text_key belongs to records ({', '.join(RECORDS)}), and {name} is text")
    return TextFiles(name, labels, separator)


def refuse_separator(name: str, separator: str | None) -> None:
    if separator is not None:
        raise ValueError(f"separator belongs to text files, and {name} holds records: each of them is one document")


def unescaped(separator: str) -> str:
    r"""A separator as a shell passes it, where `\n`, `\r`, `\t` and `\\` stand for what they mean elsewhere."""
    return re.sub(r"\\([nrt\\])", lambda match: ESCAPES[match[1]], separator)


def is_records(url: str) -> bool:
    return ending(url).lower() in KINDS


def ending(url: str) -> str:
    return posixpath.splitext(file_name(url))[1]


def files_of(location: Location) -> tuple[str, list[str]]:
    """List (the common folder, files) of a folder or of files."""
    if not location.is_folder:
        urls = list(location.files)
        return posixpath.commonpath([posixpath.dirname(url) for url in urls]), urls
    root = location.path if is_remote(location.path) else os.path.realpath(local_path(location.path))
    urls = [url for url in list_folder(root) if file_name(url) not in LEDGERS]
    if not urls:
        raise FileNotFoundError(f"the data folder {location.path} holds no files")
    return pinned_root(root.rstrip("/"), urls), urls


def labels_under(root: str, urls: list[str]) -> dict[str, str]:
    """What each file is called: its name; of several, its path from the folder that all stand in, with that folder."""
    if len(urls) == 1:
        return {urls[0]: file_name(urls[0])}
    return {url: f"{file_name(root)}/{posixpath.relpath(url, root)}" for url in urls}
