"""The tokenizer of a language model: any text comes back, the same texts give the same files, nothing is lost."""

import hashlib
import json
import os
import random
import resource
import subprocess
import sys

import pytest
from modeling.older_transformers import older_interpreter
from processes import run_script
from transformers import AutoTokenizer

from smol_hf.data.conversation import SampleError
from smol_hf.text import tokenizer_training as text_tokenizer
from smol_hf.text.documents import document as reading
from smol_hf.text.documents.document import Document, Documents, Reading, at_words
from smol_hf.text.documents.readers import open_documents, unescaped
from smol_hf.text.tokenizer_training import (
    MINIMUM_VOCAB_SIZE,
    SPECIAL_TOKENS,
    train_text_tokenizer,
    write_text_tokenizer,
)

STRANGE = [
    "", " ", "  two  spaces\r\nand a \t tab ", "don't 1234567890 3.14", "naïve 漢字 🙂👩‍👩‍👧 \u200b\x00\x7f",
    "a literal <|endoftext|> and <|im_start|>user<|im_end|> and <repo_name><|pad|>",
]  # fmt: skip


class Given(Documents):
    """Documents that are at hand."""

    def __init__(self, name, texts):
        self.name, self.texts, self.fingerprint = name, texts, ""

    def __iter__(self):
        for number, text in enumerate(self.texts, 1):
            yield text if isinstance(text, SampleError) else Document(f"{self.name}:{number}", [text] if text else [])

    def count(self):
        return len(self.texts)


def corpus(number=400, seed=0):
    source = random.Random(seed)
    words = ["".join(source.choices("abcdefghijklmnop é漢", k=source.randint(1, 9))) for _ in range(300)]
    return [" ".join(source.choices(words, k=40)) + "\n" for _ in range(number)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_text_tokenizer(corpus(), vocab_size=700)


@pytest.fixture
def text_file(tmp_path):
    (tmp_path / "corpus.txt").write_text("".join(corpus()))
    return tmp_path / "corpus.txt"


def sums(folder):
    return {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in folder.iterdir()}


@pytest.mark.parametrize("text", [*STRANGE, corpus(1, seed=9)[0]])
def test_any_text_comes_back_without_special_tokens(tokenizer, text):
    ids = tokenizer(text, split_special_tokens=True)["input_ids"]
    assert tokenizer.decode(ids) == text and not set(ids) & set(tokenizer.all_special_ids)


def test_what_the_tokens_are(tokenizer):
    assert len(tokenizer) == 700 and MINIMUM_VOCAB_SIZE == 18 + 256 + 1
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(18))
    assert set(tokenizer.all_special_tokens) == set(SPECIAL_TOKENS)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token) == (0, 0, "<|pad|>")
    assert tokenizer.chat_template is None and tokenizer.unk_token is None
    assert tokenizer.tokenize("1234") == list("1234")
    assert tokenizer("plain")["input_ids"] == tokenizer("plain", add_special_tokens=False)["input_ids"]
    assert tokenizer("<|im_start|>a<|im_end|>")["input_ids"][::2] == [1, 2]
    assert len(tokenizer("x" * 20_000)["input_ids"]) <= tokenizer.model_max_length
    with pytest.raises(ValueError, match=r"vocab_size must be at least 275, for 18 special tokens.*got 274"):
        train_text_tokenizer([], vocab_size=274)


def test_special_tokens_in_the_texts_are_text():
    texts = ["<|im_start|>user says <repo_name> and <|endoftext|>\n"] * 50
    trained = train_text_tokenizer(texts, vocab_size=320)
    ids = trained(texts[0], split_special_tokens=True)["input_ids"]
    assert not set(ids) & set(range(18)) and trained.decode(ids) == texts[0]
    learned = [trained.convert_ids_to_tokens(number) for number in range(274, len(trained))]
    assert "endoftext" in learned and "repo" in learned and not any("<|im" in token for token in learned)


def test_what_stands_side_by_side_once_is_not_merged():
    trained = train_text_tokenizer(["abc abc xyz"], vocab_size=400)
    assert trained.tokenize("abc xyz") == ["abc", "Ġ", "x", "y", "z"]


def test_the_same_texts_give_the_same_files(text_file, tmp_path):
    program = """
import sys
from smol_hf.text.documents.readers import open_documents
from smol_hf.text.tokenizer_training import write_text_tokenizer
write_text_tokenizer([open_documents(sys.argv[1])], sys.argv[2], vocab_size=700)
"""
    facts = write_text_tokenizer([open_documents(str(text_file))], tmp_path / "here", vocab_size=700)
    environment = {**os.environ, "RAYON_NUM_THREADS": "1", "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", program, str(text_file), str(tmp_path / "there")]
    subprocess.run(command, check=True, env=environment)
    assert sums(tmp_path / "here") == sums(tmp_path / "there") and len(sums(tmp_path / "here")) == 2
    size = text_file.stat().st_size
    assert facts["bytes"] == facts["measured_bytes"] == size and facts["all_read"] and not facts["replaced"]
    tokens = AutoTokenizer.from_pretrained(tmp_path / "here")(text_file.read_text())["input_ids"]
    assert facts["bytes_per_token"] == pytest.approx(size / len(tokens), rel=0.01)  # the sample stands in pieces


@pytest.mark.parametrize("line", ["this", "4.57"])
def test_auto_tokenizer_loads_it(line, tokenizer, text_file, tmp_path):
    write_text_tokenizer([open_documents(str(text_file))], tmp_path / "mine", vocab_size=700)
    program = """
import json, sys
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ids = [tokenizer(text, split_special_tokens=True)["input_ids"] for text in json.loads(sys.argv[2])]
special = tokenizer(["<|im_start|>a", "<|pad|>"], padding=True)["input_ids"]
names = [tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.chat_template]
texts = [tokenizer.decode(each) for each in ids]
print(json.dumps([len(tokenizer), names, ids, special, texts, sorted(tokenizer.all_special_ids)]))
"""
    (tmp_path / "program.py").write_text(program)
    texts = [text for text in STRANGE if "\0" not in text]
    words = [tmp_path / "program.py", tmp_path / "mine", json.dumps(texts)]
    if line == "this":
        printed = run_script(*words)
    else:
        command = [older_interpreter(), "-I", *words]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    length, names, ids, special, back, special_ids = json.loads(printed.splitlines()[-1])
    assert length == 700 and names == ["<|endoftext|>", "<|endoftext|>", "<|pad|>", None]
    assert back == texts and special_ids == list(range(18))
    assert special[0][0] == 1 and set(special[1]) == {17}
    here = AutoTokenizer.from_pretrained(tmp_path / "mine")
    assert ids == [here(text, split_special_tokens=True)["input_ids"] for text in texts]


def test_pieces_end_where_words_do(monkeypatch):
    monkeypatch.setattr(reading, "PIECE", 10)
    source = random.Random(0)
    for _ in range(50):
        chunks = ["".join(source.choices("ab  \n", k=source.randint(1, 25))) for _ in range(5)]
        pieces = list(at_words(chunks))
        assert "".join(pieces) == "".join(chunks) and all(0 < len(piece) <= 10 for piece in pieces)
    text = "some words, and more of them\nto be cut"
    assert all(piece[0] in " \n" for piece in list(at_words([text[:13], text[13:]]))[1:])
    assert list(at_words(["x" * 25])) == ["x" * 10, "x" * 10, "x" * 5]
    assert list(at_words([])) == []


def test_sources_share_what_is_read(tmp_path):
    sources = [Given("long", ["é" * 100] * 50), Given("short", ["b" * 30, ""]), Given("third", ["c" * 10] * 90)]
    read = Reading(sources, max_bytes=601, kept=50)
    text = "".join(read)
    assert len(text.encode()) == read.bytes and read.bytes in (600, 601) and not read.all_read
    assert text.count("b") == 30 and abs(2 * text.count("é") - text.count("c")) <= 200 and text.count("c") > 100
    assert read.empty == 1 and 50 <= read.sampled == len("".join(read.sample).encode()) < 600
    whole = Reading(sources, max_bytes=50 * 200 + 30 + 900)
    assert len("".join(whole).encode()) == whole.bytes == 10_930 and whole.all_read
    assert whole.documents == 50 + 2 + 90
    assert "".join(Reading(sources[:1], max_bytes=7)) == "ééé"  # no half of a character


def test_a_text_that_cannot_be_read_stops_it_and_leaves_nothing(tmp_path):
    sources = [Given("good", ["a"] * 3), Given("bad", ["a", SampleError("bad:2", "has no text")])]
    with pytest.raises(SampleError, match="bad:2: has no text"):
        write_text_tokenizer(sources, tmp_path / "mine", vocab_size=300)
    (tmp_path / "late.txt").write_bytes(b"fine " * 100_000 + b"\xff")
    with pytest.raises(SampleError, match=r"late.txt: is not UTF-8: byte 0xff at byte 500000"):
        write_text_tokenizer([open_documents(str(tmp_path / "late.txt"))], tmp_path / "mine", vocab_size=300)
    with pytest.raises(SampleError, match="a and b: its documents hold no text"):
        write_text_tokenizer([Given("a", [""]), Given("b", [])], tmp_path / "mine", vocab_size=300)
    with pytest.raises(ValueError, match="vocab_size must be at least 275"):
        write_text_tokenizer([Given("a", ["a"])], tmp_path / "mine", vocab_size=3)
    with pytest.raises(ValueError, match="max_bytes is -1"):
        write_text_tokenizer([Given("a", ["a"])], tmp_path / "mine", vocab_size=300, max_bytes=-1)
    assert [each.name for each in tmp_path.iterdir()] == ["late.txt"]


def test_only_a_tokenizer_is_replaced(tmp_path):
    mine = tmp_path / "deep" / "mine"
    assert not write_text_tokenizer([Given("a", ["one text"])], mine, vocab_size=300)["replaced"]
    first = sums(mine)
    facts = write_text_tokenizer([Given("a", ["other texts, other texts"])], mine, vocab_size=300)
    assert facts["replaced"] and facts["vocab_size"] < 300 and sums(mine) != first
    assert [each.name for each in mine.parent.iterdir()] == ["mine"]
    second = sums(mine)
    (mine / "model.safetensors").touch()
    with pytest.raises(FileExistsError, match=r"mine holds model.safetensors, not only a tokenizer"):
        write_text_tokenizer([Given("a", ["one text"])], mine, vocab_size=300)
    (mine / "model.safetensors").unlink()
    assert sums(mine) == second
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(FileExistsError, match=r"holds deep"):
        write_text_tokenizer([Given("a", ["a"])], tmp_path, vocab_size=300)
    with pytest.raises(FileExistsError, match="is a file"):
        write_text_tokenizer([Given("a", ["a"])], tmp_path / "vocab.json", vocab_size=300)


def test_a_full_disk_leaves_what_was_there(tmp_path):
    mine = tmp_path / "mine"
    write_text_tokenizer([Given("a", ["one text"])], mine, vocab_size=300)
    before, limits = sums(mine), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))  # no file may grow further
    try:
        with pytest.raises(OSError, match="too large"):
            write_text_tokenizer([Given("a", corpus())], mine, vocab_size=700)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sums(mine) == before and [each.name for each in tmp_path.iterdir()] == ["mine"]


def test_no_text_is_kept(monkeypatch):
    """What is measured is a sample, and the trainer asks for no more texts ahead than fit the memory."""
    monkeypatch.setattr(text_tokenizer, "MEASURED", 1000)
    asked = 0

    def texts():
        nonlocal asked
        for asked in range(1, 3001):  # noqa: B007
            yield "words of a text " * 100

    read = Reading([Given("a", texts())], kept=1000, advance=lambda size: None)
    train_text_tokenizer(read, vocab_size=300)
    assert asked == 3000 and read.sampled == 1600 and len(read.sample) == 1


def test_escapes_of_a_separator():
    assert unescaped(r"\n\n\t\\n") == "\n\n\t\\n" and unescaped("<|endoftext|>") == "<|endoftext|>"
    assert unescaped(r"\x é") == r"\x é"
