"""A source of conversations in memory, and the content of a folder of prepared shards."""

import json
from pathlib import Path

import pyarrow.parquet
from media_files import picture
from memory_source import MemorySource

from smol_hf.data.conversation import Conversation, ImagePart, Message, TextPart
from smol_hf.data.mixture.mixture import Data

ROWS = 11
IMAGES = [picture(8, 6 + number % 3) for number in range(ROWS)]


def memory(number=ROWS, fingerprint="f"):
    turns = [
        Conversation(
            f"m:{row}",
            (Message("user", (ImagePart(IMAGES[0]), TextPart(f"{row}?"))), Message("assistant", (TextPart("x"),))),
        )
        for row in range(number)
    ]
    return Data(
        [MemorySource("m", [(each.sample_id, each) for each in turns], fingerprint=fingerprint)], [None], [1.0]
    )


def records(folder):
    """The records of the files in a folder, in the order of the files' names."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".parquet", ".jsonl"))
    found = []
    for path in files:
        if path.suffix == ".parquet":
            found += pyarrow.parquet.read_table(path).to_pylist()
        elif path.name != "skipped.jsonl":
            found += map(json.loads, path.read_text().splitlines())
    return found


def content_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shown(sample):
    """The content of a sample, without the names of files."""
    images = [(image.content or Path(image.path).read_bytes()) for image in sample.images]
    return [
        (each.role, [part.text for part in each.parts if isinstance(part, TextPart)]) for each in sample.messages
    ], images
