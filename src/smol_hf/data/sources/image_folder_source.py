"""A folder of images with captions, in one metadata file or in a file for each image.

`metadata.jsonl`, `metadata.csv` or `metadata.parquet` has a row for each sample. Its `file_name` (or `file_names`) is
the path of the image from the metadata's folder, as in `datasets`. Otherwise `cat.txt` contains the caption of
`cat.jpg`, or `cat.json` its record.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import posixpath
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet

from smol_hf.data.conversation import SampleError
from smol_hf.data.sources.files import file_name, is_remote, local_path, open_file, remote_fingerprint
from smol_hf.data.sources.json_source import parse_line
from smol_hf.data.sources.members import IMAGE_SUFFIXES, TEXTS, in_order, put_media, record_of
from smol_hf.data.sources.parquet_source import rows_of
from smol_hf.data.sources.source import Source
from smol_hf.support.hashing import hash_file

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


def is_image_file(url: str) -> bool:
    return url.lower().endswith(IMAGE_SUFFIXES)


def is_metadata(url: str) -> bool:
    return file_name(url) in METADATA


class ImageRow(NamedTuple):
    """Paths of a sample's images in the folder, with their text files or the metadata's record."""

    images: list[str]
    texts: Sequence[str] = ()
    record: dict[str, Any] | None = None


class ImageFolderSource(Source):
    """One row for each row of the metadata files, or for each image with its texts.

    An image without a text is a row too: its record is a `SampleError`. Records name local images by their path from
    the folder, and contain the bytes of remote ones.

    Args:
        root: the folder.
        urls: all files in it and its subfolders.

    Raises:
        SampleError: for a metadata file that cannot be read or names no files.
    """

    rows_anywhere = True

    def __init__(self, name: str, root: str, urls: list[str]):
        self.name, self.root, self.files = name, root.rstrip("/"), urls
        self.images = {self.inside(url): url for url in sorted(urls, key=in_order) if is_image_file(url)}
        self.texts = {self.inside(url): url for url in urls if url.lower().endswith(TEXTS)}
        self.rows: list[tuple[str, ImageRow | SampleError]] = []
        described = sorted(url for url in urls if is_metadata(url))
        if described:
            self.take_metadata(described)
        else:
            self.take_text_files()
        self.block_sizes = np.ones(len(self.rows), dtype=np.int64)
        files = [*self.images.items(), *(self.texts.items() if not described else [])]
        facts = [[inside, *self.facts(url)] for inside, url in files]
        self.fingerprint = hashlib.sha256(json.dumps([self.rows, facts], default=str).encode()).hexdigest()

    def inside(self, url: str) -> str:
        """Return the path of a file from the folder."""
        return url.removeprefix(self.root).lstrip("/")

    def facts(self, url: str) -> list[Any]:
        if is_remote(url):
            return remote_fingerprint(url)
        path = local_path(url)
        return [path.stat().st_size if is_image_file(url) else hash_file(path)]

    def take_metadata(self, urls: list[str]) -> None:
        named = set()
        for url in urls:
            for number, record in enumerate(metadata_rows(url, self.inside(url)), start=1):
                if record is None:
                    continue
                where = f"{self.inside(url)}:{number}"
                try:
                    row = self.with_paths(record, posixpath.dirname(self.inside(url)), where)
                    named.update(row.images)
                except SampleError as fault:
                    row = fault
                self.rows.append((where, row))
        for image in self.images:
            if image not in named:
                problem = f"no row of {' or '.join(map(self.inside, urls))} names this image: add its caption there"
                self.rows.append((image, SampleError(image, problem)))

    def with_paths(self, record: Any, folder: str, where: str) -> ImageRow:
        """Return the record, with the paths of its images from the root."""
        if isinstance(record, SampleError):
            raise record
        names = record.get("file_names", record.get("file_name")) if isinstance(record, dict) else None
        listed: list[Any] = names if isinstance(names, list) else [names]
        if not listed or not all(isinstance(name, str) and name for name in listed):
            raise SampleError(where, "lacks the field 'file_name' with the path of its image")
        paths = [posixpath.normpath(posixpath.join(folder, name)) for name in listed]
        for name, path in zip(listed, paths):
            if path not in self.images:
                raise SampleError(where, f"names the image {name}, which is not in the folder")
        rest = {key: value for key, value in record.items() if key not in ("file_name", "file_names")}
        return ImageRow(paths, record=rest)

    def take_text_files(self) -> None:
        by_stem: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
        for kind, names in enumerate((self.images, self.texts)):
            for name in names:
                by_stem[posixpath.splitext(name)[0]][kind].append(name)
        for stem, (images, texts) in by_stem.items():
            if len(images) == 1 and texts:
                self.rows.append((images[0], ImageRow(images, sorted(texts))))
                continue
            if not images:
                problem = "no image has this name: add it, or delete the text"
            elif texts:
                problem = f"{' and '.join(images)} share one text: give each another name"
            else:
                problem = f"has no caption: write it into {stem}.txt, or its record into {stem}.json"
            self.rows += [(name, SampleError(name, problem)) for name in images or texts]

    def read_block(self, block: int) -> list[tuple[str, Any]]:
        where, row = self.rows[block]
        where = f"{self.prefix}{where}"
        if isinstance(row, SampleError):
            return [(where, SampleError(where, row.problem))]
        try:
            media = {image: self.media(image) for image in row.images}
            if row.record is None:
                texts = {text: self.content(self.texts[text]) for text in row.texts}
                return [(where, record_of(texts, media, where))]
            record = dict(row.record)
            put_media(record, "image", media, where)
            return [(where, record)]
        except SampleError as fault:
            return [(where, fault)]

    def media(self, image: str) -> Any:
        """Return the path of a local image; {"bytes", "path"} of a remote one."""
        url = self.images[image]
        return {"bytes": self.content(url), "path": image} if is_remote(url) else image

    def content(self, url: str) -> bytes:
        with open_file(url) as file:
            return file.read()


def metadata_rows(url: str, name: str) -> list[Any]:
    """Return the records of a metadata file; of JSON lines, None for a blank and an error for a damaged one."""
    with open_file(url, ahead=True) as file:
        content = file.read()
    if url.endswith(".jsonl"):
        return [parse_line(line, f"{name}:{number}") for number, line in enumerate(content.split(b"\n"), start=1)]
    try:
        if url.endswith(".parquet"):
            return rows_of(pyarrow.parquet.read_table(pyarrow.BufferReader(content)))
        # pyarrow's reader would convert a caption that looks like a number.
        return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True))
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, csv.Error) as error:
        raise SampleError(name, f"cannot be read: {error}") from error
