"""A chain of stages passes each result on, skips what is finished, and goes on where it was stopped."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml
from media_files import picture
from processes import call, fork_ranks
from safetensors.torch import load_file
from stage_chains import CHAIN, NEW, STAGES, STEPS, TWO, refusal, replace_text, write_recipes
from tiny_runs import RECIPE, signal_after

from smol_hf import train
from smol_hf.commands.main import main
from smol_hf.training.checkpoint.interruption import RESUME
from smol_hf.training.checkpoint.run_folder import OutOfMemoryError
from smol_hf.training.checkpoint.stage_record import Stage
from smol_hf.training.log.console import read_log
from smol_hf.training.stages import continued_by_the_same_command, trained_before


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_recipes(tmp_path)
    return tmp_path


def losses(name, runs="runs"):
    return [entry["loss"] for entry in read_log(Path(runs, name)) if "loss" in entry]


def weights(name, runs="runs"):
    return load_file(Path(runs, name, "checkpoint", "model.safetensors"))


def test_a_chain_is_stopped_in_a_stage_and_goes_on_as_if_it_had_not_been(place, monkeypatch):
    for before, name in zip([None, *CHAIN], CHAIN):  # the same stages as runs of their own
        model = [] if before is None else ["--model", f"alone/{before}"]  # the output folder of the run before
        assert main(["train", "--config", f"{name}.yaml", "--output_dir", f"alone/{name}", *model]) == 0
    signal_after(place / "runs" / "image", 3, signal.SIGUSR1)  # before the unfreezing, or after it
    stopped = call(STAGES)
    assert stopped.returncode == 138, stopped.stderr
    assert "stage 2 of 3 (image.yaml): SIGUSR1 stopped the run after step" in stopped.stderr
    assert "the same command continues the chain" in stopped.stderr and "resume_from" not in stopped.stderr
    assert not Path("runs/image/checkpoint").exists() and not Path("runs/last").exists()

    with monkeypatch.context() as patched:  # killed after its last step, before its result is complete

        def killed(*arguments):
            raise KeyboardInterrupt

        patched.setattr(train, "write_result", killed)
        assert call(STAGES).returncode == 130
    again = call(STAGES)
    assert again.returncode == 0, again.stderr
    assert "stage 1 of 3 (text.yaml) is finished: skipped" in again.stdout
    assert f"resuming from checkpoint-{STEPS}" in again.stdout
    for name in CHAIN:
        assert losses(name) == losses(name, "alone") and len(losses(name)) == STEPS
        one, two = weights(name), weights(name, "alone")
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    report = json.loads(Path("runs/last/stages.json").read_text())
    assert [row["skipped"] for row in report] == [True, False, False]
    assert [(row["stage"], row["recipe"]) for row in report] == [(1, "text.yaml"), (2, "image.yaml"), (3, "last.yaml")]
    assert [row["steps"] for row in report] == [STEPS] * 3 and [row["samples"] for row in report] == [4 * STEPS] * 3
    assert [row["checkpoint"] for row in report] == [f"runs/{name}/checkpoint" for name in CHAIN]
    assert report[2]["loss"] == losses("last")[-1] and report[1]["tokens"] > 0 and report[1]["seconds"] > 0

    # All are finished: nothing is trained, and what has no influence on the result may differ.
    once_more = call([*STAGES, "--logging_steps", "3"])
    assert once_more.returncode == 0 and once_more.stdout.count("is finished: skipped") == 3

    assert "stage 1 of 3 (text.yaml) was trained with another recipe (learning_rate 0.003 → 0.1)" in refusal(
        [*STAGES, "--learning_rate", "0.1"]
    )
    Path("runs/last/checkpoint/config.json").write_text("{}")
    assert "stage 3 of 3 (last.yaml): the content of runs/last/checkpoint changed" in refusal(STAGES)
    Path("runs/text").rename("elsewhere")
    told = refusal(STAGES)  # before the first stage is trained
    assert "stage 2 of 3 (image.yaml) began with the result of stage 1 of 3 (text.yaml), which has no" in told
    assert "restore that folder, or move runs/image away" in told and not Path("runs/text").exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished chain of two stages: chats, then images that its records name."""
    place = tmp_path_factory.mktemp("finished") / "é and spaces"
    place.mkdir()
    write_recipes(place)
    (place / "cat.png").write_bytes(picture())
    (place / "rows.jsonl").write_text(f"{json.dumps({'image': 'cat.png', 'caption': 'A cat.'})}\n" * 8)
    shared = {**RECIPE, "max_steps": 2, "save_steps": 1}
    del shared["num_pages"]
    first = {**shared, "data": "chats.jsonl", "output_dir": "runs/text"}
    second = {key: shared[key] for key in shared if key not in NEW}
    second |= {"mixture": [{"data": "rows.jsonl"}, {"data": "chats.jsonl"}], "output_dir": "runs/image"}
    del second["data"]
    (place / "text.yaml").write_text(yaml.safe_dump(first))
    (place / "image.yaml").write_text(yaml.safe_dump(second))
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(place)
        assert main(TWO) == 0
    return place


@pytest.fixture
def copied(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(finished, tmp_path / "copy"))


FIRST, SECOND = "stage 1 of 2 (text.yaml)", "stage 2 of 2 (image.yaml)"
CHANGES = {
    "another row": (
        lambda: replace_text("chats.jsonl", "Two", "One"),
        f"{FIRST} was trained on another content of chats.jsonl: restore it, or move runs/text away",
    ),
    "another image": (
        lambda: Path("cat.png").write_bytes(picture(50)),
        f"{SECOND} was trained on another content of rows.jsonl: restore it, or move runs/image away",
    ),
    "another first recipe": (
        lambda: replace_text("text.yaml", "seed: 0", "seed: 1"),
        f"{FIRST} was trained with another recipe (seed 0 → 1)",
    ),
    "another mixture": (
        lambda: replace_text("image.yaml", "- data: chats.jsonl", "- data: chats.jsonl\n  weight: 2"),
        f"{SECOND} was trained with another recipe (mixture",
    ),
    "another first model": (
        lambda: Path("runs/text/checkpoint/config.json").write_text("{}"),
        f"{FIRST}: the content of runs/text/checkpoint changed after the stage",
    ),
    "no first folder": (
        lambda: shutil.rmtree("runs/text"),
        f"{SECOND} began with the result of {FIRST}, which has no checkpoint in runs/text any more: restore that",
    ),
    "a damaged record of the run": (
        lambda: Path("runs/text/run.json").write_text("{"),
        f"{FIRST}: runs/text/run.json is damaged",
    ),
    "a record of the run that is no mapping": (
        lambda: Path("runs/text/run.json").write_text("5"),
        f"{FIRST}: runs/text/run.json is damaged",
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_finished_stage_is_not_used_after_a_change(change, copied):
    make, message = CHANGES[change]
    make()
    before = sorted(Path("runs").rglob("*"))
    assert message in refusal(TWO)
    assert sorted(Path("runs").rglob("*")) == before


def test_missing_data_of_a_finished_stage_is_named(copied):
    Path("rows.jsonl").unlink()
    result = call(TWO)
    assert result.returncode == 0, result.stderr
    assert f"{FIRST} is finished: skipped\n" in result.stdout
    assert f"{SECOND} is finished: skipped (not compared, because missing: rows.jsonl)" in result.stdout


def test_a_stage_without_its_published_result_gives_it_again(copied):
    before = weights("text")
    shutil.rmtree("runs/text/checkpoint")
    result = call(TWO)
    assert result.returncode == 0, result.stderr
    assert f"{SECOND} is finished: skipped" in result.stdout
    assert all(torch.equal(before[key], each) for key, each in weights("text").items())


def test_other_documents_are_another_content(place):
    Path("text.txt").write_text("".join(f"Line {n} of a text, in which {n % 7} birds sing.\n" for n in range(200)))
    recipe = {
        "documents": "text.txt", "preset": "tiny-text", "context_length": 64, "output_dir": "runs/d", "max_steps": 1,
        "documents_cache": "caches", "use_cpu": True, "save_strategy": "no", "eval_strategy": "no",
    }  # fmt: skip
    Path("d.yaml").write_text(yaml.safe_dump(recipe))
    words = ["train", "--stages", "d.yaml"]
    assert main(words) == 0
    shutil.rmtree("caches")
    assert "stage 1 of 1 (d.yaml) is finished: skipped\n" in call(words).stdout
    assert not Path("caches").exists()
    replace_text("text.txt", "birds", "trees")
    assert "stage 1 of 1 (d.yaml) was trained on another content of documents" in refusal(words)


def test_documents_then_chats(place):
    """The tokenizer and the model of the first stage go on."""
    (place / "text.txt").write_text("".join(f"Line {n} of a text, in which {n % 7} birds sing.\n" for n in range(200)))
    shared = {"max_steps": 2, "per_device_train_batch_size": 2, "use_cpu": True, "save_strategy": "no"}
    documents = {
        **shared, "documents": "text.txt", "preset": "tiny-text", "context_length": 64, "output_dir": "runs/d",
        "documents_cache": "caches", "eval_strategy": "no",
    }  # fmt: skip
    chats = {**shared, "data": "chats.jsonl", "chat_template": "chatml", "output_dir": "runs/c"}
    (place / "d.yaml").write_text(yaml.safe_dump(documents))
    (place / "c.yaml").write_text(yaml.safe_dump(chats))
    result = call(["train", "--stages", "d.yaml", "c.yaml", "--seed", "5"])
    assert result.returncode == 0, result.stderr
    assert yaml.safe_load(Path("runs/c/recipe.yaml").read_text())["model"] == "runs/d/checkpoint"
    assert [json.loads(Path(f"runs/{name}/run.json").read_text())["seed"] for name in "dc"] == [5, 5]


def test_the_output_folder_of_a_run_that_has_not_finished_is_no_model(place):
    signal_after(place / "runs" / "text", 2, signal.SIGTERM)
    assert main(["train", "--config", "text.yaml"]) == 143
    message = "the run of runs/text has not finished: continue it to its end"
    assert message in refusal(["train", "--config", "image.yaml", "--model", "runs/text"])


def test_two_processes_run_a_chain(place):
    words = [*TWO, "--max_steps", "2", "--global_batch_size", "8"]
    for rank in fork_ranks(2, words, place):
        code, said = rank.wait()
        assert code == 0, said
    report = json.loads(Path("runs/image/stages.json").read_text())
    assert [row["samples"] for row in report] == [16, 16]
    alone = call(words)  # 4 rows × 2 batches in this process are the same step
    assert alone.stdout.count("is finished: skipped") == 2
    differs = refusal([*TWO, "--max_steps", "2"])
    assert "was trained with another recipe (rows of a step 8 → 4)" in differs


def test_a_stage_without_memory_keeps_the_estimate_of_its_step():
    error = OutOfMemoryError(f"no memory: {RESUME}")
    error.report = lambda: "table"
    stage = Stage("stage 1", [], {}, {}, Path("run"))
    with pytest.raises(OutOfMemoryError) as raised, continued_by_the_same_command(stage):
        raise error
    assert str(raised.value) == "stage 1: no memory: the same command continues the chain"
    assert raised.value.report() == "table"


def test_a_stage_that_validates_on_trained_samples_says_so():
    def stage(title, **recipe):
        return Stage(title, [], recipe, {}, Path(title))

    first = stage("stage 1", data="a.jsonl", eval_fraction=0.1)
    assert trained_before([first], stage("stage 2", data="a.jsonl", eval_fraction=0.1)) == ""
    assert trained_before([first], stage("stage 2", data="b.jsonl", eval_fraction=0.2)) == ""
    mixture = [{"data": "b.jsonl"}, {"data": "a.jsonl"}]
    warning = trained_before([first], stage("stage 2", mixture=mixture, eval_fraction=0.2))
    assert warning.startswith("warning: stage 1 trained on some samples of a.jsonl that eval_fraction 0.2 holds out")
