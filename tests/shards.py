"""Shards for the tests: tar files as webdataset writes them, and parquet files as FineVision has them."""

import io
import tarfile

import pyarrow
import pyarrow.parquet

from smol_hf.data.digits import build_pages


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


def write_parquet(folder, number=24):
    """In FineVision's shape, each page rated."""
    rows = []
    for index, page in enumerate(build_pages(number, seed=0, split="train")):
        rows.append(
            {"images": [{"bytes": page.conversation.images[0].content, "path": None}],
             "texts": [{"user": page.question, "assistant": page.answer}], "source": "digits",
             **{f"{name}_ratings": [index % 5 + 1] for name in
                ("relevance", "image_correspondence", "visual_dependency", "formatting")}}
        )  # fmt: skip
    folder.mkdir()
    for part in range(2):
        table = pyarrow.Table.from_pylist(rows[part::2])
        pyarrow.parquet.write_table(table, folder / f"part-{part}.parquet", row_group_size=5)
    return folder
