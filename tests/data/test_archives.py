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
import unicodedata
import zipfile
from pathlib import Path

import pyarrow
import pytest
from media_files import picture

from smol_hf.data.archive_names import ArchiveError
from smol_hf.data.archives import ArchiveLimits, extract_archive, is_archive, stem_of

ROOMY = ArchiveLimits(free_bytes=0)
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


def extracted(folder, name, content, limits=ROOMY):
    (folder / name).write_bytes(content)
    return extract_archive(folder / name, folder / "out", limits)


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", GOOD)
def test_an_archive_comes_out_whole(name, tmp_path):
    assert extracted(tmp_path, name, GOOD[name]) == len(FILES)
    assert tree(tmp_path / "out") == FILES
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".extracting")]
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


# Names that neither kind of archive may have, and what is said about them.
NAMES = {
    "../evil": "leads out of the folder",
    "a/../../evil": "leads out of the folder",
    "a/..": "leads out of the folder",
    "/etc/evil": "is absolute",
    "//server/share": "is absolute",
    "C:/evil": "is absolute",
    "c:evil": "is absolute",
    "..\\evil": "a backslash",
    "a\\b": "a backslash",
    "a\nb": "control characters",
    "CON": "no name of a file on Windows",
    "a/nul.txt": "no name of a file on Windows",
    "a/COM1 .tar": "no name of a file on Windows",
    "a /b": "no name of a file on Windows",
    "a./b": "no name of a file on Windows",
    "x" * 300: "more than 255 bytes",
    "日" * 90: "more than 255 bytes",
    "a/" * 70 + "b": "more than 64 folders",
}
COLLISIONS = {
    "the same": (["a/b", "a/b"], "same file as 'a/b'"),
    "the same, spelled otherwise": (["a/b", "./a//b"], "same file as"),
    "case": (["a/Photo.png", "A/photo.PNG"], "same file as 'a/Photo.png'"),
    "case of ß": (["straße", "STRASSE"], "same file as"),
    "composed and decomposed": (["é", unicodedata.normalize("NFD", "é")], "same file as 'é'"),
    "wide letters": (["Ａ", "a"], "same file as"),
    "a file that is a folder": (["a", "a/b"], "needs a folder where 'a' is a file"),
    "a folder that is a file": (["a/b", "A"], "a file where 'a/b' needs a folder"),
}


def refused(folder, name, content, limits=ROOMY):
    """What an archive is refused with; nothing may be left of it."""
    before = set(folder.rglob("*"))
    with pytest.raises(ArchiveError) as error:
        extracted(folder, name, content, limits)
    assert set(folder.rglob("*")) == {*before, folder / name}
    assert str(error.value).startswith(name)
    return str(error.value)


@pytest.mark.parametrize("make, archive", [(tar_of, "a.tar"), (zip_of, "a.zip")])
@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:12]))
def test_a_name_that_leads_elsewhere_is_refused(name, make, archive, tmp_path):
    message = refused(tmp_path, archive, make([("good", b"x"), (name, b"evil")]))
    assert NAMES[name] in message and repr(name) in message
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize("make, archive", [(tar_of, "a.tar"), (zip_of, "a.zip")])
@pytest.mark.parametrize("case", COLLISIONS)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_are_one_file_somewhere_are_refused(case, make, archive, tmp_path):
    names, problem = COLLISIONS[case]
    message = refused(tmp_path, archive, make([(name, b"x") for name in names]))
    assert problem in message and repr(names[-1]) in message


def test_names_that_are_not_text_are_refused(tmp_path):
    assert "not UTF-8" in refused(tmp_path, "a.tar", tar_of([("ab\udcff", b"x")], errors="surrogateescape",
                                                            format=tarfile.GNU_FORMAT))  # fmt: skip
    content = zip_of([("harmless.png#", b"x")]).replace(b"png#", b"png\0")
    assert "control characters" in refused(tmp_path, "a.zip", content)


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
    assert "member 'odd': it is" in message
    assert f"a link to {target!r}" in message if "link" in case else "device" in message


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_in_a_zip_are_refused(mode, tmp_path):
    assert "member 'odd': it is a link" in refused(tmp_path, "a.zip", zip_of([(zipped("odd", mode), b"/etc")]))


def test_bombs_are_refused_while_they_are_read(tmp_path):
    zeros = bytes(100_000_000)
    for name, content in {
        "a.zip": zip_of([("zeros", zeros)]),
        "a.tar.gz": gzip.compress(tar_of([("zeros", zeros)]), 1),
        "a.tar.xz": lzma.compress(tar_of([("zeros", zeros)]), preset=0),
        "a.tar.zst": zstd(tar_of([("zeros", zeros)])),
    }.items():
        assert "looks like a bomb" in refused(tmp_path, name, content)
    after = gzip.compress(tar_of([("good", b"x")]) + zeros, 1)
    assert "looks like a bomb" in refused(tmp_path, "b.tar.gz", after), "what stands after the end counts"


def test_limits_hold(tmp_path):
    archive = zip_of([(f"{number}", bytes(1000)) for number in range(10)])
    limits = {"members": "one member too many", "total_bytes": "more than 9 bytes come out"}
    for limit, problem in limits.items():
        assert problem in refused(tmp_path, "a.zip", archive, ArchiveLimits(free_bytes=0, **{limit: 9}))
    assert "must stay so" in refused(tmp_path, "a.zip", archive, ArchiveLimits(free_bytes=1 << 60))
    folders = tar_of([(special(f"{number}/", tarfile.DIRTYPE), b"") for number in range(10)])
    assert "one member too many" in refused(tmp_path, "a.tar", folders, ArchiveLimits(members=9, free_bytes=0))


def test_a_header_that_lies_about_its_size_is_found_out(tmp_path):
    content = bytearray(zip_of([("lie", bytes(1000))]))
    for signature, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", content, content.index(signature) + at, 10)
    assert "CRC" in refused(tmp_path, "a.zip", bytes(content))
    info = tarfile.TarInfo("long")
    info.size = 10**12
    assert "member 'long'" in refused(tmp_path, "a.tar", info.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))


def test_a_header_that_would_fill_the_memory_is_refused(tmp_path):
    info = special("././@PaxHeader", tarfile.XHDTYPE)
    info.size = 10**11
    assert "100,000,000,000 bytes is no header" in refused(
        tmp_path, "a.tar", info.tobuf(tarfile.GNU_FORMAT) + bytes(10_240)
    )


def test_members_of_a_zip_that_share_bytes_are_refused(tmp_path):
    """Two entries of the directory for one member."""
    content = zip_of([("a", bytes(1000)), ("b", bytes(1000))])
    directory = content.index(b"PK\x01\x02")
    entry = content[directory : content.index(b"PK\x01\x02", directory + 4)]
    doubled = content[:directory] + entry + entry.replace(b"a", b"b") + content[-22:]
    assert "shares bytes with another member" in refused(tmp_path, "a.zip", doubled)


def test_an_encrypted_zip_is_refused(tmp_path):
    content = bytearray(zip_of([("secret", b"x")]))
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + at] |= 1
    assert "member 'secret': it is encrypted" in refused(tmp_path, "a.zip", bytes(content))


def test_a_sparse_file_is_refused(tmp_path):
    info = special("sparse", tarfile.GNUTYPE_SPARSE)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    header[386:410] = b"%011o\0" % 0 + b"%011o\0" % 0
    header[483:495] = b"%011o\0" % (1 << 32)
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header[:512])
    assert "a sparse file" in refused(tmp_path, "a.tar", bytes(header) + bytes(10_240))


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
    assert "is no tar" in refused(tmp_path, "a.tar.gz", gzip.compress(b"only text, a lot of it" * 100))
    with pytest.raises(FileNotFoundError, match=r"gone\.zip does not exist"):
        extract_archive(tmp_path / "gone.zip", tmp_path / "out")


def test_what_a_killed_attempt_left_is_replaced(tmp_path):
    (tmp_path / ".out.extracting").mkdir()
    (tmp_path / ".out.extracting" / "half").write_text("x")
    extracted(tmp_path, "a.zip", GOOD["files.zip"])
    assert tree(tmp_path / "out") == FILES and not (tmp_path / ".out.extracting").exists()


def test_archives_are_known_by_their_names():
    assert is_archive("a/B.TAR.GZ") and is_archive("x.zip") and not is_archive("x.parquet") and not is_archive("zip")
    assert [stem_of(Path(name)) for name in ("a.tar.gz", "a.b.zip", "a.TGZ", ".zip")] == ["a", "a.b", "a", ".zip"]
