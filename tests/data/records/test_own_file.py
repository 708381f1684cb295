"""Adapters in a file of the user's own, named in a recipe by its path."""

import io
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from doc_pages import blocks
from PIL import Image

from smol_hf import train
from smol_hf.data.conversation import SampleError
from smol_hf.data.records import Place, adapt, registry
from smol_hf.data.records.own_file import registered_by
from smol_hf.data.records.registry import AdapterError

(CARDS,) = blocks("records", "python")


@pytest.fixture(autouse=True)
def forgotten():
    before = dict(registry.ADAPTERS)
    yield
    registry.ADAPTERS.clear()
    registry.ADAPTERS.update(before)
    registered_by.cache_clear()


def card(number):
    stream = io.BytesIO()
    Image.new("RGB", (9, 9), (number * 20, 0, 0)).save(stream, "PNG")
    return {"front": {"bytes": stream.getvalue(), "path": None}, "back": f"Red {number}."}


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_run_reads_by_the_file_that_the_documentation_shows(tmp_path, monkeypatch, workers):
    monkeypatch.chdir(tmp_path)
    Path("cards.py").write_text(CARDS)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([card(n) for n in range(8)]), "cards.parquet")
    keys = ["--preset", "tiny-vlm", "--data", "cards.parquet", "--adapter", "cards.py", "--output_dir", "run"]
    small = ["--num_train_epochs", "1", "--use_cpu", "true", "--save_strategy", "no", "--context_length", "256"]
    assert train.main([*keys, *small, "--dataloader_num_workers", workers]) == 0
    assert json.loads(Path("run/run.json").read_text())["samples"] == 8


def test_a_record_that_it_cannot_read_is_a_bad_sample(tmp_path):
    (tmp_path / "cards.py").write_text(CARDS)
    name = str(tmp_path / "cards.py")
    assert adapt(card(1), Place("a:1"), name=name).images[0].content
    assert adapt(card(1), Place("a:1"), name=f"{name}:cards").sample_id == "a:1"
    for record, problem in (({"back": "x"}, "KeyError: 'front'"), ({"front": None, "back": "x"}, "TypeError")):
        with pytest.raises(SampleError, match=f"a:2: the adapter cards cannot read it: {problem}"):
            adapt(record, Place("a:2"), name=name)


TWO = "\n".join(
    ["from smol_hf.data.records import adapter", *(f"adapter('own-{n}')(lambda record, place: None)" for n in "ab")]
)


@pytest.mark.parametrize(
    ("text", "member", "problem"),
    [
        (None, "", "does not exist"),
        ("", "", "must register an adapter with the decorator .*: none"),
        ("x = 1", ":x", "registers no adapter, not 'x'"),
        (TWO, "", "several .own-a, own-b.: name one as .*mine.py:own-a"),
        (TWO, ":own-c", "registers own-a, own-b, not 'own-c'"),
        ("import nothing_of_this_name", "", "cannot be run: ModuleNotFoundError"),
        ("def", "", "cannot be run: SyntaxError"),
        ("from smol_hf.data.records import adapter\nadapter('llava')(print)", "", "there is an adapter 'llava'"),
    ],
)
def test_a_file_that_is_no_adapter_says_so(tmp_path, text, member, problem):
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    before = set(registry.ADAPTERS)
    with pytest.raises(AdapterError, match=problem):
        registry.find_adapter(f"{path}{member}")
    assert before <= set(registry.ADAPTERS)


def test_one_of_several_is_named(tmp_path):
    (tmp_path / "mine.py").write_text(TWO)
    assert registry.find_adapter(f"{tmp_path}/mine.py:own-b").name == "own-b"
