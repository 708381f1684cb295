"""The published mixtures, as the engine draws them; and entries that cannot be."""

import itertools
from collections import Counter

import pytest
import yaml

from smol_hf.data.conversation import SampleError
from smol_hf.data.mixture.failed_sources import FailedSource
from smol_hf.data.mixture.mixture import MixtureEntry, data_of, open_mixture, parse_entries
from smol_hf.data.mixture.shares import PlannedMixture, by_modality, shares
from smol_hf.data.sources.source import BlockCache, MadeSource
from smol_hf.data.stream.stream import Plan
from smol_hf.support.resources import resource_path

# Published in the paper's order: text, image, several images, video, in percent.
PUBLISHED = {
    "smolvlm2_256m_500m": (107, 3_026_989, (21.5, 33.8, 11.6, 33.1)),
    "smolvlm2_2b": (110, 3_353_785, (20.3, 34.3, 12.3, 33.1)),
}
ORDER = ("text", "image", "multiimage", "video")


def entries_of(name):
    return parse_entries(yaml.safe_load(resource_path("recipes", "mixtures", f"{name}.yaml").read_text("utf-8")))


def percents(modalities, numbers):
    sums = by_modality(modalities, shares(numbers))
    return pytest.approx([100 * sums[modality] for modality in ORDER], abs=0.1)


def made(entries, smaller=1):
    """The entries with sources of the sizes that they name, or of a part of them, and nothing in them."""
    opened = []
    for entry in entries:
        samples = max(1, round(entry.samples / smaller))
        source = MadeSource(
            entry.name, max(samples, round(entry.available / smaller)), lambda n: ("", n), fingerprint=""
        )
        opened.append((MixtureEntry(**{**vars(entry), "samples": samples}), source, None))
    return data_of(opened, "quota", [])


def plan_of(data, **options):
    return Plan(data.sources, data.weights, None, 1, **options)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_mixtures_have_the_published_shares(name):
    number, samples, published = PUBLISHED[name]
    entries = entries_of(name)
    planned = [entry.records(entry.available) for entry in entries]
    assert (len(entries), sum(planned)) == (number, samples)
    modalities = [entry.modality for entry in entries]
    assert percents(modalities, planned) == list(published)
    mixture = PlannedMixture.of(made(entries))
    assert percents(mixture.modalities, mixture.records) == list(published)
    assert mixture.other_sizes() == []


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_round_of_a_published_mixture_comes_out_as_published(name):
    data = made(entries_of(name), smaller=100)
    plan, drawn = plan_of(data, rounds=1), Counter()
    for number in range(plan.lanes):
        mixing = plan.lane(number, BlockCache(data.sources)).mixing
        while (draw := mixing.draw()) is not None:
            drawn[draw[0]] += 1
    assert [drawn[index] for index in range(len(data.sources))] == [entry.samples for entry in data.entries]
    modalities = [entry.modality for entry in data.entries]
    assert percents(modalities, [drawn[index] for index in range(len(modalities))]) == list(PUBLISHED[name][2])


@pytest.mark.parametrize("name", PUBLISHED)
def test_ten_thousand_draws_are_within_a_point_of_each_share(name):
    """Of sources as large as they are: the lanes take turns, as the rows of a run do."""
    data = made(entries_of(name))
    plan, drawn = plan_of(data), Counter()
    mixings = [plan.lane(number, BlockCache(data.sources)).mixing for number in range(2)]
    for mixing in itertools.islice(itertools.cycle(mixings), 10_000):
        drawn[mixing.draw()[0]] += 1
    for index, share in enumerate(shares(PlannedMixture.of(data).records)):
        assert abs(drawn[index] / 10_000 - share) < 0.01, data.sources[index].name


def write_rows(path, number):
    path.write_text("".join('{"caption": "x", "image": "a.png"}\n' for _ in range(number)))
    return str(path)


@pytest.mark.parametrize(("samples", "epochs"), [(3, 1), (10, 1), (25, 3)])
def test_a_number_of_samples_takes_part_of_a_source_or_repeats_it(samples, epochs, tmp_path):
    entries = [
        {"data": write_rows(tmp_path / "a.jsonl", 10), "samples": samples},
        {"data": write_rows(tmp_path / "b.jsonl", 7)},
    ]
    data = open_mixture(entries, "quota")
    plan, drawn = plan_of(data, rounds=1, lanes=4), Counter()
    for number in range(4):
        mixing = plan.lane(number, BlockCache(data.sources)).mixing
        while (draw := mixing.draw()) is not None:
            drawn[draw[0], mixing.orders[draw[0]].locate(draw[1])[1]] += 1
    of_first = [number for (source, _), number in drawn.items() if source == 0]
    assert sum(of_first) == samples and max(of_first) == epochs
    assert sum(drawn.values()) - samples == 7


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"weight": 1, "samples": 2}, r"entry 1 \(a\.jsonl\): weight and samples exclude each other"),
        ({"samples": 0}, r"entry 1 \(a\.jsonl\): samples is 0: it must be a whole number"),
        ({"samples": 1.5}, "samples is 1.5"),
        ({"available": "many"}, "available is 'many'"),
        ({"modality": "sound"}, "modality is 'sound': choose one of text, image, multiimage, video"),
        ({"modality": []}, r"modality is \[\]: choose one of"),
        ({"samples": 10**13}, "samples is 1.*at most 1,000,000,000,000"),
        ({"available": True}, "available is True"),
        ({"weight": True}, "weight is True: it must be a number from 1e-09 to 1,000,000"),
        ({"weight": "2"}, "weight is '2'"),
        ({"weight": float("nan")}, "weight is nan"),
        ({"weight": 10**400}, "weight is 1"),
        ({"weight": 1e-12}, "weight is 1e-12"),
        ({"weight": 0}, "weight is 0"),
        ({"weight": None}, "weight is null"),
        ({"data": ["a.jsonl"]}, r"entry 1: data is \['a\.jsonl'\]: it must be the name"),
        ({"data": ""}, "entry 1: data is '': it must be"),
        ({"data": None}, "entry 1: lacks the key 'data'"),
        ({"name": 5}, r"\(a\.jsonl\): name is 5: it must be text, so in quotes"),
        ({"name": "x\ny"}, r"name is 'x\\ny': it must be text of one line"),
        ({"name": " "}, "name is ' '"),
        ({"name": "x", "adapter": 5}, r"entry 1 \(x\): adapter is 5: it must be text"),
        ({"adapter": "lava"}, "adapter: unknown adapter 'lava'.*did you mean 'llava'"),
        ({"adapter": "missing.py"}, "adapter: the adapter's file .* does not exist"),
        ({"image_folder": 5}, "image_folder is 5"),
        ({"data": "owner/name", "config": 2014}, "config is 2014: it must be text, so in quotes"),
        ({"data": "owner/name", "split": ["train"]}, "split is"),
        ({"data": "owner/name", "download": 1}, "download is 1: it must be true or false"),
        ({"data": "owner/name", "download": None}, "download is null"),
        ({"revision": "main", "download": True}, "revision and download belong to a dataset of the Hub"),
        ({"filters": []}, r"filters is \[\]: it must be a mapping"),
        ({"filters": {"max_turn": 1}}, "filters: unknown filter 'max_turn'.*did you mean 'max_turns'"),
        ({"filters": {"max_turns": "2"}}, "filters: max_turns must be a whole number"),
        ({"fetch_images": ["example.org"]}, "fetch_images is not a key any more: download .* with img2dataset"),
    ],
)
def test_keys_that_cannot_be_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        parse_entries([{"data": "a.jsonl", **keys}])


def test_what_is_no_entry_is_refused():
    with pytest.raises(ValueError, match=r"entry 1: 'a\.jsonl' is not a mapping"):
        parse_entries(["a.jsonl"])
    with pytest.raises(ValueError, match="duplicate name 'x'"):
        parse_entries([{"data": "a.jsonl", "name": "x"}, {"data": "b.jsonl", "name": "x"}])


def test_all_entries_that_fail_are_named_at_once_or_left_out(tmp_path):
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and then nothing")
    (tmp_path / "empty.jsonl").write_text("")
    entries = [
        {"data": write_rows(tmp_path / "good.jsonl", 10)},
        {"data": str(tmp_path / "missing.jsonl"), "name": "gone", "samples": 30, "modality": "text"},
        {"data": str(tmp_path / "broken.parquet")},
        {"data": str(tmp_path / "empty.jsonl")},
        {"data": "{data_root}/a.jsonl"},
    ]
    with pytest.raises(SampleError) as stopped:
        open_mixture(entries, "quota")
    text = str(stopped.value)
    assert "4 of 5 sources cannot be used" in text and "--on_failed_source reweight" in text
    for line in ("gone: the data file", "broken.parquet: broken.parquet: not readable as parquet",
                 "empty.jsonl: holds no record", "say where that is with the key data_root"):  # fmt: skip
        assert line in text
    data = open_mixture(entries, "quota", on_failed="reweight")
    assert [source.name for source in data.sources] == ["good.jsonl"]
    assert [each.name for each in data.failed] == ["gone", "broken.parquet", "empty.jsonl", "a.jsonl"]
    assert (data.failed[0].records, data.failed[1].records) == (30, None)
    with pytest.raises(SampleError, match="4 of 4 sources cannot be used"):
        open_mixture(entries[1:], "quota", on_failed="reweight")


@pytest.mark.parametrize("stopping", ["quota", "first_exhausted", "all_exhausted"])
def test_what_failed_is_weighed_as_the_others_are(stopping, tmp_path):
    entries = [
        {"data": write_rows(tmp_path / "a.jsonl", 10), "weight": 0.5},
        {"data": write_rows(tmp_path / "b.jsonl", 20)},
        {"data": str(tmp_path / "missing.jsonl"), "samples": 25},
    ]
    planned = PlannedMixture.of(open_mixture(entries, stopping, on_failed="reweight"))
    assert shares([*planned.records, planned.failed[0].records]) == pytest.approx([0.1, 0.4, 0.5])


def test_a_misspelt_adapter_is_no_failing_source(tmp_path):
    entries = [{"data": write_rows(tmp_path / "a.jsonl", 1)}, {"data": "missing.jsonl", "adapter": "lava"}]
    with pytest.raises(ValueError, match="did you mean 'llava'"):
        open_mixture(entries, "quota", on_failed="reweight")


@pytest.mark.parametrize("on_failed", ["stop", "reweight"])
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"fetch_images": ["example.org"]}, r"mixture, entry 2 \(b\): fetch_images is not a key any more"),
        ({"split": "train"}, r"mixture, entry 2 \(b\): split belong to a dataset of the Hub"),
        ({"data": "{data_root}/b.jsonl", "split": "train"}, r"mixture, entry 2 \(b\): split belong to a dataset"),
        ({"data": "unknown://b.jsonl"}, r"mixture, entry 2 \(b\): unknown://b\.jsonl: unknown protocol"),
        ({"filters": {"min_images": -1}}, r"mixture, entry 2 \(b\): filters: min_images must be"),
    ],
)
def test_a_mistake_of_the_recipe_is_no_failing_source(on_failed, keys, message, tmp_path):
    entries = [write_rows(tmp_path / f"{name}.jsonl", 1) for name in "ab"]
    entries = [{"data": entries[0]}, {"data": entries[1], "name": "b", **keys}]
    with pytest.raises(ValueError, match=message) as refused:
        open_mixture(entries, "quota", on_failed=on_failed, data_root=str(tmp_path))
    assert not isinstance(refused.value, SampleError) and "\n" not in str(refused.value)


def test_keys_are_looked_at_before_anything_is_opened(tmp_path):
    with pytest.raises(ValueError, match=r"entry 2.*belong to a dataset of the Hub"):
        open_mixture([{"data": "missing.jsonl"}, {"data": "other.jsonl", "config": "x"}], "quota")


def test_a_fault_names_its_source(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": 5}\nno json\n')
    data = open_mixture([{"data": str(tmp_path / "a.jsonl"), "name": "mine"}], "quota")
    assert [fault.source for _, fault in data.samples()] == ["mine", "mine"]


def test_data_root_stands_for_a_folder(tmp_path):
    write_rows(tmp_path / "a.jsonl", 3)
    entry = {"data": "{data_root}/a.jsonl", "image_folder": "{data_root}/pictures", "available": 4}
    data = open_mixture([entry], "quota", data_root=str(tmp_path))
    assert len(data.sources[0]) == 3 and data.readers[0].media_folder == tmp_path / "pictures"
    assert PlannedMixture.of(data).other_sizes() == ["a.jsonl holds 3 records, not 4 as the recipe says"]


def test_shares_of_nothing_are_zero():
    assert shares([0, 0]) == [0.0, 0.0]
    assert FailedSource("a", "b").records is None
