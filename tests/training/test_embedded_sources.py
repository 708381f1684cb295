"""The embedded digits as `data`, and as entries of a mixture: pages, clips, and descriptions of them in words."""

import pytest
from helpers import build_processor

from smol_hf.data.digits import EMBEDDED
from smol_hf.data.stream.preparation import SampleWork
from smol_hf.training.data import open_data
from smol_hf.training.recipe.data_arguments import DataArguments

MODALITY = {"digits": "image", "digit_clips": "video", "digit_stories": "text"}


def samples(data, source):
    work = SampleWork(build_processor(longest_edge=32), 512, data.readers)
    rows = [data.sources[source].read_block(number)[0] for number in range(4)]
    return [work.encode(source, work.prepare(source, *row)) for row in rows]


@pytest.mark.parametrize("name", EMBEDDED)
def test_each_is_a_source_of_its_modality(name):
    data = open_data(DataArguments(data=name, num_pages=20, turns_per_page=2), seed=0)
    assert [(source.name, len(source)) for source in data.sources] == [(name, 20)] and not data.surveyed
    found = samples(data, 0)
    assert {sample.modality for sample in found} == {MODALITY[name]}
    assert {len(sample.tiles) for sample in found} == {{"image": 1, "video": 5, "text": 0}[MODALITY[name]]}
    assert len({sample.sample_id for sample in found}) == 4
    with pytest.raises(ValueError, match=f"no effect with data: {name}"):
        DataArguments(data=name, dataset_split="test")


def test_they_are_mixed_by_weight_and_each_has_its_fingerprint(tmp_path):
    mixture = [{"data": "digit_clips"}, {"data": "digits", "weight": 0.5, "name": "pages"}]
    data = open_data(DataArguments(mixture=mixture, num_pages=20), seed=0)
    assert [source.name for source in data.sources] == ["digit_clips", "pages"]
    assert data.weights == [1.0, 0.5] and not data.surveyed
    assert [samples(data, source)[0].modality for source in (0, 1)] == ["video", "image"]
    alone = [open_data(DataArguments(data=name, num_pages=20), seed=0).sources[0].fingerprint for name in EMBEDDED]
    assert len(set(alone)) == len(EMBEDDED) and data.sources[0].fingerprint in alone
    other = open_data(DataArguments(mixture=mixture, num_pages=20), seed=1).sources[0]
    assert other.fingerprint != data.sources[0].fingerprint
    for key, value in (("adapter", "llava"), ("filters", {"max_turns": 1}), ("split", "test")):
        with pytest.raises(ValueError, match=f"{key} has no effect with data: digits|{key}.*digits"):
            open_data(DataArguments(mixture=[{"data": "digits", key: value}], num_pages=20), seed=0)
