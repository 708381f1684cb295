"""What is published and what is refused, before anything is sent."""

import json
import os
import pickle
import re

import pytest
from huggingface_hub import ModelCard
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from smol_hf import SmolHFForConditionalGeneration, SmolHFProcessor
from smol_hf.commands.main import main
from smol_hf.publishing.checkpoint import publish_adapter
from smol_hf.publishing.contents import PublishError, look_into
from smol_hf.publishing.disclosures import LOCAL_PATH, SECRET, shorten
from smol_hf.publishing.plan import plan
from smol_hf.publishing.upload import loading_lines, write_edits

SOME_TOKEN = "hf_" + "aB3" * 11


def test_states_logs_and_hidden_files_stay_at_home(checkpoint):
    published = set(look_into(checkpoint).files)
    assert published == {path.name for path in checkpoint.iterdir()}
    stay = {
        "checkpoint-20/model.safetensors": "state", "checkpoint-20/optimizer.pt": "state", "optimizer.pt": "state",
        "rng_state_0.pth": "state", "scheduler.pt": "state", "training_args.bin": "state", "run.json": "state",
        "log.jsonl": "log", "events.out.tfevents.1": "log", "train.log": "log", ".env": "hidden",
        ".README.md.incomplete": "hidden", ".git/config": "hidden", "core.1234": "kind", "stray.safetensors": "loaded",
        "model.safetensors.index.json.incomplete": "kind",
    }  # fmt: skip
    for name in stay:
        (checkpoint / name).parent.mkdir(exist_ok=True)
        (checkpoint / name).write_text("not for others: " + SOME_TOKEN)
    for name in ("LICENSE", "loss.png", "additional_chat_templates/tools.jinja"):
        (checkpoint / name).parent.mkdir(exist_ok=True)
        (checkpoint / name).write_bytes(b"for all")
    contents = look_into(checkpoint)
    assert set(contents.files) == published | {"LICENSE", "loss.png", "additional_chat_templates/tools.jinja"}
    assert contents.left_out.keys() == stay.keys()
    assert all(word in contents.left_out[name] for name, word in stay.items())
    assert plan(checkpoint, "me/digits").problems == ()


def test_a_folder_that_is_not_meant_names_the_one_that_is(checkpoint, tmp_path):
    run = checkpoint.parent
    state = run / "checkpoint-20"
    state.mkdir()
    (state / "config.json").write_text("{}")
    unfinished = run / ".checkpoint.incomplete"
    unfinished.mkdir()
    for folder, message in (
        (state, f"{state} is a training state, not a published checkpoint: publish {checkpoint}"),
        (run, f"{run} is the output of a run: publish {checkpoint}"),
        (tmp_path / "nowhere", "there is no folder"),
        (unfinished, "is incomplete"),
        (tmp_path, "neither config.json nor adapter_config.json"),
    ):
        with pytest.raises(PublishError) as refused:
            look_into(folder)
        assert message in str(refused.value)
    renamed = state.rename(run / "best")
    (renamed / "trainer_state.json").write_text("{}")
    with pytest.raises(PublishError, match="training state"):
        look_into(renamed)


def test_a_single_shard_keeps_its_index(checkpoint):
    tensors, index = {}, checkpoint / "model.safetensors.index.json"
    for path in checkpoint.glob("*.safetensors"):
        tensors |= load_file(path)
        path.unlink()
    shard = "model-00001-of-00001.safetensors"
    save_file(tensors, checkpoint / shard)
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(tensors, shard)}))
    assert {shard, index.name} <= set(look_into(checkpoint).files)
    save_file(tensors, checkpoint / "model.safetensors")
    assert set(look_into(checkpoint).left_out) == {shard, index.name}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "more/head.pt", "stats.pkl", "table.npy"])
def test_nothing_pickled_is_published(checkpoint, name):
    (checkpoint / name).parent.mkdir(exist_ok=True)
    (checkpoint / name).write_bytes(pickle.dumps({}))
    with pytest.raises(PublishError, match=f"{name} may contain a pickle.*safetensors"):
        look_into(checkpoint)


def test_weights_that_are_cut_off_or_missing_are_named(checkpoint):
    shard = checkpoint / "model-00002-of-00003.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    with pytest.raises(PublishError, match=r"model-00002-of-00003\.safetensors is damaged or cut off"):
        look_into(checkpoint)
    shard.unlink()
    with pytest.raises(PublishError, match="this shard is missing"):
        look_into(checkpoint)


def test_a_link_out_of_the_folder_is_not_followed(checkpoint, tmp_path):
    (tmp_path / "private.txt").write_text("mine")
    os.symlink(tmp_path, checkpoint / "more")
    assert look_into(checkpoint).left_out == {"more": "link to a folder"}
    os.symlink(tmp_path / "private.txt", checkpoint / "vocab.txt")
    with pytest.raises(PublishError, match=r"vocab\.txt is a link that leads out"):
        look_into(checkpoint)


def test_a_card_without_a_licence_says_where_to_set_it(checkpoint, capsys):
    card = checkpoint / "README.md"
    card.write_text(card.read_text().replace("license: mit\n", ""))
    assert main(["publish", str(checkpoint), "me/digits"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "README.md has no licence: give --license" in error

    publication = plan(checkpoint, "me/digits", license="apache-2.0")
    assert publication.problems == () and publication.licenses == ("apache-2.0",)
    assert "+license: apache-2.0" in publication.changes()
    write_edits(publication)
    assert ModelCard.load(card).data.license == "apache-2.0"
    assert not plan(checkpoint, "me/digits").edits, "a card that is as it should be stays as it is"
    with pytest.raises(PublishError, match="not a licence identifier"):
        plan(checkpoint, "me/digits", license="do what you like")


@pytest.mark.parametrize("text", ["# only a title\n", "---\nlicense: [\n---\n", "---\n- mit\n---\n"])
def test_a_card_that_cannot_be_read_is_named(checkpoint, text):
    (checkpoint / "README.md").write_text(text)
    with pytest.raises(PublishError, match=r"README\.md"):
        plan(checkpoint, "me/digits")


def test_what_was_converted_or_merged_gets_a_card(checkpoint, capsys):
    """Such folders have none; the repository's card says what the model is."""
    (checkpoint / "README.md").unlink()
    assert main(["publish", str(checkpoint), "me/digits"]) == 1
    assert "README.md has no licence" in capsys.readouterr().err
    assert main(["publish", str(checkpoint), "me/digits", "--license", "mit"]) == 0
    assert re.search(r"│ README\.md +│ +[\d,]+ │ new", capsys.readouterr().out)
    assert not (checkpoint / "README.md").exists()
    publication = plan(checkpoint, "me/digits", license="mit")
    write_edits(publication)
    card = ModelCard.load(checkpoint / "README.md")
    model = SmolHFForConditionalGeneration.from_pretrained(checkpoint)
    assert card.data.license == "mit" and 'checkpoint = "me/digits"' in card.text
    assert f"| **Total** |  | {model.num_parameters():,} |" in card.text
    assert publication.size_of("README.md") == (checkpoint / "README.md").stat().st_size
    (checkpoint / "config.json").write_text('{"model_type": "llama"}')
    (checkpoint / "README.md").unlink()
    with pytest.raises(PublishError, match=r"README\.md is missing: write a model card"):
        plan(checkpoint, "me/digits")


def test_a_token_in_the_header_of_weights_is_found(checkpoint):
    path = checkpoint / "model-00001-of-00003.safetensors"
    save_file(load_file(path), path, metadata={"format": "pt", "note": SOME_TOKEN})
    (problem,) = plan(checkpoint, "me/digits").problems
    assert "model-00001-of-00003.safetensors:1 (hf_aB3…)" in problem


def test_a_token_in_any_text_is_named_by_file_and_line_and_not_shown(checkpoint, capsys):
    for name in ("recipe.yaml", "masks.py"):
        with (checkpoint / name).open("a") as file:
            file.write(f"# {SOME_TOKEN}\n")
    assert main(["publish", str(checkpoint), "me/digits", "--yes", "--allow-paths"]) == 1
    error = capsys.readouterr().err
    for name in ("recipe.yaml", "masks.py"):
        assert f"{name}:{len((checkpoint / name).read_text().splitlines())} (hf_aB3…)" in error
    assert SOME_TOKEN not in error


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (SOME_TOKEN, True), ("ghp_" + "a1" * 18, True), ("AKIA" + "ABCD" * 4, True),
        ("-----BEGIN RSA PRIVATE KEY-----", True), ("hf_hub_download", False), ("sk-learn", False),
        ("the hf_transfer package", False),
    ],
)  # fmt: skip
def test_what_a_secret_looks_like(text, is_one):
    assert bool(SECRET.search(text)) == is_one


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("output_dir: /home/me/runs/x", "/home/me/runs/x"), ('"_name_or_path": "/data/model"', "/data/model"),
        ("data: ~/pages.jsonl", "~/pages.jsonl"), ("file:///home/me/x.json", "file:///home/me/x.json"),
        ('"C:\\\\Users\\\\me"', "C:\\\\Users\\\\me"), ("https://huggingface.co/me/x", None), ("s3://bucket/a/b", None),
        ("runs/x/y", None), ("</details>", None), ("and/or/not", None), ("1/2 /no_think", None), ("gs://b/c/d", None),
        ("../shared/data", None), ("C: the speed of light", None),
    ],
)  # fmt: skip
def test_what_a_path_of_this_machine_looks_like(text, found):
    match = LOCAL_PATH.search(text)
    assert (match and match[0]) == found


def test_paths_of_this_machine_are_named_and_shortened_only_when_asked(checkpoint, capsys):
    recipe = checkpoint / "recipe.yaml"
    recipe.write_text("data: /home/me/pages.jsonl\noutput_dir: /scratch/me/run\n")
    assert main(["publish", str(checkpoint), "me/digits"]) == 1
    error = capsys.readouterr().err
    assert "recipe.yaml:1 (/home/me/pages.jsonl), recipe.yaml:2 (/scratch/me/run)" in error
    assert "--shorten-paths" in error and "--allow-paths" in error
    assert plan(checkpoint, "me/digits", allow_paths=True).problems == ()

    publication = plan(checkpoint, "me/digits", shorten_paths=True)
    assert publication.problems == () and "+data: pages.jsonl" in publication.changes()
    write_edits(publication)
    assert recipe.read_text() == "data: pages.jsonl\noutput_dir: run\n"
    assert shorten("of /a/b and ~/c.txt") == "of b and c.txt"


def test_code_that_a_configuration_names_must_be_there(checkpoint):
    (checkpoint / "processing_smol_hf.py").unlink()
    (problem,) = plan(checkpoint, "me/digits").problems
    assert "processing_smol_hf.py is missing, which" in problem


@pytest.mark.parametrize(
    ("repository", "branch"),
    [("digits", "main"), ("a/b/c", "main"), ("me/-x-", "main"), ("me/x y", "main"), ("me/x", "a b"), ("me/x", "")],
)
def test_names_that_the_hub_does_not_have_are_refused(checkpoint, repository, branch):
    with pytest.raises(PublishError, match=r"OWNER/NAME|not a valid branch name"):
        plan(checkpoint, repository, branch=branch)


def test_an_adapter_is_published_over_a_base_that_others_have(checkpoint, tmp_path):
    model = SmolHFForConditionalGeneration.from_pretrained(checkpoint)
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    processor = SmolHFProcessor.from_pretrained(checkpoint)
    folder = publish_adapter(tmp_path / "mine" / "adapter", model, processor, recipe={"lora_r": 2}, versions={})
    (local, *_) = [each for each in plan(folder, "me/lora", license="mit").problems if "base_model" in each]
    assert "others cannot download: publish it first" in local

    for name in ("adapter_config.json", "README.md"):
        path = folder / name
        path.write_text(path.read_text().replace(str(checkpoint), "me/digits"))
    publication = plan(folder, "me/lora", license="mit")
    assert publication.problems == () and {"adapter_model.safetensors", "recipe.yaml"} <= {*publication.contents.files}
    assert any(line.startswith('+adapter = "me/lora"') for line in publication.changes())
    lines = loading_lines(publication, "v2")
    compile(lines, "lines", "exec")
    assert 'PeftModel.from_pretrained(base, "me/lora", revision="v2")' in lines
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "me/digits"


def test_scores_of_an_evaluation_go_into_the_front_matter(checkpoint, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "Which?", "answer": "7"}\n{"question": "How many?", "answer": "2"}\n')
    words = ["evaluate", str(checkpoint), "--data", str(rows), "--max-new-tokens", "2", "--device", "cpu"]
    assert main([*words, "--metric", "anls", "--metric", "word_error_rate"]) == 0
    planned = plan(checkpoint, "me/digits")
    write_edits(planned)
    card = ModelCard.load(checkpoint / "README.md")
    scores = {each.metric_type: each for each in card.data.eval_results}
    results = json.loads((checkpoint.parent / "evaluation" / "results.json").read_text())
    assert set(scores) == {"anls", "word_error_rate"} and card.data.model_name == "digits"
    for name, each in scores.items():
        assert each.metric_value == round(results["metrics"][name]["score"], 4)
        assert (each.dataset_name, each.task_type) == ("rows.jsonl", "image-text-to-text")
    assert "No evaluation is reported" not in card.text and planned.warnings == ()
    assert plan(checkpoint, "me/digits").edits == {}, "a second plan adds nothing"
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "changed": 1}))
    assert any("has scores of other files" in each for each in plan(checkpoint, "me/digits").warnings)
