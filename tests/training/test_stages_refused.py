"""Chains of stages that cannot run are refused, before the first trains if possible."""

from pathlib import Path

import pytest
import yaml
from processes import Forked, call
from stage_chains import NEW, STAGES, TWO, refusal, replace_text, write_recipes

from smol_hf.commands.main import main
from smol_hf.training.checkpoint.run_folder import run_folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_recipes(tmp_path)
    return tmp_path


def test_a_stage_that_begins_elsewhere_says_so_and_a_missing_model_is_refused_before_the_first(place):
    replace_text("image.yaml", "output_dir", "model: not/here/checkpoint\noutput_dir")
    assert "stage 2 of 2 (image.yaml): there is no checkpoint not/here/checkpoint: check the path" in refusal(TWO)
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--output_dir", "x"), "--output_dir would apply to all stages, and each needs its own"),
        (("--text_config.hidden_size", "8"), "--text_config.hidden_size would apply to all stages"),
        (("--config", "text.yaml"), "--config and --stages exclude each other"),
        (("--lerning_rate", "1"), "unknown option --lerning_rate"),
        (("--beta", "1"), "unknown option --beta: it is a key of smol-hf dpo"),
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
