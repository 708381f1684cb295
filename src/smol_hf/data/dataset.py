"""Conversations → a `datasets.Dataset` that training reads, planned before anything is decoded.

Each sample's length in tokens is known from its texts and from the headers of its images. So samples that do not fit
are left out by name before the run starts, and nothing is ever cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from datasets import Dataset, Features, List, Value

from smol_hf.data.adapters import conversation_from_record
from smol_hf.data.conversation import Conversation, ImagePart, SampleError
from smol_hf.data.images import image_size, load_image
from smol_hf.data.skipped import SkippedSamples
from smol_hf.data.sources import read_records

FEATURES = Features(
    {
        "sample_id": Value("string"),
        "messages": Value("string"),
        "images": List({"bytes": Value("binary"), "path": Value("string")}),
        "num_tokens": Value("int32"),
    }
)


def conversations_from_file(path: str | Path, image_folder: str | Path | None = None) -> Iterable:
    """Yield a `Conversation`, or the `SampleError` that says why there is none, for each record of a file.

    Relative image paths start from `image_folder`, by default the file's own folder.
    """
    folder = Path(image_folder) if image_folder is not None else Path(path).parent
    for where, record in read_records(path):
        if isinstance(record, SampleError):
            yield record
            continue
        try:
            yield conversation_from_record(record, where, folder)
        except SampleError as error:
            yield error


def template_messages(conversation: Conversation) -> list[dict]:
    """The conversation in the chat format that processors read; images are left to be given beside it."""
    return [
        {
            "role": message.role,
            "content": [
                {"type": "image"} if isinstance(part, ImagePart) else {"type": "text", "text": part.text}
                for part in message.parts
            ],
        }
        for message in conversation.messages
    ]


def plan_length(conversation: Conversation, processor) -> int:
    """Tokens that the conversation becomes. Reads image headers only.

    Raises:
        SampleError: when an image cannot be used, or when the sample has nothing to learn from.
    """
    sizes = [image_size(image, conversation.sample_id) for image in conversation.images]
    input_ids, _ = processor.encode_text(template_messages(conversation), sizes)
    return len(input_ids)


def build_dataset(
    conversations: Iterable[Conversation | SampleError],
    processor,
    *,
    context_length: int,
    skipped: SkippedSamples,
    verify_images: bool = False,
) -> Dataset:
    """Plan every conversation and keep those that fit.

    Args:
        context_length: the most tokens that a sample may have.
        skipped: takes the samples that are left out; its policy decides whether faults stop the run.
        verify_images: decode each image once now, so that damaged ones are known before the run.

    Raises:
        SampleError: see `SkippedSamples.settle`.
    """
    rows, total = [], 0
    for conversation in conversations:
        total += 1
        if isinstance(conversation, SampleError):
            skipped.faults.append(conversation)
            continue
        try:
            length = plan_length(conversation, processor)
            if verify_images:
                for image in conversation.images:
                    load_image(image, conversation.sample_id)
        except SampleError as error:
            skipped.faults.append(error)
            continue
        if length > context_length:
            reason = f"{length} tokens, more than context_length {context_length}"
            skipped.too_long.append(SampleError(conversation.sample_id, reason))
            continue
        rows.append({**conversation.to_row(), "num_tokens": length})
    if total == 0:
        raise SampleError("data", "the data holds no sample")
    skipped.settle(total)
    return Dataset.from_list(rows, features=FEATURES)


def fingerprint(dataset: Dataset, read_images: bool = True) -> str:
    """SHA-256 over the samples in their order: texts, and the images' bytes (of files, without `read_images`, only
    name and size: quicker, but a file that was changed in place passes)."""
    digest = hashlib.sha256()
    for row in dataset:
        digest.update(row["sample_id"].encode())
        digest.update(row["messages"].encode())
        for image in row["images"]:
            if image["bytes"] is not None:
                digest.update(image["bytes"])
            else:
                path = Path(image["path"])
                digest.update(f"{path.name}:{path.stat().st_size}".encode())
                if read_images:
                    digest.update(path.read_bytes())
    return digest.hexdigest()
