"""What the tests of adapters do with records: turn their columns round, take fields out, and read them strictly."""

import copy
import re
from pathlib import Path

import pytest
from datasets import Dataset

from smol_hf.data.conversation import Conversation, Message, SampleError, TextPart
from smol_hf.data.records import Place, adapt

MEDIA = Path("media")
PLACE = Place("rows:1", MEDIA)


def user(*parts):
    return Message("user", tuple(TextPart(part) if isinstance(part, str) else part for part in parts))


def assistant(text):
    return Message("assistant", (TextPart(text),))


def conversation(*messages, source="", turn_ratings=()):
    return Conversation("rows:1", messages, source, turn_ratings)


def reversed_columns(value):
    """The same record with the columns of every level in the opposite order."""
    if isinstance(value, dict):
        return {key: reversed_columns(value[key]) for key in reversed(value)}
    return [reversed_columns(item) for item in value] if isinstance(value, list) else value


def without(record, way):
    """A copy of the record that lacks the field at `way`, as `json.scenes[0].activities`."""
    record = copy.deepcopy(record)
    *parents, last = re.findall(r"[^.\[\]]+", way)
    inside = record
    for step in parents:
        inside = inside[int(step)] if isinstance(inside, list) else inside[step]
    del inside[last]
    return record


def check(record, expected, dataset=None, *, arrow=True):
    """The record becomes `expected`, in whatever order its columns stand and after a journey through Arrow (unless it
    mixes types that Arrow cannot hold), and it is left as it was."""
    before = copy.deepcopy(record)
    assert adapt(record, PLACE, dataset=dataset) == expected
    assert adapt(reversed_columns(record), PLACE, dataset=dataset) == expected
    assert record == before
    if arrow:
        assert adapt(Dataset.from_list([record])[0], PLACE, dataset=dataset) == expected


def fault_of(record, place=PLACE, **options):
    with pytest.raises(SampleError) as error:
        adapt(record, place, **options)
    assert error.value.where == place.where
    return error.value.problem
