"""A chain of stages passes each result on, skips what is finished, and goes on where it was stopped."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml
from media_files import picture
from processes import Forked, call, fork_ranks
from safetensors.torch import load_file
from tiny_runs import RECIPE, signal_after

from smol_hf import train
from smol_hf.commands.main import main
from smol_hf.training.checkpoint.interruption import RESUME
from smol_hf.training.checkpoint.run_folder import OutOfMemoryError, run_folder
from smol_hf.training.checkpoint.stage_record import Stage
from smol_hf.training.log.console import read_log
from smol_hf.training.stages import continued_by_the_same_command, trained_before

STEPS = 6
NEW = ("vision_config", "text_config")
# Text, then images with a frozen encoder that is unfrozen, then images at another rate.
CHAIN = {
    "text": {"data": "chats.jsonl", "learning_rate": 3e-3},
    "image": {"unfreeze_vision_at_step": 3, "vision_warmup_steps": 2, "vision_learning_rate": 5e-3},
    "last": {"learning_rate": 1e-3, "num_pages": 20},
}


def write_recipes(folder, runs="runs"):
    chat = [{"role": "user", "content": "What is one plus one?"}, {"role": "assistant", "content": "Two."}]
    (folder / "chats.jsonl").write_text(f"{json.dumps({'messages': chat})}\n" * 20)
    for name, keys in CHAIN.items():
        recipe = {**RECIPE, "max_steps": STEPS, "save_steps": 2, "output_dir": f"{runs}/{name}", **keys}
        for key in NEW if name != "text" else ():
            del recipe[key]
        if "data" in keys:
            del recipe["num_pages"]
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_recipes(tmp_path)
    return tmp_path


TWO = ["train", "--stages", "text.yaml", "image.yaml"]
STAGES = ["train", "--stages", *(f"{name}.yaml" for name in CHAIN)]


def losses(name, runs="runs"):
    return [entry["loss"] for entry in read_log(Path(runs, name)) if "loss" in entry]


def weights(name, runs="runs"):
    return load_file(Path(runs, name, "checkpoint", "model.safetensors"))


def refusal(words):
    result = call(words)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    return result.stderr


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


def replace_text(path, old, new):
    path = Path(path)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


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


def test_a_stage_that_begins_elsewhere_says_so_and_a_missing_model_is_refused_before_the_first(place):
    replace_text("image.yaml", "output_dir", "model: not/here/checkpoint\noutput_dir")
    assert "stage 2 of 2 (image.yaml): there is no checkpoint not/here/checkpoint" in refusal(TWO)
    assert not Path("runs").exists()
    replace_text("image.yaml", "not/here", "elsewhere")
    assert main(["train", "--config", "text.yaml", "--output_dir", "elsewhere", "--max_steps", "1"]) == 0
    result = call([*TWO, "--max_steps", "1", "--unfreeze_vision_at_step", "0", "--vision_warmup_steps", "0"])
    assert result.returncode == 0, result.stderr
    assert "it begins with elsewhere/checkpoint, not with the result of the stage before" in result.stdout


def test_bad_data_names_its_stage_and_is_mended(place):
    good = Path("chats.jsonl").read_text()
    Path("chats.jsonl").write_text(good.replace("assistant", "nobody"))
    assert refusal(TWO).startswith("error: stage 1 of 2 (text.yaml): ")
    Path("chats.jsonl").write_text(good)
    assert call(TWO).returncode == 0


@pytest.mark.parametrize("output", ["/proc/nowhere", "chats.jsonl/run", "chats.jsonl", "x" * 300])
def test_an_output_folder_that_cannot_be_written_is_one_sentence(output, place):
    replace_text("text.yaml", "runs/text", output)
    assert refusal(TWO).count("\n") == 1


def test_another_process_in_the_same_chain_is_refused(place):
    with run_folder(Path("runs/text")):
        apart = Forked(main, place / "printed.txt", TWO)
        code, said = apart.wait()
    assert code == 1 and "stage 1 of 2 (text.yaml): runs/text is in use by another run" in said


def test_a_text_only_result_before_images_is_one_sentence(place):
    for name, keys in {"text": {"preset": "tiny-text", "chat_template": "chatml"}, "image": {}}.items():
        recipe = {**yaml.safe_load(Path(f"{name}.yaml").read_text()), "max_steps": 1, **keys}
        dropped = ("unfreeze_vision_at_step", "vision_warmup_steps", "vision_learning_rate", "vision_config")
        Path(f"{name}.yaml").write_text(
            yaml.safe_dump({key: recipe[key] for key in recipe if key not in (*dropped, *NEW)})
        )
    told = refusal(TWO)
    assert told.startswith("error: stage 2 of 2 (image.yaml): ") and told.count("\n") == 1, told


def test_lanes_that_the_last_stage_cannot_share_are_refused_before_the_first_trains(place):
    recipe = yaml.safe_load(Path("last.yaml").read_text())
    Path("last.yaml").write_text(yaml.safe_dump({**recipe, "data_lanes": 5, "dataloader_num_workers": 2}))
    said = refusal(STAGES)
    assert "stage 3 of 3 (last.yaml): data_lanes 5 is not a multiple of 1 process × 2 workers = 2: use 6 or 8" in said
    assert not Path("runs").exists()


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--output_dir", "x"), "--output_dir would apply to all stages, and each needs its own"),
        (("--text_config.hidden_size", "8"), "--text_config.hidden_size would apply to all stages"),
        (("--config", "text.yaml"), "--config and --stages exclude each other"),
        (("--lerning_rate", "1"), "unknown option --lerning_rate"),
        (("--beta", "1"), "unknown option --beta"),
        (("--documents_cache", "x"), "stage 1 of 3 (text.yaml): documents_cache has no effect"),
        (("--tflops", "2"), "--num-processes and --tflops belong to --dry-run"),
    ],
)
def test_keys_that_are_not_for_all_stages_are_refused(words, message, place, capsys):
    try:
        assert main([*STAGES, *words]) == 1
    except SystemExit as error:  # of the parser
        assert error.code == 2
    assert message in capsys.readouterr().err
    assert not Path("runs").exists()


def test_two_stages_in_one_folder_are_refused(place):
    recipe = yaml.safe_load((place / "image.yaml").read_text())
    (place / "image.yaml").write_text(yaml.safe_dump({**recipe, "output_dir": "runs/../runs/text"}))
    assert (
        "stage 2 of 3 (image.yaml): its output_dir runs/../runs/text is that of stage 1 of 3 (text.yaml)"
        in refusal(STAGES)
    )


def test_a_stage_inside_the_folder_of_another_is_refused(place):
    recipe = yaml.safe_load((place / "image.yaml").read_text())
    (place / "image.yaml").write_text(yaml.safe_dump({**recipe, "output_dir": "runs/text/checkpoint"}))
    assert "or one is inside the other: give each stage its own" in refusal(STAGES)


@pytest.mark.parametrize("content", ["x{", "[]", "{}", '{"result": {}}', '{"recipe": 5, "model": {}}'])
def test_a_damaged_record_of_a_stage_is_named(place, content):
    (place / "runs" / "text").mkdir(parents=True)
    (place / "runs" / "text" / "stage.json").write_text(content)
    assert "runs/text/stage.json is damaged" in refusal(STAGES)


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
