"""Mistakes of a user, at each command: one sentence that names the mistake, and never a traceback."""

import json
import shutil

import pytest
import torch
from chat_models import save_base
from modeling.builders import build_processor, build_vlm
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_runs import RECIPE, train_words, words

from smol_hf.commands.main import COMMANDS, main

TRAIN = ["train", *words({**RECIPE, "max_steps": 1})]
DPO = ["dpo", *words({"model": "base", "output_dir": "out", "max_steps": 1, "use_cpu": True})]
PRETRAIN = ["pretrain", "--output", "out", "--steps", "1", "--use_cpu", "true", "--preset", "tiny-text"]


def changed(command, *more):
    """The command with other values for some of its keys."""
    given = {word for word in more if word.startswith("--")}
    kept = [each for pair in zip(command[1::2], command[2::2]) for each in pair if pair[0] not in given]
    return [command[0], *kept, *more]


def train(*more):
    return changed([*TRAIN, "--output_dir", "out"], *more)


def dpo(*more):
    return changed([*DPO, "--data", "pairs.jsonl"], *more)


def pretrain(*more):
    return changed([*PRETRAIN, "--data", "text.txt"], *more)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What the mistakes are made with: a trained checkpoint, a language model, and files with one fault each."""
    folder = tmp_path_factory.mktemp("made")
    assert main(train_words(folder / "run", max_steps=1)) == 0
    (folder / "vlm").symlink_to(folder / "run" / "checkpoint")
    save_base(folder / "base", "ours")
    weights = load_file(folder / "vlm" / "model.safetensors")
    for name in ("nan", "cut", "lacking", "unconfigured", "odd"):
        shutil.copytree(folder / "vlm", folder / name)
    largest = max(weights, key=lambda each: weights[each].numel())
    save_file({**weights, largest: torch.full_like(weights[largest], torch.nan)}, folder / "nan/model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    save_file({name: weights[name] for name in weights if name != largest}, folder / "lacking/model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    (folder / "cut/model.safetensors").write_bytes((folder / "vlm/model.safetensors").read_bytes()[:5000])
    (folder / "unconfigured/config.json").unlink()
    (folder / "odd/config.json").write_text("{")
    shutil.copytree(folder / "base", folder / "nan-text")
    weights = load_file(folder / "base/model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: torch.full_like(weights[name], torch.nan)}, folder / "nan-text/model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    for name, parts in {
        "siglip-mlp": ("siglip", "rotary", {"connector_type": "mlp"}),
        "gemma2-mlp": ("clip", "gemma2", {"connector_type": "mlp", "vision_feature_layer": -2}),
        "tiled-mlp": ("clip", "rotary", {"connector_type": "mlp", "vision_feature_layer": -2}),
    }.items():
        encoder, decoder, changes = parts
        build_vlm(encoder, decoder, **changes).save_pretrained(folder / name)
    build_processor().save_pretrained(folder / "tiled-mlp")
    assert main(["convert", str(folder / "base"), str(folder / "native")]) == 0
    Image.new("RGB", (40, 40)).save(folder / "red.png")
    (folder / "cut.png").write_bytes((folder / "red.png").read_bytes()[:40])
    row = {"image": "red.png", "conversations": [{"from": "human", "value": "<image>\nWhat?"},
                                                 {"from": "gpt", "value": "Red."}]}  # fmt: skip
    for name, text in {
        "rows.jsonl": json.dumps(row), "missing-image.jsonl": json.dumps({**row, "image": "nowhere.png"}),
        "cut-image.jsonl": json.dumps({**row, "image": "cut.png"}), "empty.jsonl": "", "broken.jsonl": '{"image": ',
        "list.jsonl": "[1, 2]", "strange.jsonl": '{"colour": "red"}', "pairs.jsonl": json.dumps(
            {"prompt": "What?", "chosen": "Red.", "rejected": "Blue."}),
        "half.jsonl": '{"prompt": "What?", "chosen": "Red."}', "text.txt": "One line of a text.\n" * 300,
        "recipe.yaml": "seed: 1\nseed: 2\n", "list.yaml": "- a\n- b\n", "broken.yaml": "a: [1\n",
        "unknown.yaml": "lerning_rate: 1\n", "mixture.yaml": "- {data: rows.jsonl, weight: -1}\n",
        "model.pt": "no weights", "file": "", "prompts.jsonl": '{"prompt": 3}',
    }.items():  # fmt: skip
        (folder / name).write_text(text + ("\n" if text else ""))
    (folder / "latin.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')
    (folder / "empty").mkdir()
    return folder


VLM = ["train", *words({"data": "digits", "num_pages": 20, "max_steps": 1, "use_cpu": True, "output_dir": "out"})]
CHAT = ["--prompt", "hi"]
OUT = ["--output", "out"]
COMPOSE = ["compose", "--vision", "vlm", "--text", "base"]
SHOWN = ["--model", "vlm", "--output", "out.html"]

MISTAKES = [
    # The recipe.
    (["train", "--config", "nowhere.yaml"], "the recipe nowhere.yaml does not exist"),
    (["train", "--config", "recipe.yaml"], "'seed'"),
    (["train", "--config", "list.yaml"], "list.yaml: a recipe is"),
    (["train", "--config", "broken.yaml"], "broken.yaml: "),
    (["train", "--config", "unknown.yaml", "--output_dir", "out"], "did you mean 'learning_rate'"),
    (["train", "--config", "empty"], "empty"),
    (["train", "digits"], "'digits'"),
    (train("--learning_rate", "fast"), "learning"),
    (train("--learning_rate", "-1"), "learning_rate is -1.0"),
    (train("--max_steps", "0"), "leave no step to train"),
    (train("--seed", "-1"), "seed is -1"),
    (train("--per_device_train_batch_size", "0"), "per_device_train_batch_size is 0"),
    (train("--lr_scheduler_type", "cosinus"), "cosinus"),
    (train("--optim", "adamm"), "adamm"),
    (train("--warmup_steps", "-5"), "warmup_steps is -5"),
    (train("--report_to", "nothing_known"), "unknown tracker 'nothing_known'"),
    (train("--dataloader_num_workers", "3"), "data_lanes 4 is not a multiple of 1 process × 3 workers"),
    (train("--dataloader_num_workers", "-1"), "dataloader_num_workers is -1"),
    (train("--save_steps", "0"), "save_steps is 0"),
    (train("--weight_decay", "-1"), "weight_decay is -1"),
    (train("--adam_beta1", "1.5"), "adam_beta1 is 1.5"),
    (train("--output_dir", "file"), "file is a file"),
    (train("--output_dir", "file/x"), "file/x cannot be a folder"),
    (train("--resume_from_checkpoint", "nowhere"), "there is no checkpoint nowhere"),
    (train("--resume_from_checkpoint", "vlm"), "manifest.json is missing"),
    (train("--fp16", "true"), "fp16 needs a GPU"),
    (train("--bf16", "true", "--fp16", "true"), "fp16 and bf16"),
    # The data.
    (train("--data", "nowhere.jsonl"), "nowhere.jsonl does not exist"),
    (train("--data", "empty.jsonl"), "holds no sample"),
    (train("--data", "broken.jsonl"), "broken.jsonl:1: not valid JSON"),
    (train("--data", "list.jsonl"), "list.jsonl:1: a record is a JSON object"),
    (train("--data", "strange.jsonl"), "strange.jsonl:1: "),
    (train("--data", "missing-image.jsonl"), "nowhere.png"),
    (train("--data", "cut-image.jsonl"), "cut.png"),
    (train("--data", "latin.jsonl"), "latin.jsonl:1: "),
    (train("--data", "empty"), "empty holds no"),
    (train("--data", "rows.jsonl", "--adapter", "nope"), "unknown adapter 'nope'"),
    (train("--mixture", "nowhere.yaml"), "nowhere.yaml"),
    (train("--mixture", "mixture.yaml"), "weight is -1"),
    (train("--data", "rows.jsonl", "--filters.min_colour", "2"), "unknown filter 'min_colour'"),
    (train("--data", "rows.jsonl", "--context_length", "2"), "more than context_length 2"),
    (train("--context_length", "100000"), "context_length 100000 is more than"),
    (train("--sample_packing", "maybe"), "maybe"),
    (train("--data_lanes", "0"), "data_lanes is 0"),
    # The model.
    (train("--text_config.hidden_size", "17"), "hidden_size 17"),
    (train("--text_config.hiden_size", "16"), "did you mean 'hidden_size'"),
    (train("--vision_config.model_type", "sigklip"), "did you mean 'siglip'"),
    (train("--connector_type", "glue"), "connector_type is 'glue'"),
    (train("--scale_factor", "3"), "scale_factor 3"),
    (train("--preset", "smolvlm9"), "unknown preset 'smolvlm9'"),
    (train("--tokenizer", "empty"), "the model cannot be built"),
    (train("--attn_implementation", "quick"), "quick"),
    (train("--dtype", "float12"), "dtype is 'float12'"),
    (train("--vision_config.patch_size", "0"), "the model cannot be built"),
    (train("--tokenizer_vocab_size", "2"), "got 2"),
    ([*VLM, "--model", "nowhere/at/all"], "there is no checkpoint nowhere/at/all"),
    (changed(VLM, "--model", "vlm", "--output_dir", "run"), "vlm would be overwritten"),
    ([*VLM, "--model", "cut"], "the weights of cut are damaged"),
    ([*VLM, "--model", "nan"], "weight holds NaN or infinity"),
    ([*VLM, "--model", "lacking"], "missing, first "),
    ([*VLM, "--model", "odd"], "odd/config.json"),
    ([*VLM, "--model", "unconfigured"], "unconfigured"),
    ([*VLM, "--model", "empty"], "empty"),
    ([*VLM, "--model", "vlm", "--use_peft", "true", "--lora_target_modules", "[nothing]"], "'nothing'"),
    # pretrain and dpo.
    (pretrain("--data", "nowhere.txt"), "nowhere.txt does not exist"),
    (pretrain("--data", "empty.jsonl"), "empty.jsonl: "),
    (pretrain("--data", "latin.jsonl"), "latin.jsonl:1: "),
    (pretrain("--data", "strange.jsonl"), "has no key 'text'"),
    (pretrain("--preset", "huge"), "unknown preset 'huge'"),
    (pretrain("--context-length", "1"), "context_length is 1"),
    (pretrain("--tokenizer", "file"), "the model cannot be built"),
    (pretrain("--push-to-hub", "me/x"), "--push-to-hub needs --license"),
    (pretrain("--resume", "nowhere"), "there is no checkpoint nowhere"),
    (pretrain("--batch-size", "x"), "'x'"),
    (dpo("--data", "nowhere.jsonl"), "nowhere.jsonl does not exist"),
    (dpo("--data", "half.jsonl"), "half.jsonl:1: "),
    (dpo("--data", "empty.jsonl"), "empty.jsonl: "),
    (dpo("--model", "vlm"), "vlm is a vision-language model"),
    (dpo("--model", "nowhere"), "there is no checkpoint nowhere"),
    (dpo("--model", "nan-text"), "weight holds NaN or infinity"),
    (dpo("--beta", "-1"), "beta is -1"),
    (dpo("--loss_type", "sigmund"), "did you mean 'sigmoid'"),
    (dpo("--max_length", "1"), "max_length is 1"),
    (dpo("--max_length", "100000"), "max_length 100000 is more than"),
    (dpo("--eval_strategy", "steps"), "eval_strategy and validation_data"),
    # chat and generate.
    (["chat", "nowhere"], "there is no checkpoint folder nowhere"),
    (["chat", "empty", *CHAT], "empty/config.json"),
    (["chat", "file", *CHAT], "there is no checkpoint folder file"),
    (["chat", "vlm", *CHAT, "--image", "nowhere.png"], "nowhere.png does not exist"),
    (["chat", "vlm", *CHAT, "--image", "cut.png"], "cut.png is not an image"),
    (["chat", "vlm", *CHAT, "--temperature", "-1"], "temperature is -1"),
    (["chat", "base", *CHAT, "--image", "red.png"], "red.png"),
    (["chat", "cut", *CHAT], "the weights of cut are damaged"),
    (["chat", "nan", *CHAT], "weight holds NaN or infinity"),
    (["chat", "lacking", *CHAT], "missing, first "),
    (["chat", "odd", *CHAT], "odd/config.json"),
    (["generate", "base"], "--prompt"),
    (["generate", "base", "--prompts-file", "nowhere"], "file of prompts not found: nowhere"),
    (["generate", "base", "--prompts-file", "prompts.jsonl"], "prompts.jsonl:1: "),
    (["generate", "base", "--prompt", "a", "--batch-size", "0"], "batch_size is 0"),
    (["generate", "base", "--prompt", "a", "--max-new-tokens", "x"], "'x'"),
    (["generate", "base", "--prompt", "a", "--output", "nowhere/x.jsonl"], "nowhere/x.jsonl cannot be written"),
    # convert, compose, merge, check, estimate.
    (["convert", "nowhere", "out"], "nowhere: no such file or folder"),
    (["convert", "vlm", "out", "--to", "gguff"], "--to gguff"),
    (["convert", "vlm", "base"], "base exists and is not empty"),
    (["export", "nowhere", "out", "--to", "native"], "nowhere: no such file or folder"),
    (["export", "vlm", "base", "--to", "native"], "base exists and is not empty"),
    (["export", "cut", "out", "--to", "native"], "cut/model.safetensors: damaged"),
    (["export", "nan", "out", "--to", "native"], "contains NaN or infinity"),
    (["export", "base", "out", "--to", "nativ"], "'nativ'"),
    (["export", "base", "base/out", "--to", "native"], "is inside"),
    (["export", "native", "out", "--to", "native"], "native is a model of transformers' own classes already"),
    (["export", "text.txt", "out", "--to", "native"], "text.txt"),
    (["export", "siglip-mlp", "out", "--to", "native"], "the output of siglip_vision_model after"),
    (["export", "gemma2-mlp", "out", "--to", "native"], "text_config is 'gemma2'"),
    (["export", "tiled-mlp", "out", "--to", "native"], "the processor cuts images into tiles"),
    (["export", "base", "out", "--to", "native", "--prompts-file", "nowhere.txt"], "nowhere.txt"),
    (["export", "base", "out", "--to", "native", "--no-compare", "--prompts-file", "text.txt"], "--no-compare"),
    (["check", "base", "--source", "vlm"], "base is not a result of smol-hf export"),
    (["convert", "cut", "out", "--to", "native"], "cut/model.safetensors: damaged"),
    (["convert", "model.pt", "out"], "model.pt"),
    (["convert", "empty", "out"], "empty/config.json"),
    ([*changed(COMPOSE, "--vision", "nowhere"), "out"], "nowhere: no such file or folder"),
    ([*changed(COMPOSE, "--vision", "base"), "out"], "base: "),
    ([*changed(COMPOSE, "--text", "vlm"), "out"], "vlm is already a vision-language model"),
    ([*changed(COMPOSE, "--text", "nan-text"), "out"], "NaN or infinity"),
    ([*COMPOSE, "--connector", "glue", "out"], "connector_type is 'glue'"),
    ([*COMPOSE, "--scale-factor", "0", "out"], "--scale-factor is 0"),
    (["merge", "nowhere", "out"], "nowhere: no such file or folder"),
    (["merge", "base", "out"], "base is not an adapter of PEFT"),
    (["check", "nowhere"], "nowhere/config.json"),
    (["check", "cut"], "cut/model.safetensors: damaged"),
    (["check", "odd"], "odd/config.json"),
    (["estimate", "smolvlm9"], "did you mean"),
    (["estimate", "nowhere.yaml"], "the recipe nowhere.yaml does not exist"),
    (["estimate", "empty"], "empty"),
    (["estimate", "vlm", "--batch-size", "0"], "batch_size is 0"),
    # publish, data, tokenizer, demo.
    (["publish", "nowhere", "me/x"], "there is no folder nowhere"),
    (["publish", "empty", "me/x"], "empty is not a published checkpoint"),
    (["publish", "run/checkpoint-1", "me/x"], "run/checkpoint-1 is a training state"),
    (["publish", "vlm", "not a name"], "'not a name'"),
    (["publish", "vlm", "me/x", "--license", "nope nope"], "'nope nope'"),
    (["data", "preview", "nowhere.jsonl", *SHOWN], "nowhere.jsonl does not exist"),
    (["data", "preview", "strange.jsonl", *SHOWN], "strange.jsonl:1: "),
    (["data", "preview", "rows.jsonl", *SHOWN, "--colour", "red"], "--colour"),
    (["data", "preview", "rows.jsonl", *SHOWN, "--set", "colour=red"], "colour"),
    (["data", "stats", "empty.jsonl", "--model", "vlm"], "empty.jsonl"),
    (["data", "stats", "rows.jsonl"], "name a checkpoint (--model)"),
    (["data", "stats", "rows.jsonl", "--model", "vlm", "--adapter", "nope"], "unknown adapter 'nope'"),
    (["data", "prepare", "nowhere.jsonl", *OUT], "nowhere.jsonl does not exist"),
    (["data", "prepare", "rows.jsonl", "--output", "file"], "file is there already"),
    (["data", "prepare", "rows.jsonl", *OUT, "--format", "csv"], "'csv'"),
    (["data", "prepare", "rows.jsonl", *OUT, "--shard", "3"], "'3' is not K/N, such as 3/16"),
    (["data", "prepare", "rows.jsonl", *OUT, "--shard", "4/3"], "'4/3' is not K/N"),
    (["data", "prepare", "rows.jsonl", "--output", "base", "--shard", "1/2"], "base is there already"),
    (["data", "list", "--config", "nowhere.yaml"], "the recipe nowhere.yaml does not exist"),
    (["data", "download", *OUT], "nothing to download is named"),
    (["tokenizer", "train", "nowhere.txt", *OUT], "nowhere.txt does not exist"),
    (["tokenizer", "train", "text.txt", *OUT, "--vocab-size", "1"], "got 1"),
    (["tokenizer", "train", "empty.jsonl", *OUT], "empty.jsonl: "),
    (["tokenizer", "train", "text.txt", "--output", "file"], "file is a file"),
    (["demo", "--output", "base"], "base contains something"),
    (["demo", "--output", "file"], "file is a file"),
    (["demo", "--output", "file/x"], "file/x"),
    (["demo", "nowhere"], "nowhere"),
    (["demo", "--learning_rate", "fast", *OUT], "learning"),
    (["serve", "nowhere"], "nowhere"),
    (["serve"], "checkpoint"),
    (["recipes", "show", "digit"], "did you mean"),
    (["recipes", "copy", "digits", "file"], "file exists"),
    (["demo", "--recipe", "nowhere.yaml", *OUT], "the recipe nowhere.yaml does not exist"),
    (["demo", "--max-steps", "0", *OUT], "--max-steps is 0"),
    (["evaluate", "vlm"], "--data"),
    (["evaluate", "nowhere", "--data", "pairs.jsonl", *OUT], "nowhere"),
    (["evaluate", "vlm", "--data", "nowhere.jsonl", *OUT], "nowhere.jsonl does not exist"),
    (["evaluate", "vlm", "--data", "empty.jsonl", *OUT], "empty.jsonl"),
    (["evaluate", "vlm", "--data", "pairs.jsonl", "--metric", "exact", *OUT], "did you mean 'exact_match'?"),
    (["evaluate", "vlm", "--benchmarks", "docvq"], "did you mean 'docvqa'?"),
    (["evaluate", "vlm", "--benchmarks", "docvqa", "--data", "pairs.jsonl"], "--data has no effect with --benchmarks"),
    (["evaluate", "vlm", "--data", "pairs.jsonl", "--published", "smolvlm2-256m"], "needs --benchmarks"),
    (["runs", "show", "nowhere"], "nowhere"),
    (["runs", "compare", "base"], "base"),
    (["runs"], "COMMAND"),
    (["nothing"], "'nothing'"),
    ([], "COMMAND"),
]  # fmt: skip


def test_there_are_enough_of_them_for_every_command():
    assert len(MISTAKES) >= 60
    commands = {words[0] for words, _ in MISTAKES if words}
    assert commands == {*COMMANDS, "nothing"}


@pytest.mark.parametrize(("command", "named"), MISTAKES, ids=[" ".join(words)[-60:] for words, _ in MISTAKES])
def test_a_mistake_is_named_without_a_traceback(command, named, made, monkeypatch, capsys):
    """An error that `main` lets through is what would be a traceback."""
    monkeypatch.chdir(made)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    shutil.rmtree("out", ignore_errors=True)
    try:
        code = main(command)
    except SystemExit as stopped:  # of argparse
        code = stopped.code
    error = capsys.readouterr().err
    assert code in (1, 2), error
    assert named in error and "error: " in error and "Traceback" not in error
    assert not (made / "out" / "checkpoint").exists()
    assert command[:1] != ["export"] or not (made / "out").exists()
