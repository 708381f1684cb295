"""A tokenizer for a language model, trained on documents of any number and size."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from smol_hf.data.conversation import SampleError
from smol_hf.processing.plain_tokenizer import write_portable_tokenizer_config
from smol_hf.support.atomic import atomic_folder
from smol_hf.text.byte_level_bpe import build_byte_level_tokenizer, least_vocab_size
from smol_hf.text.documents.document import Documents, Reading, at_words

# SmolLM2's, with their ids, and one for padding. If the end of a text were the padding too, its label would be masked
# and the model would never learn to stop.
SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>", "<file_sep>", "<filename>",
    "<gh_stars>", "<issue_start>", "<issue_comment>", "<issue_closed>", "<jupyter_start>", "<jupyter_text>",
    "<jupyter_code>", "<jupyter_output>", "<jupyter_script>", "<empty_output>", "<|pad|>",
)  # fmt: skip
NAMED = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|pad|>"}
MINIMUM_VOCAB_SIZE = least_vocab_size(SPECIAL_TOKENS)
MIN_FREQUENCY = 2  # neighbours that occur once are not a pattern
FILES = {
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "chat_template.jinja",
}  # fmt: skip
MEASURED = 4 << 20  # bytes of the first texts on which the tokenizer is measured


def train_text_tokenizer(
    texts: Iterable[str],
    *,
    vocab_size: int,
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer as SmolLM2's, without a chat template; see `build_byte_level_tokenizer`.

    Args:
        texts: of any size, read once, in order, with some megabytes in memory.

    Raises:
        ValueError: if `vocab_size` is too small for the special tokens and the 256 bytes.
    """
    return build_byte_level_tokenizer(
        (piece for text in texts for piece in at_words([text])),
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        named=NAMED,
        model_max_length=VERY_LARGE_INTEGER,
        min_frequency=MIN_FREQUENCY,
    )


def write_text_tokenizer(
    sources: Sequence[Documents],
    output: str | Path,
    *,
    vocab_size: int,
    max_bytes: int | None = None,
    advance: Callable[[int], None] = lambda size: None,
) -> dict[str, Any]:
    """Train a tokenizer on documents and write it as a folder for `AutoTokenizer`, complete or not at all.

    Args:
        output: a folder that is empty, missing, or holds only a tokenizer, which is replaced.
        max_bytes: limit of the bytes that are read, about the same number of each source.
        advance: called with the bytes of each piece that is read, to show progress.

    Returns:
        vocab_size, asked_vocab_size, documents, empty_documents, bytes, all_read (whether `max_bytes` cut nothing
        off), bytes_per_token of the first `measured_bytes`, output, replaced, seconds.

    Raises:
        ValueError: if `vocab_size` or `max_bytes` is too small.
        FileExistsError: if `output` holds something else.
        SampleError: for unreadable texts, and without any text.
    """
    started, output = time.perf_counter(), Path(output)
    if vocab_size < MINIMUM_VOCAB_SIZE:
        train_text_tokenizer((), vocab_size=vocab_size)  # says why
    if max_bytes is not None and max_bytes < 1:
        raise ValueError(f"max_bytes is {max_bytes}: read at least 1 byte")
    refuse_other_than_tokenizer(output)
    reading = Reading(sources, max_bytes=max_bytes, advance=advance, kept=MEASURED)
    tokenizer = train_text_tokenizer(reading, vocab_size=vocab_size)
    if not reading.bytes:
        raise SampleError(" and ".join(source.name for source in sources), "its documents hold no text")
    tokens = sum(map(len, tokenizer(reading.sample, split_special_tokens=True)["input_ids"]))
    replaced = output.exists() and any(output.iterdir())
    with atomic_folder(output, replace=True) as folder:
        # On a full disk this raises an OSError, tokenizers a bare Exception.
        (folder / "tokenizer.json").write_text(tokenizer.backend_tokenizer.to_str(pretty=True), encoding="utf-8")
        tokenizer.save_pretrained(folder)
        write_portable_tokenizer_config(folder)
        refuse_other_than_tokenizer(output)  # as it is now
    return {
        "vocab_size": len(tokenizer),
        "asked_vocab_size": vocab_size,
        "documents": reading.documents,
        "empty_documents": reading.empty,
        "bytes": reading.bytes,
        "all_read": reading.all_read,
        "bytes_per_token": reading.sampled / tokens,
        "measured_bytes": reading.sampled,
        "output": str(output),
        "replaced": replaced,
        "seconds": time.perf_counter() - started,
    }


def refuse_other_than_tokenizer(output: Path) -> None:
    """Raise FileExistsError for anything that a tokenizer may not replace."""
    if not output.exists():
        return
    if not output.is_dir():
        raise FileExistsError(f"{output} is a file: name an empty or new folder")
    names = sorted(each.name for each in output.iterdir())
    other = [name for name in names if name not in FILES]
    if other or (names and "tokenizer.json" not in names):
        raise FileExistsError(f"{output} holds {(other or names)[0]}, not only a tokenizer: name another folder")
