"""Held-out samples: chosen by their names, never trained, counted, and the same in every run."""

import json
import re

import pytest
from memory_source import MemorySource
from processes import call
from talks import write_questions
from tiny_runs import train_here, train_words

from smol_hf.data.mixture.mixture import Data
from smol_hf.training.data import open_data
from smol_hf.training.recipe.data_arguments import DataArguments
from smol_hf.training.recipe.recipes import load_arguments
from smol_hf.training.recipe.values import RecipeError
from smol_hf.training.sources import open_validation
from smol_hf.training.trainer import SmolTrainer
from smol_hf.training.validation.held_out import held_out_of, is_held_out, most_rows, without_held_out
from smol_hf.training.validation.measure import Validation


def names(data):
    return {where for source in data.sources for where, record in source.all_rows() if record is not None}


def test_a_fraction_of_the_names_is_held_out_and_a_larger_one_holds_out_the_same_and_more():
    chosen = [{n for n in range(10_000) if is_held_out(f"my.jsonl:{n}", fraction)} for fraction in (0, 0.05, 0.2, 1)]
    assert chosen[0] < chosen[1] < chosen[2] < chosen[3] and len(chosen[3]) == 10_000
    assert 400 < len(chosen[1]) < 600 and 1850 < len(chosen[2]) < 2150


def test_each_sample_is_either_trained_or_held_out(tmp_path):
    keys = DataArguments(data=write_questions(tmp_path / "my.jsonl"), eval_fraction=0.25)
    data = open_data(keys, seed=0)
    held_out = open_validation(data, keys, seed=0)
    whole = names(open_data(DataArguments(data=keys.data), seed=0))
    assert names(data) | names(held_out) == whole and not names(data) & names(held_out)
    assert names(held_out) == {each for each in whole if is_held_out(each, 0.25)} != set()


def test_two_entries_of_one_file_hold_out_the_same_samples(tmp_path):
    """Otherwise, a sample that one entry holds out would be trained as a sample of the other."""
    path = write_questions(tmp_path / "my.jsonl")
    mixture = [{"data": path, "name": "one"}, {"data": path, "name": "two", "weight": 2}]
    keys = DataArguments(mixture=mixture, eval_fraction=0.25)
    held_out = open_validation(open_data(keys, seed=0), keys, seed=0)
    one, two = ({each.partition("/")[2] for each in names(Data([source], [None], [1]))} for source in held_out.sources)
    assert one == two != set()


def test_the_number_of_samples_in_a_round_is_that_without_the_held_out_ones(tmp_path):
    path = write_questions(tmp_path / "my.jsonl", 1000)
    keys = DataArguments(mixture=[{"data": path, "samples": 300}], eval_fraction=0.1)
    [source], [weight] = (data := open_data(keys, seed=0)).sources, data.weights
    assert len(source) == 900
    drawn = weight * sum(source.block_sizes)  # rows without a record are drawn too
    assert drawn * 0.9 == pytest.approx(300)


def test_an_uncounted_source_has_at_most_as_many_samples_as_it_says():
    source = MemorySource("made", [(f"page{n}", n) for n in range(2000)])
    for fraction in (0.01, 0.3, 0.9):
        data = without_held_out(Data([source], [None], [1.0], surveyed=False), fraction, "quota")
        for part in (data.sources[0], held_out_of(data).sources[0]):
            count = sum(record is not None for _, record in part.all_rows())
            assert count <= most_rows(part) <= 2000 and len(part) == pytest.approx(count, abs=120)


class Watch:
    """The samples that runs train and validate on."""

    def __init__(self, monkeypatch):
        self.trained, self.validated = [], []
        compute, measure = SmolTrainer.compute_loss, Validation.loader

        def look(trainer, model, inputs, *arguments, **options):
            self.trained += inputs["sample_ids"]
            return compute(trainer, model, inputs, *arguments, **options)

        def watched(validation, *arguments, **options):
            loader = measure(validation, *arguments, **options)
            collate = loader.collator
            loader.collator = lambda samples: (
                self.validated.extend(each.sample_id for each in samples) or collate(samples)
            )
            return loader

        monkeypatch.setattr(SmolTrainer, "compute_loss", look)
        monkeypatch.setattr(Validation, "loader", watched)


@pytest.mark.parametrize(
    "keys",
    [{}, {"seed": 5, "data_seed": 9}, {"sample_packing": True}, {"dataloader_num_workers": 2}],
    ids=["", "another seed", "packed", "workers"],
)
def test_held_out_samples_are_never_trained_and_all_of_them_validated(keys, tmp_path, monkeypatch):
    watch = Watch(monkeypatch)
    data = write_questions(tmp_path / "my.jsonl")
    keys = {"max_steps": -1, "num_train_epochs": 3, "eval_fraction": 0.25, **keys}
    train_here(tmp_path / "run", data=data, save_strategy="no", warmup_steps=0, **keys)
    every = {f"my.jsonl:{n}" for n in range(1, 41)}
    held_out = {each for each in every if is_held_out(each, 0.25)}
    assert set(watch.validated) == held_out and len(watch.validated) == len(held_out)
    assert set(watch.trained) == every - held_out and len(watch.trained) == 3 * len(every - held_out)


def test_a_run_counts_without_the_held_out_samples(tmp_path):
    data = write_questions(tmp_path / "my.jsonl")
    held_out = sum(is_held_out(f"my.jsonl:{n}", 0.25) for n in range(1, 41))
    words = train_words(tmp_path / "run", data=data, eval_fraction=0.25, max_steps=-1, warmup_steps=0)
    result = call([*words, "--num_train_epochs", "1"])
    assert result.returncode == 0, result.stderr
    assert f"{40 - held_out} samples from my.jsonl; 0 samples left out" in result.stdout
    assert f"\n{held_out} samples to validate on, of my.jsonl (eval_fraction 0.25)\n" in result.stdout
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["samples"] == 40 - held_out and facts["steps"] == -(-(40 - held_out) // 4)
    [source] = json.loads((tmp_path / "run" / "mixture.json").read_text())["sources"]
    assert source["rows"] == source["samples"] == 40 - held_out
    planned = call([*words, "--num_train_epochs", "1", "--dry-run"])
    assert "1 source on this machine, 30 records, and about 10 to validate on" in planned.stdout
    assert "samples 30" in planned.stdout


def test_the_commands_of_the_data_say_what_is_held_out_and_prepare_writes_all(tmp_path):
    data = write_questions(tmp_path / "my.jsonl")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"data: {data}\npreset: tiny-vlm\neval_fraction: 0.25\noutput_dir: run\n")
    held_out = sum(is_held_out(f"my.jsonl:{n}", 0.25) for n in range(1, 41))
    stats = call(["data", "stats", "--config", recipe])
    assert re.search(rf"my.jsonl +{40 - held_out} ", stats.stdout), stats.stderr
    assert "held out for validation: 25.0% of the samples, which are not counted or shown here" in stats.stdout
    page = tmp_path / "page.html"
    assert call(["data", "preview", "--config", recipe, "--output", page]).returncode == 0
    assert "25.0% of the samples" in page.read_text()
    listed = json.loads(call(["data", "list", "--config", recipe, "--json"]).stdout)
    assert [entry["records"] for entry in listed["mixture"]] == [40]
    prepared = call(["data", "prepare", "--config", recipe, "--output", tmp_path / "out"])
    assert prepared.returncode == 0 and "40" in prepared.stdout, prepared.stderr


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"eval_fraction": 1.0}, "it is a share from 0 to below 1"),
        ({"eval_fraction": 0.1, "eval_data": "x.jsonl"}, "eval_fraction and eval_data exclude each other"),
        ({"eval_data": ""}, "eval_data is empty: name a file"),
        ({"eval_mixture": []}, "eval_mixture is empty: name a source"),
        ({"eval_metric": ["exact_match"]}, "eval_metric need eval_fraction, eval_data or eval_mixture"),
        ({"eval_fraction": 0.1, "eval_metric": ["contains"]}, "eval_generate_samples and eval_metric need each other"),
        ({"eval_fraction": 0.1, "eval_max_new_tokens": 9}, "eval_max_new_tokens has no effect without eval_gen"),
        (
            {"eval_fraction": 0.1, "eval_generate_samples": 2, "eval_metric": ["exactmatch"]},
            "unknown metric 'exactmatch': did you mean 'exact_match'?",
        ),
        ({"eval_strategy": "steps"}, "eval_strategy steps has nothing to evaluate: set eval_fraction, eval_data or"),
        (
            {"eval_fraction": 1e-9, "eval_strategy": "epoch", "save_strategy": "best",
             "metric_for_best_model": "loss"},
            "save_strategy: best needs a sample to validate on, but none is usable: raise eval_fraction",
        ),
        ({"eval_data": "nowhere.jsonl"}, "eval_data: the data file nowhere.jsonl does not exist"),
        ({"eval_mixture": "nowhere.yaml"}, "eval_mixture: the file nowhere.yaml does not exist"),
        ({"eval_mixture": [{"data": "gone.jsonl"}]}, "eval_mixture: 1 of 1 sources cannot be used"),
        ({"eval_mixture": [{"data": "a.jsonl", "samples": 3}]}, "eval_mixture, entry 1: samples has no effect, since"),
        ({"eval_fraction": 0.999}, "the data holds no sample to train on: eval_fraction 0.999 holds out all"),
        (
            {
                "eval_fraction": 0.3,
                "eval_strategy": "steps",
                "save_strategy": "best",
                "metric_for_best_model": "contains",
            },
            "metric_for_best_model is 'contains' (this run measures loss, perplexity)",
        ),
        ({"early_stopping_patience": 2}, "early_stopping_patience needs load_best_model_at_end: true"),
        ({"early_stopping_threshold": 0.1}, "early_stopping_threshold has no effect without early_stopping_patience"),
    ],
)  # fmt: skip
def test_keys_that_contradict_each_other_or_do_nothing_are_refused_in_a_sentence(keys, message, tmp_path):
    keys = {"data": write_questions(tmp_path / "my.jsonl"), "save_strategy": "no", **keys}
    result = call(train_words(tmp_path / "run", **keys))
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert message in result.stderr


def test_a_source_that_the_run_leaves_out_is_not_validated_on_either(tmp_path):
    useless = tmp_path / "useless.jsonl"
    useless.write_text('{"messages": [{"role": "user", "content": "Hello?"}]}\n' * 40)
    mixture = [{"data": write_questions(tmp_path / "my.jsonl")}, {"data": str(useless)}]
    keys = {"eval_fraction": 0.25, "max_steps": 1, "warmup_steps": 0, "on_failed_source": "reweight"}
    words = train_words(tmp_path / "run", mixture=mixture, **keys)
    at = words.index("--data")
    pages = words.index("--num_pages")
    result = call([*words[:at], *words[at + 2 : pages], *words[pages + 2 :]])
    assert result.returncode == 0, result.stderr
    assert "samples to validate on, of my.jsonl (eval_fraction 0.25)" in result.stdout


@pytest.mark.parametrize(
    "keys", [{"eval_data": "gone.jsonl"}, {"eval_mixture": [{"data": "gone.jsonl"}]}], ids=["data", "mixture"]
)
def test_a_dry_run_names_the_key_of_missing_samples(keys, tmp_path):
    result = call([*train_words(tmp_path / "run", data=write_questions(tmp_path / "my.jsonl"), **keys), "--dry-run"])
    assert result.returncode == 1 and f"{next(iter(keys))}: the data file gone.jsonl does not exist" in result.stderr


def test_a_run_on_few_samples_says_that_nothing_is_validated(tmp_path):
    data = write_questions(tmp_path / "my.jsonl", 4)
    keys = {"eval_fraction": 1e-9, "eval_strategy": "steps", "eval_steps": 1, "max_steps": 1, "warmup_steps": 0}
    result = call(train_words(tmp_path / "run", data=data, **keys))
    assert result.returncode == 0, result.stderr
    assert "warning: no sample to validate on is usable (eval_fraction 1e-09): nothing is validated" in result.stdout


def test_a_run_over_documents_has_its_own_keys():
    with pytest.raises(RecipeError, match="eval_fraction has no effect in a run over documents"):
        load_arguments(["--output_dir", "run", "--documents", "story.txt", "--eval_fraction", "0.1"])


def test_other_samples_are_validated_on_and_training_samples_are_named(tmp_path):
    data, other = write_questions(tmp_path / "my.jsonl"), write_questions(tmp_path / "other.jsonl", 6, first=50)
    mixture = [{"data": other, "name": "other"}, {"data": data, "name": "same"}]
    words = train_words(tmp_path / "run", data=data, eval_mixture=mixture, max_steps=1, warmup_steps=0)
    result = call([*words, "--eval_strategy", "steps", "--eval_steps", "1"])
    assert result.returncode == 0, result.stderr
    assert "46 samples to validate on, of other, same\n" in result.stdout
    assert "same is also trained on: its validation loss says nothing about other samples" in result.stdout
    found = json.loads((tmp_path / "run" / "run.json").read_text())["validation"]
    assert {"loss/other", "loss/same"} <= found.keys()


def test_a_held_out_sample_that_cannot_be_used_counts_as_any_other(tmp_path):
    path = tmp_path / "my.jsonl"
    write_questions(path)
    number = next(n for n in range(1, 41) if is_held_out(f"my.jsonl:{n}", 0.25))
    lines = path.read_text().splitlines()
    lines[number - 1] = "{"
    path.write_text("\n".join(lines) + "\n")
    words = train_words(tmp_path / "run", data=str(path), eval_fraction=0.25, max_steps=1, warmup_steps=0)
    stopped = call(words)
    assert stopped.returncode == 1 and f"my.jsonl:{number}" in stopped.stderr
    skipped = call([*words, "--on_bad_sample", "skip"])
    assert skipped.returncode == 0, skipped.stderr
    [line] = map(json.loads, (tmp_path / "run" / "skipped.jsonl").read_text().splitlines())
    assert (line["sample"], line["source"]) == (f"my.jsonl:{number}", "validation: my.jsonl")
