"""Download datasets of the Hub and files of the web into a folder: first a plan, then the files, then their archives.

`huggingface_hub` downloads, skips complete files and begins interrupted ones again. Its `snapshot_download` compares
only sizes, so this module compares the hashes of new files.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import filter_repo_objects, get_session

from smol_hf.data.prepare.archives import extract_archive, is_archive, stem_of
from smol_hf.data.sources.files import HTTPError, free_bytes
from smol_hf.data.sources.hub_dataset import hub_errors
from smol_hf.support.hashing import git_hash, hash_file

LARGE = 50_000_000_000  # bytes that are not downloaded without a question
MARGIN = 1.05
EXTRACTED = 1.5  # bytes unpacked for each byte of an archive: images hardly compress
TIMEOUT = 60.0  # seconds without an answer
PLAIN = {"Accept-Encoding": "identity"}  # sizes and ranges are those of the file


class DownloadError(ValueError):
    """A download that cannot start, or a file that differs from its announced size or hash."""


@dataclass(frozen=True)
class PlannedFile:
    """`sha256` is that of the content; `blob_id` git's, of small files."""

    name: str
    size: int | None
    sha256: str | None = None
    blob_id: str | None = None

    def check(self, path: Path) -> None:
        """Raise DownloadError for a missing file, and for another hash than the Hub announced; it is deleted then."""
        if not path.is_file():  # the Hub was not reached again
            raise DownloadError(f"{self.name} was not downloaded: call it again")
        found, expected = (hash_file(path), self.sha256) if self.sha256 else (git_hash(path), self.blob_id)
        if expected and found != expected:
            path.unlink()
            raise DownloadError(f"{self.name} has the hash {found[:12]}… instead of {expected[:12]}…: call it again")


@dataclass(frozen=True)
class Download:
    """The files of one dataset, or one file of the web, and the `folder` that they go to."""

    name: str
    folder: Path
    files: tuple[PlannedFile, ...]
    missing: tuple[PlannedFile, ...]
    licence: str | None = None
    gated: bool = False
    revision: str | None = None  # the commit of a dataset of the Hub; None: `name` is a URL
    patterns: list[str] | None = None  # of the files of a dataset; None: all
    version: str | None = None  # of a file of the web, by which an interrupted download may go on

    @property
    def size(self) -> int:
        return sum(file.size or 0 for file in self.files)

    @property
    def missing_size(self) -> int:
        return sum(file.size or 0 for file in self.missing)

    def archives(self) -> list[tuple[Path, Path]]:
        """List (archive, folder to extract it to) of the archives that are not extracted yet."""
        paths = [self.folder / file.name for file in self.files if is_archive(file.name)]
        return [(path, path.with_name(stem_of(path))) for path in paths if not path.with_name(stem_of(path)).exists()]


def plan_dataset(
    dataset: str,
    output: Path,
    *,
    config: str | None = None,
    revision: str | None = None,
    include: Sequence[str] | None = None,
) -> Download:
    """Ask for the files, licence and access of a dataset on the Hub. Nothing is downloaded.

    Raises:
        FileNotFoundError, PermissionError, ConnectionError: see `hub_errors`.
        DownloadError: for an unknown config, a pattern without a file, and a file that leads out of the folder.
    """
    api = HfApi()
    with hub_errors(dataset, revision):
        info = api.dataset_info(dataset, revision=revision, files_metadata=True)
        if info.gated:
            api.auth_check(dataset, repo_type="dataset")
    files = {sibling.rfilename: remote_file(sibling) for sibling in info.siblings or []}
    card = info.card_data.to_dict() if info.card_data is not None else {}
    chosen = [
        patterns for patterns in (config_patterns(dataset, config, card, files), list(include or [])) if patterns
    ]
    for patterns in chosen:
        files = {name: files[name] for name in filter_repo_objects(files, allow_patterns=patterns)}
        if not files:
            raise DownloadError(f"{dataset} has no file {' or '.join(patterns)}")
    if not files:
        raise DownloadError(f"{dataset} has no file")
    # One list of patterns is enough, unless a file must match one of each of two lists.
    patterns = chosen[0] if len(chosen) == 1 else [glob.escape(name) for name in files] if chosen else None
    folder, missing = output / dataset, set(files)
    if folder.exists():  # otherwise a dry run would create it
        with hub_errors(dataset, revision):
            found = snapshot_download(dry_run=True, **snapshot(dataset, info.sha, folder, patterns))
        missing = {file.filename for file in found if file.will_download}
    licence = card.get("license")
    licence = ", ".join(licence) if isinstance(licence, list) else licence
    return Download(
        dataset,
        folder,
        tuple(files.values()),
        tuple(file for name, file in files.items() if name in missing),
        licence,
        bool(info.gated),
        info.sha,
        patterns,
    )


def snapshot(dataset: str, commit: str | None, folder: Path, patterns: list[str] | None) -> dict:
    """Return the arguments of `snapshot_download`."""
    return {"repo_id": dataset, "repo_type": "dataset", "revision": commit, "local_dir": folder,
            "allow_patterns": patterns}  # fmt: skip


def remote_file(sibling) -> PlannedFile:
    name = sibling.rfilename
    if os.path.isabs(name) or ".." in name.split("/"):
        raise DownloadError(f"the file {name!r} is not downloaded: its path leads out of the folder")
    sha256 = sibling.lfs.sha256 if sibling.lfs is not None else None
    return PlannedFile(name, sibling.size, sha256, None if sha256 else sibling.blob_id)


def config_patterns(dataset: str, config: str | None, card: dict, names: Iterable[str]) -> list[str]:
    """List the patterns of a config's files: those of its card, or the folder of its name."""
    if config is None:
        return []
    known = {entry.get("config_name"): entry.get("data_files") for entry in card.get("configs") or []}
    if known.get(config):
        listed = known[config] if isinstance(known[config], list) else [known[config]]
        paths = [entry["path"] if isinstance(entry, dict) else entry for entry in listed]
        return [path for each in paths for path in (each if isinstance(each, list) else [each])]
    folders = {name.split("/")[0] for name in names if "/" in name}
    if config in folders:
        return [f"{config}/*"]
    raise DownloadError(
        f"{dataset} has no config {config!r}; it has {', '.join(sorted({*map(str, known), *folders}))}"
    )


def plan_url(url: str, output: Path) -> Download:
    """Ask for the size of a file of the web. Raises DownloadError."""
    name = unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2]
    if urlsplit(url).scheme not in ("http", "https") or name in ("", ".", "..") or "/" in name or "\0" in name:
        raise DownloadError(f"{url} names no file: give an http or https URL that ends with the name of one")
    try:
        with get_session().stream("GET", url, headers=PLAIN, follow_redirects=True, timeout=TIMEOUT) as answer:
            answer.raise_for_status()
            length = answer.headers.get("Content-Length")
            version = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
    except (HTTPError, OSError) as error:
        raise DownloadError(f"{url} cannot be downloaded: {error}") from error
    file = PlannedFile(name, int(length) if length is not None else None)
    path = output / name
    complete = path.is_file() and file.size in (None, path.stat().st_size)
    return Download(url, output, (file,), () if complete else (file,), version=version)


def download_all(download: Download, say: Callable[[str], None] = lambda line: None) -> None:
    """Download the missing files.

    Raises:
        DownloadError: for a file of another size or hash than announced, and for a server that does not answer.
    """
    if download.revision is None:
        download_url(download)
    elif download.missing:
        with hub_errors(download.name, download.revision):
            snapshot_download(**snapshot(download.name, download.revision, download.folder, download.patterns))
        for file in download.missing:
            file.check(download.folder / file.name)
    for file in download.missing:
        say(f"{download.name}: {file.name}")


def download_url(download: Download) -> None:
    """Download a file of the web, from where an earlier call of the same version was interrupted."""
    for file in download.missing:
        path = download.folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        mark = hashlib.sha256(f"{download.name} {download.version} {file.size}".encode()).hexdigest()[:12]
        partial = path.with_name(f".{file.name}.{mark}.partial")
        if download.version is None:
            partial.unlink(missing_ok=True)  # it may be another file now
        try:
            with partial.open("ab") as target:
                http_get(download.name, target, resume_size=target.tell(), headers=PLAIN, expected_size=file.size)
        except (HTTPError, OSError) as error:
            raise DownloadError(f"{download.name}: {error}; call it again to go on") from error
        os.replace(partial, path)


def extract_all(download: Download, say: Callable[[str], None] = lambda line: None) -> int:
    """Extract the archives, each into a folder of its name next to it. Returns the number of archives.

    Raises:
        ArchiveError: see `extract_archive`.
    """
    archives = download.archives()
    for archive, folder in archives:
        number = extract_archive(archive, folder)
        say(f"{download.name}: {number:,} files from {archive.relative_to(download.folder).as_posix()}")
    return len(archives)


def needed_bytes(downloads: Iterable[Download], *, extract: bool) -> int:
    """Estimate the bytes of the missing files and of what their archives unpack to."""
    needed = 0.0
    for download in downloads:
        sizes = {download.folder / file.name: file.size or 0 for file in download.files}
        needed += download.missing_size
        needed += EXTRACTED * sum(sizes[archive] for archive, _ in download.archives()) if extract else 0
    return int(needed * MARGIN)


def refuse_full_disk(downloads: Sequence[Download], output: Path, *, extract: bool) -> None:
    """Raise DownloadError for too little free space."""
    free, needed = free_bytes(output), needed_bytes(downloads, extract=extract)
    if needed > free:
        raise DownloadError(
            f"{needed / 1e9:,.1f} GB are needed at {output}, and {free / 1e9:,.1f} GB are free: choose another disk, "
            "or fewer files with --include"
        )


def doubts(downloads: Sequence[Download]) -> list[str]:
    """List the facts that a person should confirm before the download starts."""
    found = []
    for download in downloads:
        licence = (download.licence or "unknown").lower()
        if licence in ("unknown", "other"):
            found.append(f"{download.name} has a licence that is not known ({licence})")
        elif re.search(r"(^|[-, ])nc($|[-, ])|non-?commercial", licence):
            found.append(f"{download.name} must not be used commercially ({download.licence})")
    missing = sum(download.missing_size for download in downloads)
    if missing > LARGE:
        found.append(f"{missing / 1e9:,.0f} GB are to be downloaded")
    return found
