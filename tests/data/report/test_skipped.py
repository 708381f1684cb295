"""When a run stops because too much of its data cannot be used, what it says then, and what a resumed run counts."""

import json
import pickle

import pytest
from helpers import build_processor
from media_files import picture
from memory_source import MemorySource

from smol_hf import train
from smol_hf.data.conversation import FilteredOutError, SampleError, TooLongError
from smol_hf.data.report.reasons import describe_reasons
from smol_hf.data.report.skipped import SkippedSamples
from smol_hf.data.stream.preparation import SampleWork
from smol_hf.data.stream.stream import Plan, RowStream
from smol_hf.training.data import measure_data, open_data, plan_of
from smol_hf.training.loader import TrainingLoader
from smol_hf.training.recipe.arguments import SmolTrainingArguments
from smol_hf.training.recipe.data_arguments import DataArguments

GOOD = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
BAD = {"messages": [{"role": "user", "content": "Hi"}]}


def fault(where, source, problem="damaged", kind=SampleError):
    result = kind(where, problem)
    result.source = source
    return result


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def look(folder, skipped, **files):
    """Survey a mixture of these files: lists of rows."""
    entries = [{"data": str(write(folder / f"{name}.jsonl", rows)), "name": name} for name, rows in files.items()]
    arguments = DataArguments(mixture=entries, context_length=256)
    data = open_data(arguments, seed=0)
    training = SmolTrainingArguments(output_dir="unused", max_steps=1, use_cpu=True)
    measure_data(plan_of(data, build_processor(), arguments, training, 1), data, arguments, skipped)


def stops(folder, **files):
    """The message with which a survey stops, under the defaults."""
    with pytest.raises(SampleError) as error:
        look(folder, SkippedSamples("skip", path=folder / "skipped.jsonl"), **files)
    return str(error.value)


def test_more_than_one_percent_of_a_source_stops_the_run_however_good_the_others_are(tmp_path):
    look(tmp_path, SkippedSamples("skip"), few=[GOOD] * 198 + [BAD] * 2)
    message = stops(tmp_path, large=[GOOD] * 1000, few=[GOOD] * 97 + [BAD, GOOD, BAD])
    assert "2 of 100 samples of few cannot be used, more than max_skipped_fraction 0.01:" in message
    assert "large: 1,000 seen, 0 unusable\n" in message
    assert "few: 100 seen, 2 unusable (2.0%)\n" in message
    assert "2 × few/few.jsonl:98: no assistant turn" in message and "(also few/few.jsonl:100)" in message
    assert str(tmp_path / "skipped.jsonl") in message


def test_one_bad_sample_of_a_small_source_is_not_too_many_unless_none_is_wanted(tmp_path):
    skipped = SkippedSamples("skip", path=tmp_path / "skipped.jsonl")
    look(tmp_path, skipped, small=[GOOD] * 20 + [BAD])
    assert len(skipped.faults) == 1 and len((tmp_path / "skipped.jsonl").read_text().splitlines()) == 1
    with pytest.raises(SampleError, match="1 of 21 samples of small"):
        look(tmp_path, SkippedSamples("skip", max_fraction=0.0), small=[GOOD] * 20 + [BAD])
    assert "2 of 21 samples of small" in stops(tmp_path, small=[GOOD] * 19 + [BAD] * 2)


def test_samples_in_a_row_stop_a_survey_as_they_stop_a_run(tmp_path):
    rows = [GOOD] * 50 + [BAD] * 9 + [GOOD] + [BAD] * 9
    look(tmp_path, SkippedSamples("skip", max_fraction=1.0, max_in_a_row=10), rows=rows)
    with pytest.raises(SampleError, match=r"10 samples in a row cannot be used"):
        look(tmp_path, SkippedSamples("skip", max_fraction=1.0, max_in_a_row=10), rows=[*rows, BAD, GOOD])
    look(tmp_path, SkippedSamples("skip", max_fraction=1.0, max_in_a_row=10), a=rows, b=[BAD, GOOD])


def stream_of(**sources):
    """A loader over unsurveyed sources, one lane."""
    made = [
        MemorySource(name, [(f"{name}:{row}", record) for row, record in enumerate(records, start=1)])
        for name, records in sources.items()
    ]

    def read(where, record):
        if record == "bad":
            raise SampleError(where, "damaged")
        return record

    work = SampleWork(build_processor(), 256, [read] * len(made))
    plan = Plan(made, [1.0] * len(made), work, 256, lanes=1)
    return TrainingLoader(RowStream(plan), lambda samples: {}, batch_size=1, batches_per_epoch=10**9), made


def test_what_nobody_looked_at_before_is_judged_by_what_was_read_so_far(tmp_path):
    from smol_hf.data.records import Place, adapt

    good = adapt(GOOD, Place("x:1"))
    loader, made = stream_of(good=[good] * 30_000, mixed=([good] * 9 + ["bad"]) * 3_000)
    skipped = SkippedSamples("skip", path=tmp_path / "skipped.jsonl")
    skipped.expect({source.name: len(source) for source in made})
    with pytest.raises(SampleError) as error:
        while True:
            batch = loader.next_batch()
            skipped.note(len(batch["sample_ids"]), batch["skipped"], batch["drawn"])
    bad, read = skipped.drawn_bad["mixed"], skipped.drawn["mixed"]
    assert bad == 100 and 600 < read < 1600, "of 30,000 samples one percent would be 300 bad ones"
    assert f"100 of the first {read} samples of mixed cannot be used" in str(error.value)
    assert f"good: {skipped.drawn['good']:,} seen, 0 unusable" in str(error.value)
    assert len((tmp_path / "skipped.jsonl").read_text().splitlines()) == 100


def test_the_summary_groups_reasons_and_keeps_it_short():
    faults = [fault(f"a:{n}", "a", f"the image /pictures/{n}.png does not exist") for n in range(50)]
    faults += [fault(f"b:{n}", "a", f"has {n} placeholders") for n in range(3)]
    faults += [fault(f"c:{word}", "a", f"the reason is {word}") for word in ("alpha", "beta", "gamma", "delta")]
    assert describe_reasons(faults) == [
        "    50 × a:0: the image /pictures/0.png does not exist (also a:1, a:2, …)",
        "    3 × b:0: has 0 placeholders (also b:1, b:2)",
        "    1 × c:alpha: the reason is alpha",
        "    1 × c:beta: the reason is beta",
        "    1 × c:gamma: the reason is gamma",
        "    1 for 1 other reasons",
    ]


def test_a_fault_keeps_its_source_on_its_way_between_processes():
    for kind in (SampleError, TooLongError):
        copied = pickle.loads(pickle.dumps(fault("a:1", "a", kind=kind)))
        assert (type(copied), copied.where, copied.problem, copied.source) == (kind, "a:1", "damaged", "a")


def test_a_resumed_run_counts_what_the_earlier_one_left_out(tmp_path):
    ledger = tmp_path / "skipped.jsonl"
    first = SkippedSamples("skip", max_fraction=0.1, path=ledger)
    first.expect({"a": 20, "b": 1000})
    first.note(1, [fault("a:1", "a"), fault("a:2", "a"), fault("b:1", "b"), fault("a:9", "a", kind=TooLongError)])
    first.note(1, [fault("a:8", "a", kind=FilteredOutError)])

    resumed = SkippedSamples("skip", max_fraction=0.1, path=ledger, keeps_earlier=True)
    resumed.expect({"a": 20, "b": 1000})
    assert (
        resumed.summary()
        == first.summary()
        == ("5 samples left out: 3 unusable, 1 longer than the context, 1 filtered out")
    )
    resumed.note(1, [fault("a:2", "a"), fault("a:9", "a", kind=TooLongError)])  # between checkpoint and kill, again
    assert len(ledger.read_text().splitlines()) == len(resumed) == 5
    with pytest.raises(SampleError, match="3 of 20 samples of a cannot be used"):
        resumed.note(1, [fault("a:3", "a")])

    fresh = SkippedSamples("skip", path=ledger)
    fresh.expect({"a": 20})
    assert not ledger.exists() and not len(fresh)
    first.write()
    mended = SkippedSamples("stop", path=ledger, keeps_earlier=True)
    mended.settle({"a": 20, "b": 1000})
    assert len(ledger.read_text().splitlines()) == 5, "its ledger stays whole, although it stopped at a fault"


@pytest.mark.parametrize(
    "keys", [{"max_skipped_fraction": -0.1}, {"max_skipped_fraction": 2}, {"max_skipped_in_a_row": 0}]
)
def test_limits_that_are_none_are_refused(keys):
    with pytest.raises(ValueError, match="max_skipped"):
        DataArguments(**keys)


def test_a_run_takes_its_limits_from_the_recipe(tmp_path, capsys):
    (tmp_path / "good.png").write_bytes(picture())
    rows = [GOOD] * 60 + [{"image": "gone.png", "caption": "x"}] * 3 + [{"image": "good.png", "caption": "Red."}]
    write(tmp_path / "rows.jsonl", rows)
    command = ["--preset", "tiny-vlm", "--data", str(tmp_path / "rows.jsonl"), "--context_length", "128", "--use_cpu",
               "true", "--save_strategy", "no", "--max_steps", "1", "--output_dir", str(tmp_path / "run"),
               "--on_bad_sample", "skip"]  # fmt: skip
    assert train.main(command) == 1
    said = capsys.readouterr().err
    assert "3 of 64 samples of rows.jsonl" in said and "skipped.jsonl" in said
    assert train.main([*command, "--max_skipped_fraction", "0.05", "--max_skipped_in_a_row", "3"]) == 1
    assert "3 samples in a row" in capsys.readouterr().err
    assert train.main([*command, "--max_skipped_fraction", "0.05"]) == 0
    assert "61 samples from rows.jsonl; 3 samples left out: 3 unusable" in capsys.readouterr().out
    named = [json.loads(line) for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert [entry["sample"] for entry in named] == [f"rows.jsonl:{row}" for row in (61, 62, 63)]
    assert {entry["source"] for entry in named} == {"rows.jsonl"}


def test_a_source_that_the_lanes_give_up_does_not_stop_a_run_that_reweights():
    def noted(gives_up, used):
        skipped = SkippedSamples("skip", gives_up=gives_up, max_in_a_row=1000)
        skipped.expect({"good": 10_000, "dead": 500})
        faults = [fault(f"dead:{row}", "dead") for row in range(200)]
        skipped.note(used, faults, {"dead": 200 + used, "good": 50})

    noted(gives_up=True, used=0)
    with pytest.raises(SampleError, match="200 of 500 samples of dead"):
        noted(gives_up=False, used=0)
    with pytest.raises(SampleError, match="200 of 500 samples of dead"):
        noted(gives_up=True, used=5)  # some of it can be used, so no lane gives it up
