"""Writers of prepared samples: LLaVA's JSON lines with folders of images and videos, and shards of parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from datasets import Features, Image, List, Value

from smol_hf.data.conversation import Conversation, SampleError
from smol_hf.data.prepare.records import Encoded, EncodedVideo, llava_record, messages_record, reads_back, stored
from smol_hf.data.records.messages import SECONDS
from smol_hf.data.records.turn_keys import TEMPLATE_TURN, TOOL_TURN

GROUP_BYTES = 8 * 1024 * 1024  # of a row group, the smallest unit of reading
GROUP_ROWS = 1000
SHARD_BYTES = 500_000_000
MEDIA = ("images", "videos")  # folders
UNSAYABLE = "cannot be written so that it is read back as the same conversation"


class LlavaWriter:
    """A writer of `data.jsonl`, `images/` and `videos/`. Equal images share a file, and so do equal videos.

    Records that LLaVA's form cannot express (text with the characters `<image>`, empty parts) become messages with
    typed parts. Our adapters read both in one file, but other readers of LLaVA's form do not.
    """

    def __init__(self, folder: Path, rows_per_shard: int | None = None):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.file = (folder / "data.jsonl").open("w", encoding="utf-8", newline="\n")
        self.written = self.images = self.videos = self.bytes = self.as_messages = 0

    def write(self, conversation: Conversation, media: list[Encoded | EncodedVideo]) -> None:
        paths = [f"{each.folder}/{each.name}" for each in media]
        parts = [stored(part, path) for part, path in zip(conversation.media, paths)]
        record = llava_record(conversation, paths)
        if not reads_back(record, conversation, parts):
            record = messages_record(conversation, paths)
            if not reads_back(record, conversation, parts):
                raise SampleError(conversation.sample_id, UNSAYABLE)
            self.as_messages += 1
        for path, each in zip(paths, media):
            if not (self.folder / path).exists():
                (self.folder / each.folder).mkdir(exist_ok=True)
                each.write(self.folder / path)
                self.images += isinstance(each, Encoded)
                self.videos += isinstance(each, EncodedVideo)
                self.bytes += each.size
        self.file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self.written += 1

    def close(self) -> None:
        self.file.close()

    def facts(self) -> dict[str, Any]:
        return {"images": self.images, "videos": self.videos, "bytes": self.bytes, "as_messages": self.as_messages}

    @staticmethod
    def shared_media(folder: Path) -> dict[str, int]:
        """Return the counts of media files in a folder of shards, which may have the same images and videos."""
        named = {kind: sum(1 for _ in (folder / kind).glob("*")) for kind in MEDIA}
        files = (path for kind in MEDIA for path in (folder / kind).rglob("*") if path.is_file())
        return {**named, "bytes": sum(path.stat().st_size for path in files)}


class ParquetWriter:
    """A writer of `train-00000-of-00002.parquet`, …: messages with typed parts, and columns of images and videos.

    Row groups are small, so that a stream reads little at once.
    """

    features = Features(
        {
            "id": Value("string"),
            "source": Value("string"),
            "text": Value("string"),
            "messages": List(
                {
                    "role": Value("string"),
                    "content": List(
                        {
                            "type": Value("string"),
                            "text": Value("string"),
                            **{key: Value("float64") for key in SECONDS},
                        }
                    ),
                    "train": Value("bool"),
                    **{key: Value("string") for key in (*TEMPLATE_TURN, *TOOL_TURN)},
                }
            ),
            "images": List(Image(decode=True)),
            "videos": List({"bytes": Value("large_binary"), "path": Value("string")}),
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
        self.written = self.images = self.videos = self.bytes = 0

    def write(self, conversation: Conversation, media: list[Encoded | EncodedVideo]) -> None:
        if any(isinstance(each, EncodedVideo) and each.is_folder for each in media):
            problem = "shows a video whose frames are images, which have no place in parquet: choose --format llava"
            raise ValueError(f"{conversation.sample_id}: {problem}")
        columns: dict[str, list[dict[str, Any]]] = {"images": [], "videos": []}
        for each in media:
            columns[each.folder].append({"bytes": each.content, "path": each.name})
        record = {**messages_record(conversation), **columns}
        parts = [stored(part, content=each.content) for part, each in zip(conversation.media, media)]
        if not reads_back(record, conversation, parts):
            raise SampleError(conversation.sample_id, UNSAYABLE)
        size = sum(each.size for each in media)
        self.waiting.append(record)
        self.waiting_bytes += size
        self.written, self.bytes = self.written + 1, self.bytes + size
        self.images += len(columns["images"])
        self.videos += len(columns["videos"])
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
        return {"images": self.images, "videos": self.videos, "bytes": self.bytes, "shards": len(self.shards)}

    @staticmethod
    def shared_media(folder: Path) -> dict[str, int]:
        """Return no counts: each shard has its own images and videos."""
        return {}


WRITERS = {"llava": LlavaWriter, "parquet": ParquetWriter}
