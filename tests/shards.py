"""Tar shards for the tests, written as webdataset writes them."""

import io
import tarfile


def write_tar(path, members, end=True):
    """`members`: (name or TarInfo, content) pairs; without `end` the mark of a tar's end is missing."""
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = name
            if isinstance(name, str):
                member = tarfile.TarInfo(name)
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        length = archive.offset
    if not end:
        path.write_bytes(path.read_bytes()[:length])
    return path
