"""The commands `smol-hf tokenizer …`, as users type them and as the documentation shows them."""

import json
import re
import shlex

import pytest
from doc_pages import blocks, commands, read_page
from transformers import AutoTokenizer

from smol_hf.commands.main import main
from smol_hf.commands.tokenizer import TOKENIZER_COMMANDS

SHOWN = commands("tokenizers")
PROGRAMS = blocks("tokenizers", "python")
TEXT = "Once upon a time there was a model of 3 layers. It read its letters again and again.\n" * 40


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "notes" / "old").mkdir(parents=True)
    for name in ("corpus.txt", "notes/a.md", "notes/old/b.txt"):
        (tmp_path / name).write_text(TEXT)
    (tmp_path / "stories.txt").write_text("<|endoftext|>".join([TEXT] * 3))
    row = {"text": TEXT, "body": TEXT[:500]}
    (tmp_path / "pages.jsonl").write_text("".join(json.dumps(row) + "\n" for _ in range(3)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_the_documentation_shows_runs(here, capsys):
    assert {line.split()[2] for line in SHOWN} == set(TOKENIZER_COMMANDS)
    for line in SHOWN:
        assert main(shlex.split(line)[1:]) == 0, (line, capsys.readouterr().err)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["documents"] == 3 and last["bytes"] == 1500
    assert sorted(each.name for each in (here / "tokenizers").iterdir()) == ["mine", "notes", "pages", "stories"]
    for program in PROGRAMS:
        exec(program, {})


def test_the_table_of_special_tokens_is_true(here):
    assert main(["tokenizer", "train", "corpus.txt", "--output", "mine", "--vocab-size", "300"]) == 0
    tokenizer = AutoTokenizer.from_pretrained("mine")
    rows = re.findall(r"^\| (`.*`) \| ([\d, –]+) \|", read_page("tokenizers"), flags=re.MULTILINE)
    assert len(rows) == 4
    for tokens, ids in rows:
        names = [name.replace("\\", "") for name in re.findall(r"`([^`]+)`", tokens)]
        assert tokenizer.convert_tokens_to_ids(names) == [int(number) for number in re.findall(r"\d+", ids)]


def test_what_was_trained_is_said_with_the_next_command(here, capsys):
    words = [
        "tokenizer",
        "train",
        "stories.txt",
        "notes",
        "--output",
        "my tokenizer",
        "--document-separator",
        r"again.\n",
    ]
    assert main([*words, "--max-bytes", "9000", "--vocab-size", "4000"]) == 0
    printed = capsys.readouterr().out
    tokenizer = AutoTokenizer.from_pretrained("my tokenizer")
    for expected in (
        "trained on 9,000 bytes of ",
        "--max-bytes is the limit",
        f"vocabulary {len(tokenizer)} tokens",
        "4,000 were requested, but no other pair occurs twice",
        "bytes per token, measured on the first 9,000 bytes",
        "written to my tokenizer\n",
        r"next       smol-hf pretrain --data stories.txt --document_separator 'again.\n' --tokenizer 'my tokenizer' ",
        f" --preset smollm-tiny --text_config.vocab_size {len(tokenizer)} --output runs/text\n",
    ):
        assert expected in printed
    assert main(["tokenizer", "train", "corpus.txt", "--output", "my tokenizer", "--max-bytes", "0"]) == 0
    printed = capsys.readouterr().out
    assert ", replacing the older one" in printed and "--max-bytes" not in printed
    (here / "gaps.txt").write_text("one text\n\n\n\nmore text")
    assert main(["tokenizer", "train", "gaps.txt", "--output", "gaps", "--document-separator", r"\n\n"]) == 0
    assert "of 3 documents" in (printed := capsys.readouterr().out) and "including 1 empty document\n" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["corpus.txt", "--vocab-size", "100"], "vocab_size must be at least 275"),
        (["nowhere.txt"], "nowhere.txt does not exist"),
        (["pages.jsonl", "--text-key", "bdy"], "pages.jsonl:1: has no key 'bdy': did you mean 'body'?"),
        (["corpus.txt", "--text-key", "body"], "text_key is for records"),
        (["pages.jsonl", "--document-separator", "x"], "document_separator is for text files"),
        (["corpus.txt", "--split", "test"], "split belong to a dataset of the Hub"),
        (["corpus.txt", "--output", "notes"], "notes holds a.md, not only a tokenizer"),
        (["corpus.txt", "--max-bytes", "-5"], "max_bytes is -5"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(words, message, here, capsys):
    assert main(["tokenizer", "train", "--output", "mine", *words]) == 1
    error = capsys.readouterr().err
    assert error.strip().startswith("error: ") and message in error and "\n" not in error.strip()
    assert not (here / "mine").exists()


def test_it_helps_with_an_example(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["tokenizer", "train", "--help"])
    assert stopped.value.code == 0 and "\n  smol-hf tokenizer train corpus.txt" in capsys.readouterr().out
