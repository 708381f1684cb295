"""Documents in files of tokens: complete or not at all, in bounded memory."""

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from document_files import cache_of, documents_of, prose
from processes import Forked

from smol_hf.text.documents.held_out import HeldOut
from smol_hf.text.documents.readers import open_documents
from smol_hf.text.documents.token_cache import TokenCache, tokenise
from smol_hf.text.tokenizer_training import train_text_tokenizer


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
