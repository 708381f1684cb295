"""What a download will bring, known before it starts: files, sizes, hashes, licences, gates, room on the disk."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from huggingface_hub import HfApi
from huggingface_hub.utils import filter_repo_objects

from smol_hf.data.addresses import AllowedHosts, FetchError, parse_address
from smol_hf.data.archive_names import ArchiveError, parts_of
from smol_hf.data.archives import is_archive, stem_of
from smol_hf.data.fetching import Clock, ask
from smol_hf.data.hub_dataset import hub_errors

LARGE = 50_000_000_000  # bytes that are not downloaded without a question
MARGIN = 1.05
EXTRACTED = 1.5  # room for what comes out of an archive, for each of its bytes: pictures hardly compress
STALL = 60.0
LEDGER = ".downloaded.json"


class DownloadError(ValueError):
    """A download that cannot begin, or whose result is not what was announced."""


@dataclass(frozen=True)
class RemoteFile:
    """`sha256` is that of the content; `blob_id` git's, of small files."""

    name: str
    size: int | None
    sha256: str | None = None
    blob_id: str | None = None

    @property
    def identity(self) -> str:
        return self.sha256 or self.blob_id or f"size {self.size}"


@dataclass(frozen=True)
class Download:
    """What is to be fetched from one place, into `folder`."""

    name: str
    folder: Path
    files: tuple[RemoteFile, ...]
    licence: str | None = None
    gated: bool = False
    revision: str | None = None  # of a dataset of the Hub; None: `name` is an address

    @property
    def size(self) -> int:
        return sum(file.size or 0 for file in self.files)

    def missing(self) -> list[RemoteFile]:
        done = read_ledger(self.folder)
        return [file for file in self.files if not is_done(self.folder, file, done)]


def look_at_dataset(
    dataset: str,
    output: Path,
    *,
    config: str | None = None,
    revision: str | None = None,
    include: Sequence[str] | None = None,
) -> Download:
    """Sizes, hashes, licence and access of a dataset on the Hub. Nothing is downloaded.

    Raises:
        FileNotFoundError, PermissionError, ConnectionError: see `hub_errors`. DownloadError: for a config or a pattern
            that there is not.
    """
    api = HfApi()
    with hub_errors(dataset, revision):
        info = api.dataset_info(dataset, revision=revision, files_metadata=True)
        if info.gated:
            api.auth_check(dataset, repo_type="dataset")
    files = [remote_file(sibling) for sibling in info.siblings or []]
    card = info.card_data.to_dict() if info.card_data is not None else {}
    for patterns in (config_patterns(dataset, config, card, files), list(include or [])):
        kept = set(filter_repo_objects([file.name for file in files], allow_patterns=patterns or None))
        files = [file for file in files if file.name in kept]
        if not files:
            raise DownloadError(f"{dataset} has no file {' or '.join(patterns)}".rstrip())
    licence = card.get("license")
    licence = ", ".join(licence) if isinstance(licence, list) else licence
    return Download(dataset, output / dataset, tuple(files), licence, bool(info.gated), info.sha)


def remote_file(sibling) -> RemoteFile:
    try:
        parts_of(sibling.rfilename)
    except ArchiveError as error:
        raise DownloadError(f"the file {sibling.rfilename!r} is not downloaded: {error}") from error
    sha256 = sibling.lfs.sha256 if sibling.lfs is not None else None
    return RemoteFile(sibling.rfilename, sibling.size, sha256, None if sha256 else sibling.blob_id)


def config_patterns(dataset: str, config: str | None, card: dict, files: list[RemoteFile]) -> list[str]:
    """The files of a config, as its card lists them, or in the folder of its name."""
    if config is None:
        return []
    known = {entry.get("config_name"): entry.get("data_files") for entry in card.get("configs") or []}
    if known.get(config):
        listed = known[config] if isinstance(known[config], list) else [known[config]]
        paths = [entry["path"] if isinstance(entry, dict) else entry for entry in listed]
        return [path for each in paths for path in (each if isinstance(each, list) else [each])]
    folders = {file.name.split("/")[0] for file in files if "/" in file.name}
    if config in folders:
        return [f"{config}/*"]
    raise DownloadError(
        f"{dataset} has no config {config!r}; it has {', '.join(sorted({*map(str, known), *folders}))}"
    )


def look_at_address(url: str, output: Path) -> Download:
    """The name and size of a file of the web. Raises DownloadError."""
    try:
        with ask(url, hosts_of(url), Clock(stall=STALL)) as answer:
            size = answer.length
    except FetchError as error:
        raise DownloadError(f"{url}: {error}") from error
    name = unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2]
    try:
        parts = parts_of(name)
    except ArchiveError as error:
        raise DownloadError(f"{url}: {name!r} cannot be the name of a file: {error}") from error
    if not parts:
        raise DownloadError(f"{url} names no file: give the address of one")
    return Download(url, output, (RemoteFile(name, size),))


def hosts_of(url: str) -> AllowedHosts:
    """Any public host may be redirected to; another only if it is what the user typed."""
    target = parse_address(url)
    host = f"[{target.host}]" if ":" in target.host else target.host
    return AllowedHosts(("*", f"{host}:{target.port}"))


def needed_bytes(downloads: Iterable[Download], *, extract: bool) -> int:
    """Room for what is missing, and for what its archives hold."""
    needed = 0.0
    for download in downloads:
        for file in download.missing():
            needed += file.size or 0
        for file in download.files:
            if extract and is_archive(file.name) and not extracted_folder(download, file).exists():
                needed += EXTRACTED * (file.size or 0)
    return int(needed * MARGIN)


def refuse_full_disk(downloads: Sequence[Download], output: Path, *, extract: bool) -> None:
    """Raises DownloadError when there is no room."""
    place = output.absolute()
    while not place.exists():
        place = place.parent
    free, needed = shutil.disk_usage(place).free, needed_bytes(downloads, extract=extract)
    if needed > free:
        raise DownloadError(
            f"{needed / 1e9:,.1f} GB are needed at {output}, and {free / 1e9:,.1f} GB are free: choose another disk, "
            "or fewer files with --include"
        )


def doubts(downloads: Sequence[Download]) -> list[str]:
    """What a person should agree to before it starts."""
    found = []
    for download in downloads:
        licence = (download.licence or "unknown").lower()
        if licence in ("unknown", "other"):
            found.append(f"{download.name} has a licence that is not known ({licence})")
        elif re.search(r"(^|[-, ])nc($|[-, ])|non-?commercial", licence):
            found.append(f"{download.name} must not be used commercially ({download.licence})")
    missing = sum(file.size or 0 for download in downloads for file in download.missing())
    if missing > LARGE:
        found.append(f"{missing / 1e9:,.0f} GB are to be downloaded")
    return found


def is_done(folder: Path, file: RemoteFile, done: dict[str, str]) -> bool:
    path = folder.joinpath(*parts_of(file.name))
    same_size = path.is_file() and (file.size is None or path.stat().st_size == file.size)
    return same_size and done.get(file.name) == file.identity


def read_ledger(folder: Path) -> dict[str, str]:
    """Which files are there, by name, and what they are."""
    path = folder / LEDGER
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def extracted_folder(download: Download, file: RemoteFile) -> Path:
    path = download.folder.joinpath(*parts_of(file.name))
    return path.with_name(stem_of(path))
