"""Tokens of documents as rows: no token lost or repeated."""

import itertools
import json

import pytest
import torch
from document_files import cache_of, documents_of, prose

from smol_hf.data.stream.stream import Plan, RowStream
from smol_hf.modeling.label_loss import IGNORE_INDEX
from smol_hf.text.documents.token_source import TokenSource, TokenWork


@pytest.mark.parametrize("context_length", [2, 16, 64])
@pytest.mark.parametrize("most_blocks", [1_000_000, 7])
def test_every_token_is_a_label_exactly_once(context_length, most_blocks, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr("smol_hf.text.documents.token_source.MOST_BLOCKS", most_blocks)
    path = tmp_path / "texts.jsonl"
    texts = [prose(size, size) for size in (1, 2, 30, 61, 62, 63, 64, 65, 500, 1000)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    cache = cache_of(path, tokenizer, tmp_path / "caches")
    source = TokenSource("texts", cache.folder / "train", cache.key, cache.token_bytes, context_length)
    plan = Plan([source], [1.0], TokenWork(), context_length, rounds=1, lanes=2, pool_size=8)
    pairs = []
    for rank in range(2):
        stream = iter(RowStream(plan, rank, 2))
        while not (row := next(stream)).finished:
            assert sum(len(sample.input_ids) for sample in row.samples) <= context_length
            for sample in row.samples:
                ids, labels = sample.input_ids.tolist(), sample.labels.tolist()
                assert labels[0] == IGNORE_INDEX and labels[1:] == ids[1:]
                pairs += itertools.pairwise(ids)
    expected = [pair for document in documents_of(cache) for pair in itertools.pairwise(document)]
    assert sorted(pairs) == sorted(expected) and len(pairs) == cache.counts["train"].tokens - len(texts)


def test_rows_read_by_workers_are_those_read_here(tmp_path, tokenizer):
    path = tmp_path / "a.txt"
    path.write_text(prose(20_000))
    cache = cache_of(path, tokenizer, tmp_path / "caches")
    source = TokenSource("a", cache.folder / "train", cache.key, cache.token_bytes, 32)
    assert "tokens" not in source.__getstate__() and len(source.tokens)
    plan = Plan([source], [1.0], TokenWork(), 32, rounds=1, lanes=4, pool_size=4)

    def rows(workers):
        stream = itertools.islice(RowStream(plan, workers=workers), 60)
        return [torch.cat([sample.input_ids for sample in row.samples]).tolist() for row in stream]

    assert rows(0) == rows(2)
