"""The number of our functions that one sample passes on its way from a record to a batch."""

import io
import sys
from pathlib import Path

import pytest
from helpers import build_processor
from PIL import Image

import smol_hf
from smol_hf.data.collator import SmolCollator
from smol_hf.data.records.filters import Filters, RecordReader
from smol_hf.data.stream.packing import PackingPool, Planned
from smol_hf.data.stream.preparation import SampleWork

PACKAGE = Path(smol_hf.__file__).parent
COMPREHENSIONS = ("<genexpr>", "<listcomp>", "<setcomp>", "<dictcomp>")
MOST_FUNCTIONS, MOST_MODULES, MOST_FOLDER_CHANGES = 60, 18, 10


def llava_record():
    file = io.BytesIO()
    Image.new("RGB", (48, 40), (200, 30, 30)).save(file, "PNG")
    conversations = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "A picture."}]
    return {"image": {"bytes": file.getvalue(), "path": None}, "conversations": conversations}


def batch_of_record(record, work, pool, collator):
    """The path of a sample: adapt, filter, measure, pack, encode, collate."""
    sample = work.prepare(0, "data.jsonl:1", record)
    pool.add(Planned((0, 0), sample.num_tokens, sample.num_tiles))
    assert len(pool.next_row()) == 1
    return collator([work.encode(0, sample)])


def calls_of(function, *arguments):
    """(module, function) of each call of a function of the package, in order. A comprehension belongs to the function
    that contains it."""
    calls = []

    def note(frame, event, _):
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE) and frame.f_code.co_name not in COMPREHENSIONS:
            calls.append((path.relative_to(PACKAGE).with_suffix("").as_posix(), frame.f_code.co_qualname))

    sys.setprofile(note)
    try:
        function(*arguments)
    finally:
        sys.setprofile(None)
    return calls


def folder_changes(calls):
    folders = [module.rpartition("/")[0] for module, _ in calls]
    return sum(before != after for before, after in zip(folders, folders[1:]))


@pytest.mark.parametrize("packing", [True, False])
def test_a_llava_record_passes_few_functions_on_its_way_to_a_batch(packing):
    processor = build_processor()
    work = SampleWork(processor, 256, [RecordReader(None, "llava", Filters())])
    pool, collator = (
        PackingPool(256, size=1),
        SmolCollator(processor, packing=packing, locate=False),
    )  # it locates in the batch, not in a sample
    record = llava_record()
    batch = batch_of_record(record, work, pool, collator)  # fills caches, such as the one of rendered templates
    assert batch["pixel_values"].shape[1:] == (3, 32, 32) and (batch["labels"] >= 0).any()

    calls = calls_of(batch_of_record, record, work, pool, collator)

    functions, modules = list(dict.fromkeys(calls)), list(dict.fromkeys(module for module, _ in calls))
    path = "\n".join(f"{module}: {name}" for module, name in calls)
    counted = f"{len(functions)} functions, {len(modules)} modules, {folder_changes(calls)} changes of folder"
    print(f"{counted}\n{path}")
    assert len(functions) <= MOST_FUNCTIONS, f"{counted}:\n{path}"
    assert len(modules) <= MOST_MODULES, f"{counted}:\n{path}"
    assert folder_changes(calls) <= MOST_FOLDER_CHANGES, f"{counted}:\n{path}"
