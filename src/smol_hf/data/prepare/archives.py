"""Extract tar and zip archives into a new folder, completely or not at all.

`tarfile` (with its filter "data") and `zipfile` do the work. This module adds three rules: only files and folders are
extracted, a member that leads out of the folder is an error, and the unpacked size is limited.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow

from smol_hf.support.atomic import atomic_folder

SUFFIXES = (
    ".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst",
)  # fmt: skip
CHUNK = 1 << 20
ALWAYS_ALLOWED = 1 << 26  # unpacked bytes that any archive may have
LARGEST_RATIO = 200  # unpacked bytes for each byte of a larger archive
FREE_BYTES = 1 << 30  # that stay free on the disk
OPENERS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": lambda file: pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd"),
}
DAMAGE = (
    OSError, EOFError, ValueError, NotImplementedError, RuntimeError, LookupError, OverflowError, tarfile.TarError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, pyarrow.ArrowException,
)  # fmt: skip


class ArchiveError(ValueError):
    """An archive that is not extracted. The message names it, and says why."""


def is_archive(path: str | Path) -> bool:
    """Return whether the name is that of an archive."""
    return str(path).lower().endswith(SUFFIXES)


def stem_of(path: Path) -> str:
    """Return the name without its suffixes: `photos.tar.gz` → `photos`."""
    suffix = max((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), key=len, default="")
    return path.name[: len(path.name) - len(suffix)] or path.name


def extract_archive(archive: Path, output: Path) -> int:
    """Extract a tar (plain, gzip, bzip2, xz, zstd) or zip into a new folder. Returns the number of files.

    Raises:
        FileExistsError: when `output` exists. FileNotFoundError: when the archive does not.
        ArchiveError: for a damaged or truncated archive, a link, a device, a member outside the folder, and too many
            unpacked bytes. Nothing is kept then.
    """
    archive, output = Path(archive), Path(output)
    if output.exists():
        raise FileExistsError(f"{output} exists already: delete it to extract {archive.name} again")
    if not archive.is_file():
        raise FileNotFoundError(f"the archive {archive} does not exist")
    with atomic_folder(output) as folder:
        limit = max(ALWAYS_ALLOWED, LARGEST_RATIO * archive.stat().st_size)
        limit = max(min(limit, shutil.disk_usage(folder).free - FREE_BYTES), 0)
        try:
            with archive.open("rb") as file:
                extract = extract_zip if file.read(2) == b"PK" else extract_tar
                file.seek(0)
                return extract(file, folder, limit)
        except ArchiveError as error:
            raise ArchiveError(f"{archive.name}: {error}") from error
        except DAMAGE as error:
            reason = str(error) or type(error).__name__
            raise ArchiveError(
                f"{archive.name} cannot be extracted, it may be damaged or no archive: {reason}"
            ) from error


def extract_tar(file: BinaryIO, folder: Path, limit: int) -> int:
    """Extract a tar whose stream has at most `limit` bytes. Returns the number of files."""
    beginning = file.read(8)
    file.seek(0)
    opener = next((opener for magic, opener in OPENERS.items() if beginning.startswith(magic)), None)
    stream = LimitedReader(file if opener is None else opener(file), limit)
    files = 0
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=StrictTarInfo) as tar:
        for member in tar:
            tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  frees memory; missing in typeshed
            check_member(member.name, folder, is_plain=member.isreg() or member.isdir())
            if member.issparse():  # its holes are not in the stream, whose bytes are limited
                raise ArchiveError(f"the member {member.name!r} is a sparse file: write it without holes")
            tar.extract(member, folder, filter="data")
            files += member.isreg()
    while stream.read(CHUNK):
        pass  # the checksum of a compressed file is at its end
    return files


def extract_zip(file: BinaryIO, folder: Path, limit: int) -> int:
    """Extract a zip whose members have at most `limit` bytes together. Returns the number of files."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > limit:  # zipfile reads no more than this of each
            raise too_large(limit)
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            check_member(member.filename, folder, is_plain=kind in (0, stat.S_IFREG, stat.S_IFDIR))
            archive.extract(member, folder)
    return sum(not member.is_dir() for member in members)


def check_member(name: str, folder: Path, *, is_plain: bool) -> None:
    """Raise ArchiveError for a link, a device, and a path that is absolute or leads out of the folder."""
    if not is_plain:
        raise ArchiveError(f"the member {name!r} is a link or a device: only files and folders are extracted")
    if os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == os.pardir:
        raise ArchiveError(f"the member {name!r} leads out of the folder")


def too_large(limit: int) -> ArchiveError:
    return ArchiveError(
        f"it unpacks to more than {limit:,} bytes: the limit is {LARGEST_RATIO} times its size (64 MiB for a small "
        "one), and 1 GiB of the disk stays free"
    )


class LimitedReader(io.RawIOBase):
    """A stream that raises ArchiveError after `limit` bytes."""

    def __init__(self, file: BinaryIO, limit: int):
        self.file, self.limit, self.count = file, limit, 0

    def read(self, size: int = -1) -> bytes:
        piece = self.file.read(size)
        self.count += len(piece)
        if self.count > self.limit:
            raise too_large(self.limit)
        return piece


class StrictTarInfo(tarfile.TarInfo):
    """A member whose damaged header is an error. `tarfile` takes it for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tar):
        try:
            return super().fromtarfile(tar)
        except tarfile.HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":  # the end mark; the class is missing in typeshed
                raise
            raise tarfile.ReadError(f"{error} after {tar.offset:,} bytes") from error
