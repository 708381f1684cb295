"""Documents and their token caches for the tests of `text/documents`."""

import itertools
import json

import numpy as np
import pyarrow
import pyarrow.parquet

from smol_hf.data.conversation import SampleError
from smol_hf.text.documents.document import CHUNK
from smol_hf.text.documents.held_out import HeldOut
from smol_hf.text.documents.readers import open_documents
from smol_hf.text.documents.token_cache import tokenise

WORDS = "the old king said that winter comes and 1234 ravens flew over snow-white hills, didn't they?".split()


def prose(characters, seed=0):
    """Words, lines and paragraphs; the same seed gives the same text."""
    draws = np.random.default_rng(seed)
    words, gaps = np.array(WORDS), np.array([" ", " ", " ", "\n", "\n\n", "  ", "\t"])
    number = characters // 2 + 1
    return "".join(np.stack([draws.choice(words, number), draws.choice(gaps, number)], axis=1).ravel())[:characters]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def write_records(path, rows, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)
        return str(path)
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    return write(path, "\n".join(lines) + "\n" if path.suffix == ".jsonl" else f"[{','.join(lines)}]")


def read(documents):
    """[(where, text)] of each document; of an error, [where, what it says]."""
    found = []
    for each in documents:
        if isinstance(each, SampleError):
            found.append((each.where, f"error: {each.problem}"))
            continue
        pieces = []
        try:
            for piece in each.chunks:
                assert 0 < len(piece) <= CHUNK
                pieces.append(piece)
        except SampleError as error:
            assert error.where == each.where
            pieces = [f"error: {error.problem}"]
        found.append((each.where, "".join(pieces)))
    assert len(found) == documents.count()
    return found


def texts_of(documents):
    return [text for _, text in read(documents)]


def cache_of(path, tokenizer, folder, fraction=0.0, **options):
    read = {name: options.pop(name) for name in ("separator", "text_key") if name in options}
    return tokenise(open_documents(str(path), **read), tokenizer, HeldOut(fraction), folder=folder, **options)


def documents_of(cache, part="train"):
    tokens = np.fromfile(cache.folder / part / "tokens.bin", dtype=f"u{cache.token_bytes}")
    ends = np.fromfile(cache.folder / part / "ends.bin", dtype=np.int64)
    return [tokens[begin:end].tolist() for begin, end in itertools.pairwise([0, *ends])]
