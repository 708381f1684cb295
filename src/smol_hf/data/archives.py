"""Archives of strangers → a folder, wholly or not at all.

Only files and folders come out, with the rights of new files: no links, no devices. (tarfile's own filter lets links
inside pass, and neither counts what comes out nor sees names that collide.) Sizes are measured while reading, never
believed. Everything is written beside the folder and renamed at the end, so what is there is whole.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import pyarrow

from smol_hf.data.archive_names import ArchiveError, TakenNames, parts_of

SUFFIXES = (
    ".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst",
)  # fmt: skip
CHUNK = 1 << 20
JUDGED_FROM = 1 << 26  # bytes that any archive may hold, however small it is
LONGEST_HEADER = 1 << 20  # of names and attributes that stand before a member of a tar
LOCAL_HEADER = 30  # bytes before the name of a zip's member
COMPRESSIONS: dict[bytes, Callable[[BinaryIO], BinaryIO]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": lambda file: pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd"),
}
DAMAGE = (
    OSError, EOFError, ValueError, NotImplementedError, RuntimeError, LookupError, OverflowError, tarfile.TarError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, pyarrow.ArrowException,
)  # fmt: skip


@dataclass(frozen=True)
class ArchiveLimits:
    """Args:
    members: the most files and folders.
    ratio: bytes that may come out for each byte of the archive (beyond 64 MiB, which any archive may hold).
    total_bytes: that may come out at all; None: as many as there is room for.
    free_bytes: that must stay free on the disk.
    """

    members: int = 5_000_000
    ratio: float = 200.0
    total_bytes: int | None = None
    free_bytes: int = 1 << 30


def is_archive(path: str | Path) -> bool:
    """Whether the name says so."""
    return str(path).lower().endswith(SUFFIXES)


def stem_of(path: Path) -> str:
    """`photos.tar.gz` → `photos`"""
    suffix = max((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), key=len, default="")
    return path.name[: len(path.name) - len(suffix)] or path.name


def extract_archive(archive: Path, output: Path, limits: ArchiveLimits | None = None) -> int:
    """Extract a tar (plain, gzip, bzip2, xz, zstd) or zip into a new folder. Returns the number of files.

    Raises:
        FileExistsError: when `output` is there already. FileNotFoundError: when the archive is not.
        ArchiveError: naming the member, for what may not be extracted, and for damage; nothing is kept then.
    """
    archive, output = Path(archive), Path(output)
    if output.exists():
        raise FileExistsError(f"{output} exists already: delete it to extract {archive.name} again")
    if not archive.is_file():
        raise FileNotFoundError(f"the archive {archive} does not exist")
    unfinished = output.with_name(f".{output.name}.extracting")
    shutil.rmtree(unfinished, ignore_errors=True)  # of an attempt that was killed
    unfinished.mkdir(parents=True)
    extraction = Extraction(archive, unfinished, limits or ArchiveLimits())
    try:
        extraction.run()
        unfinished.rename(output)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return extraction.files


@dataclass
class Extraction:
    archive: Path
    folder: Path
    limits: ArchiveLimits
    files: int = 0
    members: int = 0
    read: int = 0
    unchecked: int = CHUNK * 64
    names: TakenNames = field(default_factory=TakenNames)

    def run(self) -> None:
        with self.archive.open("rb") as file:
            beginning = file.read(8)
            file.seek(0)
            with self.naming(None):
                if beginning[:2] == b"PK":
                    self.extract_zip(file)
                else:
                    kind = next((kind for magic, kind in COMPRESSIONS.items() if beginning.startswith(magic)), None)
                    self.extract_tar(file if kind is None else kind(file))

    @contextmanager
    def naming(self, member: str | None) -> Iterator[None]:
        """Whatever is wrong, as an ArchiveError that says where."""
        place = f"{self.archive.name}, member {member!r}" if member is not None else self.archive.name
        try:
            yield
        except NamedError:
            raise
        except ArchiveError as error:
            raise NamedError(f"{place}: {error}") from error
        except DAMAGE as error:
            raise NamedError(f"{place}: it is damaged or no archive: {error or type(error).__name__}") from error

    # Members -------------------------------------------------------------------------------------------------

    def extract_tar(self, file: BinaryIO) -> None:
        counted = CountedReader(file, self.count)
        with tarfile.open(fileobj=counted, mode="r|", tarinfo=StrictTarInfo) as tar:
            for member in tar:
                tar.members.clear()  # millions of them need not stay in memory
                with self.naming(member.name):
                    if not (member.isreg() or member.isdir()) or member.issparse():
                        raise ArchiveError(f"it is {kind_of(member)}, and only files and folders are extracted")
                    self.take(member.name, member.isdir(), lambda member=member: tar.extractfile(member), member.size)
        while counted.read(CHUNK):
            pass  # the check sum of a compressed file stands at its end

    def extract_zip(self, file: BinaryIO) -> None:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            self.refuse_overlaps(members, archive.start_dir)
            for member in members:
                with self.naming(member.orig_filename):
                    kind = stat.S_IFMT(member.external_attr >> 16)
                    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                        raise ArchiveError("it is a link or a device, and only files and folders are extracted")
                    if member.flag_bits & 1:
                        raise ArchiveError("it is encrypted: decrypt the archive first")
                    self.take(
                        member.orig_filename,
                        member.is_dir(),
                        lambda member=member: CountedReader(archive.open(member), self.count),
                        member.file_size,
                    )

    def refuse_overlaps(self, members: list[zipfile.ZipInfo], end: int) -> None:
        """Members that share bytes are how a small zip becomes a large folder."""
        for member in sorted(members, key=lambda member: member.header_offset, reverse=True):
            with self.naming(member.orig_filename):
                needed = LOCAL_HEADER + len(member.orig_filename) + member.compress_size
                if member.header_offset + needed > end:
                    raise ArchiveError("it shares bytes with another member")
            end = member.header_offset

    def take(self, name: str, is_folder: bool, opened: Callable[[], BinaryIO], size: int) -> None:
        self.members += 1
        if self.members > self.limits.members:
            raise ArchiveError(f"it is one member too many: the limit is {self.limits.members:,}")
        parts = parts_of(name)
        self.names.take(name, parts, is_folder=is_folder)
        path = self.folder.joinpath(*parts)
        if is_folder:
            path.mkdir(parents=True, exist_ok=True)
            return
        if not parts:
            raise ArchiveError("it has no name")
        path.parent.mkdir(parents=True, exist_ok=True)
        written = 0
        with path.open("xb") as target, opened() as source:
            while piece := source.read(CHUNK):
                written += target.write(piece)
        if written != size:
            raise ArchiveError(f"it ends after {written:,} of {size:,} bytes")
        self.files += 1

    # Limits --------------------------------------------------------------------------------------------------

    def count(self, number: int) -> None:
        """Take note of bytes that came out. Raises ArchiveError when they are too many."""
        self.read += number
        self.unchecked += number
        if self.limits.total_bytes is not None and self.read > self.limits.total_bytes:
            raise ArchiveError(f"more than {self.limits.total_bytes:,} bytes come out")
        size = self.archive.stat().st_size if self.read > JUDGED_FROM else 0
        if self.read > JUDGED_FROM and self.read > self.limits.ratio * size:
            raise ArchiveError(
                f"from {size:,} bytes come more than {self.limits.ratio:g} times as many, which looks like a bomb"
            )
        if self.unchecked >= 64 * CHUNK:
            self.unchecked = 0
            if (free := shutil.disk_usage(self.folder).free) < self.limits.free_bytes:
                raise ArchiveError(f"{free:,} bytes are free on the disk, and {self.limits.free_bytes:,} must stay so")


class NamedError(ArchiveError):
    """With the archive and the member in its message."""


class CountedReader:
    def __init__(self, file: BinaryIO, count: Callable[[int], None]):
        self.file, self.count = file, count

    def read(self, size: int) -> bytes:
        piece = self.file.read(size)
        self.count(len(piece))
        return piece

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.file.close()


class StrictTarInfo(tarfile.TarInfo):
    """tarfile takes a damaged header for the end of the archive; here it is damage."""

    @classmethod
    def fromtarfile(cls, tar):
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:
            raise  # the mark of the end
        except tarfile.HeaderError as error:
            raise ArchiveError(f"it is no tar, damaged or cut off, after {tar.offset:,} bytes: {error}") from error

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        member = super().frombuf(buf, encoding, errors)
        of_another = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
                      tarfile.GNUTYPE_LONGLINK)  # fmt: skip
        if member.type in of_another and member.size > LONGEST_HEADER:
            raise ArchiveError(f"a header of {member.size:,} bytes is no header")  # it would be read into memory
        return member


def kind_of(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return f"a link to {member.linkname!r}"
    return "a sparse file" if member.issparse() else "a device or of an unknown kind"
