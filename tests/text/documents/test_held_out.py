"""The part of the documents that is held out for validation."""

import json

import pytest
from document_files import cache_of, documents_of, prose

from smol_hf.text.documents.held_out import HeldOut
from smol_hf.text.documents.readers import open_documents
from smol_hf.text.documents.token_cache import tokenise


def test_of_few_documents_the_end_of_each_is_held_out(tmp_path, tokenizer):
    folder = tmp_path / "texts"
    folder.mkdir()
    texts = {f"{name}.txt": prose(size, size) for name, size in (("a", 40_000), ("b", 400_000), ("c", 3000))}
    for name, text in texts.items():
        (folder / name).write_text(text)
    cache = cache_of(folder, tokenizer, tmp_path / "caches", 0.1)
    edge = tokenizer.eos_token_id
    train, held = ([tokenizer.decode([t for t in each if t != edge]) for each in documents_of(cache, part)]
                   for part in ("train", "validation"))  # fmt: skip
    assert [head + tail for head, tail in zip(train, held)] == list(texts.values())
    for head, tail in zip(train, held):
        assert len(tail) == pytest.approx(0.1 * len(head + tail), abs=1000)
        assert head.endswith("\n") or "\n" not in tail[:900]
    assert cache.counts["validation"].text_bytes == sum(map(len, held))
    assert all(each[-1] != edge for each in documents_of(cache)), "what is cut off does not end there"


def test_what_is_too_short_to_be_cut_stays_whole_with_its_end(tmp_path, tokenizer):
    path = tmp_path / "texts.jsonl"
    texts = ["a", "seven!!", "", prose(3000)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    edge = tokenizer.eos_token_id
    cache = cache_of(path, tokenizer, tmp_path / "caches", 0.05)
    assert [each[-1] == edge for each in documents_of(cache)] == [True, True, False]
    assert [each[-1] == edge for each in documents_of(cache, "validation")] == [True]
    assert cache.empty == 1
    cache = cache_of(path, tokenizer, tmp_path / "caches", 0.9)
    assert tokenizer.decode(documents_of(cache, "validation")[0][1:-1]) == "a"
    assert sum(each.documents for each in cache.counts.values()) == 5 and cache.empty == 1


def test_of_many_documents_whole_ones_are_held_out(tmp_path, tokenizer):
    path = tmp_path / "texts.jsonl"
    texts = [f"Document {number}: {prose(50, number)}" for number in range(1000)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    cache = cache_of(path, tokenizer, tmp_path / "caches", 0.1)
    train, held = ([tokenizer.decode(each[1:-1]) for each in documents_of(cache, part)]
                   for part in ("train", "validation"))  # fmt: skip
    assert sorted(train + held) == sorted(texts) and 60 < len(held) < 140
    fewer = tokenise(open_documents(str(path)), tokenizer, HeldOut(0.1, most=500), folder=tmp_path / "caches")
    assert 500 <= fewer.counts["validation"].text_bytes < 600
    assert sum(counts.documents for counts in fewer.counts.values()) == 1000
    limited = cache_of(path, tokenizer, tmp_path / "caches", 0.1, limit=300)
    assert limited.records == 300 == sum(counts.documents for counts in limited.counts.values())
