"""A location → the reader of its documents: text files, folders, patterns, records, and datasets of the Hub."""

from __future__ import annotations

import posixpath
import re

from smol_hf.data.sources.files import file_name, is_remote, labels_of
from smol_hf.data.sources.location import (
    COMPRESSED,
    KINDS,
    Location,
    files_source,
    open_dataset,
    resolve_location,
)
from smol_hf.support.sample_lists import LEDGERS
from smol_hf.text.documents.document import Documents
from smol_hf.text.documents.records import Records
from smol_hf.text.documents.texts import TextFiles

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
    """Open the documents of a location, here, at a URL of fsspec, or on the Hub.

    A location is a text file, a folder or a pattern of text files (one document each, with sub-folders), files of
    records (`.jsonl`, `.ndjson`, `.json`, `.parquet`), or a dataset of the Hub. A file with any other ending is text.

    Args:
        text_key: key or column of a record whose string is the document.
        separator: the text between two documents of a text file.
        config, split, revision, download: of a dataset of the Hub; see `find_dataset`.

    Raises:
        FileNotFoundError: if nothing is found.
        ValueError: for text files together with records, and for keys that do not apply to the data.
        SampleError: for data without text, and for an unreadable file.
    """
    if separator == "":
        raise ValueError("document_separator is empty: leave it out if a file is one document")
    named = resolve_location(location, config=config, split=split, revision=revision, download=download)
    dataset, name = named.dataset, named.dataset.name if named.dataset is not None else file_name(named.path)
    urls = [url for url in named.files if not named.is_folder or file_name(url) not in LEDGERS]
    if not urls:
        raise FileNotFoundError(f"the data folder {named.path} holds no files")
    records = [url for url in urls if is_records(url)]
    texts = [url for url in urls if not is_records(url) and not COMPRESSED.search(url)]
    if records and texts:
        raise ValueError(
            f"{location} holds text ({file_name(texts[0])}) and records ({file_name(records[0])}): choose one of "
            f"them by a folder or by a pattern such as {file_name(location)}/*{ending(records[0])}"
        )
    if texts:
        if text_key != TEXT_KEY:
            raise ValueError(f"text_key is for records ({', '.join(RECORDS)}), but {name} is text: remove it")
        documents = TextFiles(name, text_labels(named, urls), separator)
        documents.revision = dataset.revision if dataset is not None else None
        return documents
    if separator is not None:
        raise ValueError(
            f"document_separator is for text files, but {name} holds records, one document each: remove it"
        )
    if dataset is not None:
        return Records(open_dataset(dataset).source, text_key)
    source = files_source(name, urls)  # refuses archives, and several kinds
    source.remote = is_remote(named.path)
    return Records(source, text_key)


def text_labels(location: Location, urls: list[str]) -> dict[str, str]:
    """Name each file by its name; of several files, by the path from their common folder, with that folder."""
    if location.dataset is not None:
        return {url: f"{location.dataset.name}/{label}" for url, label in labels_of(urls).items()}
    if len(urls) == 1:
        return {urls[0]: file_name(urls[0])}
    root = location.root or posixpath.commonpath([posixpath.dirname(url) for url in urls])
    return {url: f"{file_name(root)}/{posixpath.relpath(url, root)}" for url in urls}


def unescaped(separator: str) -> str:
    r"""Replace the escapes `\n`, `\r`, `\t` and `\\` in a separator from the command line."""
    return re.sub(r"\\([nrt\\])", lambda match: ESCAPES[match[1]], separator)


def is_records(url: str) -> bool:
    return ending(url).lower() in KINDS


def ending(url: str) -> str:
    return posixpath.splitext(file_name(url))[1]
