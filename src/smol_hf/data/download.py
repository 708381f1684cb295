"""Files of the Hub and of the web → a folder: resumed where it broke off, and verified.

A file gets its name only once it is whole and its hash is right, so whatever has a name is done, and a second call
does not fetch it again. What is not whole yet is called `.partial` and is gone on with. (huggingface_hub's own
download begins a file anew after a kill; its `http_get` can go on, and is used here.)
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from huggingface_hub import hf_hub_download, hf_hub_url
from huggingface_hub.constants import MAX_HTTP_DOWNLOAD_SIZE
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from smol_hf.data.addresses import FetchError
from smol_hf.data.archive_names import parts_of
from smol_hf.data.archives import extract_archive, is_archive
from smol_hf.data.download_plan import (
    LEDGER,
    STALL,
    Download,
    DownloadError,
    RemoteFile,
    extracted_folder,
    hosts_of,
    read_ledger,
)
from smol_hf.data.fetching import Clock, ask, chunks

WORKERS = 8
CHUNK = 1 << 20
ATTEMPTS = 5


def fetch_all(download: Download, say: Callable[[str], None] = lambda line: None) -> int:
    """Fetch what is missing. Returns the number of files that were.

    Raises:
        DownloadError: when a file has not the size or hash that was announced; its bytes are thrown away.
    """
    missing = download.missing()
    done = read_ledger(download.folder)
    download.folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(WORKERS) as pool:
        for file in pool.map(lambda file: fetch_file(download, file), missing):
            done[file.name] = file.identity
            write_ledger(download.folder, done)
            say(f"{download.name}: {file.name}")
    return len(missing)


def fetch_file(download: Download, file: RemoteFile) -> RemoteFile:
    path = download.folder.joinpath(*parts_of(file.name))
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = hashlib.sha256(f"{download.name} {file.identity}".encode()).hexdigest()[:12]
    partial = path.with_name(f".{path.name}.{mark}.partial")
    if download.revision is None:
        fetch_address(download.name, partial)
    elif (file.size or 0) > MAX_HTTP_DOWNLOAD_SIZE:  # which the Hub gives away in parts only
        name = {"filename": file.name, "revision": download.revision, "local_dir": partial.with_suffix(".large")}
        os.replace(hf_hub_download(download.name, repo_type="dataset", **name), partial)
        shutil.rmtree(name["local_dir"])
    else:
        url = hf_hub_url(download.name, file.name, repo_type="dataset", revision=download.revision)
        with partial.open("ab") as target:
            http_get(url, target, resume_size=target.tell(), headers=build_hf_headers(), expected_size=file.size)
    verify(partial, file)
    os.replace(partial, path)
    return file


def fetch_address(url: str, partial: Path) -> None:
    """Go on with a file of the web, if it is still the same there; else begin it anew."""
    tag = partial.with_suffix(".tag")
    for attempt in range(1, ATTEMPTS + 1):
        have = partial.stat().st_size if partial.exists() else 0
        headers = {"Range": f"bytes={have}-", "If-Range": tag.read_text()} if have and tag.exists() else {}
        try:
            with ask(url, hosts_of(url), Clock(stall=STALL), headers=headers, statuses=(200, 206)) as answer:
                goes_on = answer.status == 206
                if goes_on and not (answer.getheader("Content-Range") or "").startswith(f"bytes {have}-"):
                    raise DownloadError(f"{url}: the server sent another part than the one that was asked for")
                if (etag := answer.getheader("ETag")) and not etag.startswith("W/"):
                    tag.write_text(etag)
                else:
                    tag.unlink(missing_ok=True)
                with partial.open("ab" if goes_on else "wb") as target:
                    for piece in chunks(answer):
                        target.write(piece)
            tag.unlink(missing_ok=True)
            return
        except FetchError as error:
            if attempt == ATTEMPTS:
                raise DownloadError(f"{url}: {error}; call it again to go on") from error


def verify(partial: Path, file: RemoteFile) -> None:
    size = partial.stat().st_size
    problem = f"{size:,} bytes instead of {file.size:,}" if file.size is not None and size != file.size else None
    if problem is None and (file.sha256 or file.blob_id):
        digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % size)
        with partial.open("rb") as content:
            while piece := content.read(CHUNK):
                digest.update(piece)
        if digest.hexdigest() != (file.sha256 or file.blob_id):
            problem = f"the hash {digest.hexdigest()[:12]}… instead of {(file.sha256 or file.blob_id)[:12]}…"
    if problem is not None:
        partial.unlink()
        raise DownloadError(f"{file.name} came with {problem}: call it again")


def extract_all(download: Download, say: Callable[[str], None] = lambda line: None) -> int:
    """Extract the archives among the files beside themselves, each into a folder of its name. Returns how many.

    Raises:
        ArchiveError: see `extract_archive`.
    """
    extracted = 0
    for file in download.files:
        folder = extracted_folder(download, file)
        if is_archive(file.name) and not folder.exists():
            number = extract_archive(download.folder.joinpath(*parts_of(file.name)), folder)
            say(f"{download.name}: {number:,} files from {file.name}")
            extracted += 1
    return extracted


def write_ledger(folder: Path, done: dict[str, str]) -> None:
    new = folder / f"{LEDGER}.new"
    new.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(new, folder / LEDGER)
