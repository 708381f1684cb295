"""Tables whose words are never broken."""

import io

import pytest
from rich.console import Console
from rich.table import Column, Table

from smol_hf.support.tables import print_parts

PATH = "runs/a-rather-long-name/of/a/folder/checkpoint/model-00001-of-00002.safetensors"
SENTENCE = "a sentence of several words that may be folded between any two of them, but not inside one"


@pytest.mark.parametrize("width", [20, 80, 200])
def test_no_word_is_broken_and_sentences_fold(width):
    table = Table("file", "what it is", Column("bytes", justify="right", overflow="fold"))
    table.add_row(PATH, SENTENCE, "1,234,567")
    stream = io.StringIO()
    print_parts(Console(file=stream, width=width), [f"the result is in {PATH}", table])
    first, *rows = stream.getvalue().splitlines()
    assert first == f"the result is in {PATH}"
    assert sum(PATH in row for row in rows) == 1 and sum("1,234,567" in row for row in rows) == 1
    assert "".join(SENTENCE.split()) in "".join(cell for row in rows for cell in "".join(row.split("│")[2:3]).split())
    assert all(word in "\n".join(rows) for word in SENTENCE.split())
    assert (len(rows) == 5) == (width == 200), "a wide terminal needs no folding"
