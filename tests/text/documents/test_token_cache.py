"""Documents in files of tokens: no token lost or repeated, whole or not at all, in bounded memory."""

import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from processes import Forked
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from smol_hf.data.stream.stream import Plan, RowStream
from smol_hf.modeling.label_loss import IGNORE_INDEX
from smol_hf.text.documents.cutting import pieces
from smol_hf.text.documents.held_out import HeldOut
from smol_hf.text.documents.readers import open_documents
from smol_hf.text.documents.token_cache import TokenCache, Tokens, tokenise
from smol_hf.text.documents.token_source import TokenSource, TokenWork
from smol_hf.text.tokenizer_training import train_text_tokenizer

WORDS = "the old king said that winter comes and 1234 ravens flew over snow-white hills, didn't they?".split()


def prose(characters, seed=0):
    """Words, lines and paragraphs; the same seed gives the same text."""
    draws = np.random.default_rng(seed)
    words, gaps = np.array(WORDS), np.array([" ", " ", " ", "\n", "\n\n", "  ", "\t"])
    number = characters // 2 + 1
    return "".join(np.stack([draws.choice(words, number), draws.choice(gaps, number)], axis=1).ravel())[:characters]


@pytest.fixture(scope="module")
def tokenizer():
    return train_text_tokenizer([prose(20_000)], vocab_size=400)


def metaspace():
    """A tokenizer of SentencePiece's kind: a text is begun by a space, and spaces are part of words."""
    inner = Tokenizer(models.BPE(byte_fallback=False, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    inner.decoder = decoders.Metaspace(prepend_scheme="always")
    inner.train_from_iterator([prose(20_000)], trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "</s>"]))
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")


def cache_of(path, tokenizer, folder, fraction=0.0, **options):
    read = {name: options.pop(name) for name in ("separator", "text_key") if name in options}
    return tokenise(open_documents(str(path), **read), tokenizer, HeldOut(fraction), folder=folder, **options)


def documents_of(cache, part="train"):
    tokens = np.fromfile(cache.folder / part / "tokens.bin", dtype=f"u{cache.token_bytes}")
    ends = np.fromfile(cache.folder / part / "ends.bin", dtype=np.int64)
    return [tokens[begin:end].tolist() for begin, end in itertools.pairwise([0, *ends])]


# Cutting -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("bytes", prose(30_000)), ("bytes", "word" * 5000), ("bytes", "汉字没有空格" * 2000),
        ("bytes", " " * 9000 + "end"), ("metaspace", prose(30_000)),
    ],
)  # fmt: skip
def test_a_text_in_pieces_has_the_tokens_of_the_whole(kind, text, tokenizer):
    tokens = Tokens(tokenizer if kind == "bytes" else metaspace())
    chunks = [text[start : start + 777] for start in range(0, len(text), 777)]
    found = list(pieces(chunks, tokens.encode, size=2000))
    assert "".join(found) == text and max(map(len, found)) <= 2000
    assert [token for piece in found for token in tokens.encode(piece)] == tokens.encode(text)


def test_a_text_that_cannot_be_cut_for_a_tokenizer_is_refused():
    """SentencePiece would put a space before the second piece of a word."""
    with pytest.raises(ValueError, match="merges across every position"):
        list(pieces(["word" * 5000], Tokens(metaspace()).encode, size=2000))


# The files -----------------------------------------------------------------------------------------------------------


def test_each_document_begins_and_ends_and_no_text_becomes_a_special_token(tmp_path, tokenizer):
    texts = ["One text.", prose(3000), "it says <|endoftext|> itself", "Ünïcode 🙂 naïve"]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    cache = cache_of(path, tokenizer, tmp_path / "caches")
    found = documents_of(cache)
    assert [tokenizer.decode(document[1:-1]) for document in found] == texts
    edge = tokenizer.eos_token_id
    assert all(document[0] == document[-1] == edge and edge not in document[1:-1] for document in found)
    counts = cache.counts["train"]
    assert counts.text_bytes == sum(len(text.encode()) for text in texts)
    assert (counts.documents, counts.tokens) == (4, sum(map(len, found)))


def test_long_and_short_documents_are_written_in_their_order(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr("smol_hf.text.documents.token_cache.AT_ONCE", 5000)
    texts = [prose(size, seed) for seed, size in enumerate([10, 20_000, 5, 1, 12_000, 700, 4999, 3])]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    found = documents_of(cache_of(path, tokenizer, tmp_path / "caches"))
    assert [tokenizer.decode(document[1:-1]) for document in found] == texts


def test_progress_is_told_in_the_middle_of_a_document_too(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr("smol_hf.text.documents.token_cache.AT_ONCE", 100_000)
    (tmp_path / "book.txt").write_text(prose(400_000))
    told = []
    cache = cache_of(tmp_path / "book.txt", tokenizer, tmp_path / "caches", progress=lambda *facts: told.append(facts))
    assert len(told) > 3 and told == sorted(told) and told[0][0] < 200_000
    assert told[-1] == (400_000, cache.counts["train"].tokens - 2)


def test_what_cannot_be_used_is_taken_back_and_named(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr("smol_hf.text.documents.token_cache.AT_ONCE", 500)
    folder = tmp_path / "texts"
    folder.mkdir()
    good = {"a.txt": prose(2000, 1), "c.txt": prose(10, 2), "e.txt": prose(800, 3)}
    for name, text in good.items():
        (folder / name).write_text(text)
    (folder / "b.txt").write_bytes(prose(300_000).encode() + b"\xff and more")  # found after much was written
    (folder / "d.txt").write_bytes(b"\xff")
    (folder / "empty.txt").write_text("")
    cache = cache_of(folder, tokenizer, tmp_path / "caches")
    assert [tokenizer.decode(each[1:-1]) for each in documents_of(cache)] == list(good.values())
    assert [fault.where for fault in cache.faults if "empty" not in fault.where] == ["texts/b.txt", "texts/d.txt"]
    assert "0xff at byte 300000" in cache.faults[0].problem and cache.in_a_row >= 1
    again = TokenCache.open(cache.folder)
    assert [str(fault) for fault in again.faults] == [str(fault) for fault in cache.faults]
    assert again.counts == cache.counts and again.records == 6


def test_a_cache_is_made_once_for_the_same_text_tokenizer_and_split(tmp_path, tokenizer):
    path = tmp_path / "a.txt"
    path.write_text(prose(5000))
    first = cache_of(path, tokenizer, tmp_path / "caches")
    written = (first.folder / "train" / "tokens.bin").stat().st_mtime_ns
    assert cache_of(path, tokenizer, tmp_path / "caches").folder == first.folder
    assert (first.folder / "train" / "tokens.bin").stat().st_mtime_ns == written
    assert cache_of(path, tokenizer, tmp_path / "caches", 0.1).key != first.key
    assert cache_of(path, train_text_tokenizer([prose(900)], vocab_size=300), tmp_path / "caches").key != first.key
    path.write_text(prose(5000) + "!")
    assert cache_of(path, tokenizer, tmp_path / "caches").key != first.key


def test_a_wide_vocabulary_takes_wider_numbers(tmp_path, tokenizer):
    wide = train_text_tokenizer([prose(2000)], vocab_size=300)
    wide.add_tokens([f"<extra_{number}>" for number in range(70_000)])
    path = tmp_path / "a.txt"
    path.write_text("said <extra_69999> here")
    cache = cache_of(path, wide, tmp_path / "caches")
    assert cache.token_bytes == 4
    assert wide.decode(documents_of(cache)[0][1:-1], spaces_between_special_tokens=False).replace(" ", "") == (
        "said<extra_69999>here"
    )


def test_a_full_disk_leaves_nothing_half_written(tmp_path, tokenizer):
    """The limit of a process on the size of its files stands for the disk: the same error at the same call."""
    (tmp_path / "big.txt").write_text(prose(2_000_000))

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        cache_of(tmp_path / "big.txt", tokenizer, tmp_path / "caches")

    code, said = Forked(limited, tmp_path / "printed.txt").wait()
    message = said.strip().splitlines()[-1]
    assert code == 1 and "the tokens cannot be kept in" in message
    assert "GB are free" in message and "documents_cache" in message
    assert sorted(each.name for each in (tmp_path / "caches").iterdir()) == [".locks"]


def make_cache(folder, pause, tokenizer):
    def wait(read, made):
        print("begun", flush=True)
        time.sleep(pause)

    options = {"folder": folder / "caches", "progress": wait}
    print(tokenise(open_documents(str(folder / "a.txt")), tokenizer, HeldOut(), **options).folder)


def making(folder, pause, tokenizer, number=0):
    return Forked(make_cache, folder / f"printed-{number}", folder, pause, tokenizer)


def test_of_two_runs_at_once_one_writes_and_both_read(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text(prose(5000))
    both = [making(tmp_path, 1, tokenizer, number) for number in range(2)]
    codes, printed = zip(*(each.wait() for each in both))
    said = [each.splitlines() for each in printed]
    assert codes == (0, 0)
    assert said[0][-1] == said[1][-1] and sorted(map(len, said)) == [1, 2], "one of them made it"


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text(prose(5000))
    (tmp_path / "other.txt").write_text(prose(900))
    killed = making(tmp_path, 100, tokenizer)
    killed.wait_for("begun\n")
    caches = tmp_path / "caches"
    beside = cache_of(tmp_path / "other.txt", tokenizer, caches)
    assert len([*caches.glob("*.unfinished")]) == 1, "what another process writes stays"
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    (tmp_path / "other.txt").write_text(prose(901))
    cache = cache_of(tmp_path / "other.txt", tokenizer, caches)
    assert {each.name for each in caches.iterdir()} == {".locks", beside.folder.name, cache.folder.name}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("train/tokens.bin", b"1234", "train/tokens.bin has 4 bytes"), ("train/ends.bin", b"", "train/ends.bin has 0"),
        ("validation/tokens.bin", None, "tokens.bin"), ("cache.json", b"{", "line 1"), ("cache.json", b"[]", "list"),
        ("cache.json", b'{"key": "a"}', "counts"),
    ],
)  # fmt: skip
def test_a_cache_that_was_damaged_is_refused(name, content, said, tmp_path, tokenizer):
    path = tmp_path / "a.txt"
    path.write_text(prose(5000))
    folder = cache_of(path, tokenizer, tmp_path / "caches").folder
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match="were damaged after they were written") as error:
        cache_of(path, tokenizer, tmp_path / "caches")
    assert said in str(error.value) and f"{folder}" in str(error.value)


# What is held out ----------------------------------------------------------------------------------------------------


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


# Pieces and rows -----------------------------------------------------------------------------------------------------


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


@pytest.mark.slow
def test_a_large_text_is_tokenised_in_bounded_memory(tmp_path):
    text = tmp_path / "large.txt"
    with text.open("w") as file:
        for number in range(12):
            file.write(prose(100_000, number) * 10)  # 12 MB in all, one document
    script = """
        import resource, sys
        from pathlib import Path
        from smol_hf.text.documents.held_out import HeldOut
        from smol_hf.text.documents.readers import open_documents
        from smol_hf.text.documents.token_cache import tokenise
        from smol_hf.text.tokenizer_training import train_text_tokenizer
        import smol_hf.text.documents.token_cache as token_cache
        tokenizer = train_text_tokenizer(["some words"], vocab_size=300)
        token_cache.AT_ONCE = 1 << 17
        folder = Path(sys.argv[1])
        (folder / "small.txt").write_text((folder / "large.txt").read_text()[:400_000])
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        tokenise(open_documents(str(folder / "small.txt")), tokenizer, HeldOut(0.1), folder=folder / "caches")
        before = peak()
        cache = tokenise(open_documents(str(folder / "large.txt")), tokenizer, HeldOut(0.1), folder=folder / "caches")
        print(peak() - before, cache.counts["train"].text_bytes + cache.counts["validation"].text_bytes)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    more, text_bytes = map(int, done.stdout.split())
    assert text_bytes == text.stat().st_size
    assert more < 30, "megabytes; the tokens alone, as a list of Python, would be hundreds"
