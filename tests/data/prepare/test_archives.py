"""Archives of strangers: what comes out is what is inside, or nothing comes out and the member is named."""

import bz2
import gzip
import io
import lzma
import os
import random
import shutil
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import pyarrow
import pytest
from media_files import picture

from smol_hf.data.prepare import archives
from smol_hf.data.prepare.archives import ArchiveError, extract_archive, is_archive, stem_of

PICTURE = picture()
FILES = {"a.png": PICTURE, "folder/b.txt": b"text\n", "folder/deep/ü 日本.bin": bytes(3_000_000), "empty": b""}


def tar_of(members, **options):
    """`members`: (name, content) or (TarInfo, content) pairs, in this order."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", **options) as tar:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def zip_of(members, compression=zipfile.ZIP_DEFLATED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return stream.getvalue()


def special(name, kind, target="", mode=0o644):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, mode
    return info


def zipped(name, mode):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def zstd(content):
    return pyarrow.compress(content, "zstd", asbytes=True)


PLAIN = tar_of(FILES.items())
GOOD = {
    "files.tar": PLAIN,
    "files.tar.gz": gzip.compress(PLAIN),
    "files.tgz": gzip.compress(PLAIN[:5000]) + gzip.compress(PLAIN[5000:]),
    "files.tar.bz2": bz2.compress(PLAIN),
    "files.tar.xz": lzma.compress(PLAIN),
    "files.tar.zst": zstd(PLAIN),
    "files.zip": zip_of(FILES.items()),
    "stored.zip": zip_of(FILES.items(), zipfile.ZIP_STORED),
    "old.tar": tar_of(FILES.items(), format=tarfile.GNU_FORMAT),
    "dotted.tar": tar_of([(special("./folder", tarfile.DIRTYPE, mode=0o000), b"")]
                         + [(f"./{name}", content) for name, content in FILES.items()]),
    "misnamed.zip": PLAIN,
}  # fmt: skip


def extracted(folder, name, content):
    (folder / name).write_bytes(content)
    return extract_archive(folder / name, folder / "out")


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", GOOD)
def test_an_archive_comes_out_whole(name, tmp_path):
    assert extracted(tmp_path, name, GOOD[name]) == len(FILES)
    assert tree(tmp_path / "out") == FILES
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".incomplete")]
    with pytest.raises(FileExistsError, match="out exists already: delete it"):
        extract_archive(tmp_path / name, tmp_path / "out")


def test_no_rights_come_out(tmp_path):
    members = [
        (special("tool", tarfile.REGTYPE, mode=0o6777), b"#!"),
        (special("closed", tarfile.REGTYPE, mode=0), b""),
    ]
    extracted(tmp_path, "a.tar", tar_of(members))
    (tmp_path / "own").write_text("")
    for name in ("tool", "closed"):
        assert (tmp_path / "out" / name).stat().st_mode == (tmp_path / "own").stat().st_mode


NAMES = ["../evil", "a/../../evil", "/etc/evil", "//server/share"]


def refused(folder, name, content):
    """What an archive is refused with; nothing may be left of it."""
    before = set(folder.rglob("*"))
    with pytest.raises(ArchiveError) as error:
        extracted(folder, name, content)
    assert set(folder.rglob("*")) == {*before, folder / name}
    assert str(error.value).startswith(name)
    return str(error.value)


@pytest.mark.parametrize("make, archive", [(tar_of, "a.tar"), (zip_of, "a.zip")])
@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_elsewhere_is_refused(name, make, archive, tmp_path):
    message = refused(tmp_path, archive, make([("good", b"x"), (name, b"evil")]))
    assert "leads out of the folder" in message and repr(name) in message
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize("make, archive", [(tar_of, "a.tar"), (zip_of, "a.zip")])
def test_a_file_in_the_place_of_a_folder_is_refused(make, archive, tmp_path):
    refused(tmp_path, archive, make([("a", b"x"), ("a/b", b"x")]))


LINKS = {
    "symbolic link out": (tarfile.SYMTYPE, "/etc"),
    "symbolic link up": (tarfile.SYMTYPE, "../.."),
    "symbolic link inside": (tarfile.SYMTYPE, "good"),
    "hard link out": (tarfile.LNKTYPE, "/etc/passwd"),
    "hard link inside": (tarfile.LNKTYPE, "good"),
    "character device": (tarfile.CHRTYPE, ""),
    "block device": (tarfile.BLKTYPE, ""),
    "pipe": (tarfile.FIFOTYPE, ""),
    "unknown kind": (b"9", ""),
}


@pytest.mark.parametrize("case", LINKS)
def test_links_and_devices_are_refused(case, tmp_path):
    kind, target = LINKS[case]
    members = [("good", b"x"), (special("odd", kind, target), b""), ("odd/below", b"evil")]
    message = refused(tmp_path, "a.tar", tar_of(members))
    assert "the member 'odd' is a link or a device" in message


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_in_a_zip_are_refused(mode, tmp_path):
    assert "the member 'odd' is a link" in refused(tmp_path, "a.zip", zip_of([(zipped("odd", mode), b"/etc")]))


@pytest.mark.slow
def test_bombs_are_refused_while_they_are_read(tmp_path):
    zeros = bytes(100_000_000)
    for name, content in {
        "a.zip": zip_of([("zeros", zeros)]),
        "a.tar.gz": gzip.compress(tar_of([("zeros", zeros)]), 1),
        "a.tar.xz": lzma.compress(tar_of([("zeros", zeros)]), preset=0),
        "a.tar.zst": zstd(tar_of([("zeros", zeros)])),
    }.items():
        assert "unpacks to more than" in refused(tmp_path, name, content)
    after = gzip.compress(tar_of([("good", b"x")]) + zeros, 1)
    assert "unpacks to more than" in refused(tmp_path, "b.tar.gz", after), "bytes after the end count"


def test_a_disk_that_is_too_full_is_refused(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=archives.FREE_BYTES + 1000))
    assert "unpacks to more than 1,000 bytes" in refused(tmp_path, "a.zip", zip_of([("a", bytes(1001))]))
    assert "unpacks to more than 1,000 bytes" in refused(tmp_path, "a.tar", tar_of([("a", bytes(1001))]))


def test_a_header_that_lies_about_its_size_is_found_out(tmp_path):
    content = bytearray(zip_of([("lie", bytes(1000))]))
    for signature, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", content, content.index(signature) + at, 10)
    assert "CRC" in refused(tmp_path, "a.zip", bytes(content))
    info = tarfile.TarInfo("long")
    info.size = 10**12
    assert "unexpected end of data" in refused(tmp_path, "a.tar", info.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))


def test_an_encrypted_zip_is_refused(tmp_path):
    content = bytearray(zip_of([("secret", b"x")]))
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + at] |= 1
    assert "is encrypted" in refused(tmp_path, "a.zip", bytes(content))


@pytest.mark.parametrize("name", [name for name in GOOD if name != "misnamed.zip"])
def test_what_is_cut_off_anywhere_leaves_nothing(name, tmp_path):
    content = GOOD[name]
    ends = {len(content) // 2, len(content) - len(content) // 10, 1, 0}
    if name.endswith((".gz", ".tgz", ".bz2", ".xz", ".zip")):
        ends.add(len(content) - 1)
    if name.endswith("tar"):
        ends |= {512, 1024, PLAIN.index(b"folder/b.txt")}  # at the very borders of members
    for end in ends:
        refused(tmp_path, name, content[:end])


@pytest.mark.parametrize("name", ["files.tar", "files.tar.gz", "files.tar.bz2", "files.tar.xz", "files.zip"])
def test_damage_is_found_or_harmless(name, tmp_path):
    """A flipped byte in a member of a plain tar cannot be seen: nothing of tar's checks contents."""
    draw = random.Random(0)
    members = [(f"{number}.bin", draw.randbytes(3000)) for number in range(4)]
    plain = tar_of(members)
    content = {"files.tar": plain, "files.tar.gz": gzip.compress(plain), "files.tar.bz2": bz2.compress(plain),
               "files.tar.xz": lzma.compress(plain), "files.zip": zip_of(members)}[name]  # fmt: skip
    for _ in range(60):
        at, bit = draw.randrange(len(content)), 1 << draw.randrange(8)
        broken = content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]
        try:
            extracted(tmp_path, name, broken)
        except ArchiveError:
            continue
        found = tree(tmp_path / "out").values()
        changed = sum(content not in found for _, content in members)
        assert len(found) == 4 and changed <= (name == "files.tar")
        shutil.rmtree(tmp_path / "out")


def test_what_is_no_archive_is_said_to_be_none(tmp_path):
    for content in (b"", b"<html>404</html>", os.urandom(2000), PICTURE, b"PK", b"\x1f\x8b\x08\0garbage", bytes(5)):
        refused(tmp_path, "a.tar.gz", content)
    assert "no archive" in refused(tmp_path, "a.tar.gz", gzip.compress(b"only text, a lot of it" * 100))
    with pytest.raises(FileNotFoundError, match=r"gone\.zip does not exist"):
        extract_archive(tmp_path / "gone.zip", tmp_path / "out")


def test_archives_are_known_by_their_names():
    assert is_archive("a/B.TAR.GZ") and is_archive("x.zip") and not is_archive("x.parquet") and not is_archive("zip")
    assert [stem_of(Path(name)) for name in ("a.tar.gz", "a.b.zip", "a.TGZ", ".zip")] == ["a", "a.b", "a", ".zip"]


def test_a_sparse_file_is_refused(tmp_path):
    """Its size counts holes, which the limit of unpacked bytes does not see."""
    hole = tarfile.TarInfo("hole.bin")
    hole.pax_headers = {"GNU.sparse.map": "0,4", "GNU.sparse.size": str(1 << 30)}
    (tmp_path / "a.tar").write_bytes(tar_of([("a.png", PICTURE), (hole, b"text")]))
    with pytest.raises(ArchiveError, match=r"a\.tar: the member 'hole.bin' is a sparse file"):
        extract_archive(tmp_path / "a.tar", tmp_path / "out")
    assert not (tmp_path / "out").exists()
