"""Writers of prepared samples: LLaVA's JSON lines with a folder of images, and shards of parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from datasets import Features, Image, List, Value

from smol_hf.data.conversation import Conversation, ImagePart, SampleError
from smol_hf.data.prepare.records import Encoded, llava_record, messages_record, reads_back
from smol_hf.data.records.turn_keys import TEMPLATE_TURN, TOOL_TURN

GROUP_BYTES = 8 * 1024 * 1024  # of a row group, the smallest unit of reading
GROUP_ROWS = 1000
SHARD_BYTES = 500_000_000
UNSAYABLE = "cannot be written so that it is read back as the same conversation"


class LlavaWriter:
    """A writer of `data.jsonl` and `images/`. Equal images share a file.

    Records that LLaVA's form cannot express (text with the characters `<image>`, empty parts) become messages with
    typed parts. Our adapters read both in one file, but other readers of LLaVA's form do not.
    """

    def __init__(self, folder: Path, rows_per_shard: int | None = None):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.file = (folder / "data.jsonl").open("w", encoding="utf-8", newline="\n")
        self.written = self.images = self.bytes = self.as_messages = 0

    def write(self, conversation: Conversation, images: list[Encoded]) -> None:
        paths = [f"images/{image.name}" for image in images]
        parts = [ImagePart(path=path) for path in paths]
        record = llava_record(conversation, paths)
        if not reads_back(record, conversation, parts):
            record = messages_record(conversation, paths)
            if not reads_back(record, conversation, parts):
                raise SampleError(conversation.sample_id, UNSAYABLE)
            self.as_messages += 1
        for path, image in zip(paths, images):
            if not (self.folder / path).exists():
                (self.folder / "images").mkdir(exist_ok=True)
                (self.folder / path).write_bytes(image.content)
                self.images += 1
                self.bytes += len(image.content)
        self.file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self.written += 1

    def close(self) -> None:
        self.file.close()

    def facts(self) -> dict[str, Any]:
        return {"images": self.images, "bytes": self.bytes, "as_messages": self.as_messages}


class ParquetWriter:
    """A writer of `train-00000-of-00002.parquet`, …: messages with typed parts, and a `datasets` column of images.

    Row groups are small, so that a stream reads little at once.
    """

    features = Features(
        {
            "id": Value("string"),
            "source": Value("string"),
            "messages": List(
                {
                    "role": Value("string"),
                    "content": List({"type": Value("string"), "text": Value("string")}),
                    "train": Value("bool"),
                    **{key: Value("string") for key in (*TEMPLATE_TURN, *TOOL_TURN)},
                }
            ),
            "images": List(Image(decode=True)),
            "turn_ratings": List(List({"name": Value("string"), "rating": Value("int64")})),
            "tools": Value("string"),
        }
    )

    def __init__(self, folder: Path, rows_per_shard: int | None = None):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.rows_per_shard = folder, rows_per_shard
        self.schema = self.features.arrow_schema
        self.shards: list[Path] = []
        self.file: pyarrow.parquet.ParquetWriter | None = None
        self.waiting: list[dict[str, Any]] = []
        self.waiting_bytes = self.shard_rows = self.shard_bytes = 0
        self.written = self.images = self.bytes = 0

    def write(self, conversation: Conversation, images: list[Encoded]) -> None:
        record = {
            **messages_record(conversation),
            "images": [{"bytes": image.content, "path": image.name} for image in images],
        }
        if not reads_back(record, conversation, [ImagePart(content=image.content) for image in images]):
            raise SampleError(conversation.sample_id, UNSAYABLE)
        size = sum(len(image.content) for image in images)
        self.waiting.append(record)
        self.waiting_bytes += size
        self.written, self.images, self.bytes = self.written + 1, self.images + len(images), self.bytes + size
        shard_is_full = self.shard_rows + len(self.waiting) == self.rows_per_shard
        if shard_is_full or self.waiting_bytes >= GROUP_BYTES or len(self.waiting) >= GROUP_ROWS:
            self.flush()
        if shard_is_full or (self.rows_per_shard is None and self.shard_bytes >= SHARD_BYTES):
            self.close_shard()

    def flush(self) -> None:
        """Write the waiting records as one row group."""
        if not self.waiting:
            return
        if self.file is None:
            self.shards.append(self.folder / f"{len(self.shards):05d}.parquet")
            options: dict[str, Any] = {"use_dictionary": ["source"]}
            self.file = pyarrow.parquet.ParquetWriter(self.shards[-1], self.schema, **options)
        table = pyarrow.Table.from_pylist(self.waiting, schema=self.schema)
        self.file.write_table(table, row_group_size=len(self.waiting))
        self.shard_rows += len(self.waiting)
        self.shard_bytes += self.waiting_bytes
        self.waiting, self.waiting_bytes = [], 0

    def close_shard(self) -> None:
        if self.file is not None:
            self.file.close()
        self.file, self.shard_rows, self.shard_bytes = None, 0, 0

    def close(self) -> None:
        self.flush()
        self.close_shard()
        for number, shard in enumerate(self.shards):
            shard.rename(self.folder / f"train-{number:05d}-of-{len(self.shards):05d}.parquet")

    def facts(self) -> dict[str, Any]:
        return {"images": self.images, "bytes": self.bytes, "shards": len(self.shards)}


WRITERS = {"llava": LlavaWriter, "parquet": ParquetWriter}
