"""DPO: the preferred answers become likelier than the others, and the published checkpoint is what did it."""

import json
import shutil

import pytest
import torch
from chat_models import save_base, written
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from smol_hf import dpo
from smol_hf.commands.main import main as smol_hf
from smol_hf.text.preferences import PreferenceEncoder, preference_of
from smol_hf.training.log.console import read_log
from smol_hf.training.model.chat_template import CHATML
from smol_hf.training.recipe.recipes import PREFERENCE_CLASSES, load_arguments
from smol_hf.training.recipe.values import RecipeError

PAIRS = [
    {"prompt": "What is the sky?", "chosen": "Blue.", "rejected": "Green, I think."},
    {"prompt": "Who are you?", "chosen": "A model.", "rejected": "A king of <|im_end|> all."},
    {"prompt": "How large?", "chosen": "Tiny, so they say.", "rejected": "Huge!"},
    {"prompt": "One and one?", "chosen": "Two.", "rejected": "Three."},
]
BETA = 0.1


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    return path


def command_line(data, output, **keys):
    recipe = {
        "data": data, "output_dir": output, "max_steps": 12, "learning_rate": 1e-3, "logging_steps": 4, "seed": 0,
        "per_device_train_batch_size": 4, "use_cpu": True, "save_strategy": "no", "chat_template": "chatml",
        "beta": BETA, "lr_scheduler_type": "constant", **keys,
    }  # fmt: skip
    return [word for key, value in recipe.items() for word in (f"--{key}", written(value))]


def log_ratios(checkpoint, tokenizer):
    """log p(chosen) - log p(rejected) of each pair, by the whole logits."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    encoder, ratios = PreferenceEncoder(tokenizer, 128), []
    for record in PAIRS:
        ids = encoder.encode("a", preference_of("a", record, chats=True))
        sums = []
        for name in ("chosen_ids", "rejected_ids"):
            row = torch.tensor([ids["prompt_ids"] + ids[name]])
            with torch.no_grad():
                log_probs = F.log_softmax(model(row).logits[0, :-1], dim=-1)
            sums.append(log_probs.gather(1, row[0, 1:, None])[-len(ids[name]) :].sum())
        ratios.append(sums[0] - sums[1])
    return torch.stack(ratios)


def chat_tokenizer(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template, tokenizer.eos_token = CHATML, "<|im_end|>"
    return tokenizer


def margins(run):
    return [entry["rewards/margins"] for entry in read_log(run) if "rewards/margins" in entry]


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("ours", {}),
        ("native", {"precompute_ref_log_probs": True}),
        ("native", {"use_peft": True, "lora_r": 16, "learning_rate": 5e-3, "lora_dropout": 0.0}),
    ],
    ids=["ours", "native, precomputed", "native, adapters"],
)
def test_preferred_answers_become_likelier(kind, keys, data, tmp_path, capsys):
    base = save_base(tmp_path / "base", kind, head=5.0)
    assert smol_hf(["dpo", *command_line(data, tmp_path / "run", model=base, **keys)]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    risen = margins(tmp_path / "run")
    assert abs(risen[0]) < 1e-4 and risen[-1] > 0.2 and risen == sorted(risen)
    assert result["rewards/margins"] == round(risen[-1], 4) and result["steps"] == 12
    checkpoint = tmp_path / "run" / "checkpoint"
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    assert tokenizer.chat_template == CHATML and tokenizer.eos_token == "<|im_end|>"
    gained = log_ratios(checkpoint, tokenizer) - log_ratios(base, chat_tokenizer(base))
    assert (gained > 0).all()
    # The log says how it was before the last step of each interval.
    assert BETA * gained.mean() > risen[-1] > risen[-2]
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    assert tokenizer.eos_token_id in torch.tensor(model.generation_config.eos_token_id).flatten()
    card = (checkpoint / "README.md").read_text(encoding="utf-8")
    assert "pairs.jsonl" in card and "beta: 0.1" in card


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(data, tmp_path):
    base = save_base(tmp_path / "base", "ours")
    keys = {"model": base, "save_strategy": "steps", "save_steps": 4, "per_device_train_batch_size": 2}
    assert dpo.main(command_line(data, tmp_path / "whole", **keys)) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    for name in ("checkpoint", "checkpoint-8", "checkpoint-12"):
        shutil.rmtree(tmp_path / "broken" / name)
    again = command_line(data, tmp_path / "broken", **keys)
    assert dpo.main(again) == 1, "an earlier run is not overwritten"
    assert dpo.main([*again, "--resume_from_checkpoint", "true"]) == 0
    weights = [(tmp_path / run / "checkpoint" / "model.safetensors").read_bytes() for run in ("whole", "broken")]
    assert weights[0] == weights[1]
    assert [entry["step"] for entry in read_log(tmp_path / "broken") if "loss" in entry] == [1, 4, 8, 12]


def test_other_preferences_are_evaluated_on(data, tmp_path):
    base = save_base(tmp_path / "base", "native", head=5.0)
    held = tmp_path / "held.jsonl"
    held.write_text(json.dumps(PAIRS[0]) + "\n")
    keys = {"model": base, "validation_data": held, "eval_strategy": "steps", "eval_steps": 6}
    assert dpo.main(command_line(data, tmp_path / "run", **keys)) == 0
    found = [entry["eval_rewards/margins"] for entry in read_log(tmp_path / "run") if "eval_loss" in entry]
    assert len(found) == 2 and 0 < found[0] < found[1]


def test_bad_records_stop_the_run_or_are_left_out_by_name(data, tmp_path, capsys):
    base = save_base(tmp_path / "base", "native")
    with data.open("a") as file:
        file.write(json.dumps({"prompt": "Same?", "chosen": "Yes.", "rejected": "Yes."}) + "\n")
        file.write(json.dumps({"prompt": "Long? " * 40, "chosen": "Yes.", "rejected": "No."}) + "\n")
    line = command_line(data, tmp_path / "run", model=base, max_steps=1)
    assert dpo.main(line) == 1
    said = capsys.readouterr().err
    assert "pairs.jsonl:5: chosen and rejected are the same" in said and "--on_bad_sample skip" in said
    assert dpo.main([*line, "--on_bad_sample", "skip"]) == 0
    left_out = [json.loads(each) for each in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert [(each["sample"], each["kind"]) for each in left_out] == [
        ("pairs.jsonl:5", "unusable"),
        ("pairs.jsonl:6", "too long"),
    ]
    assert "4 pairs from pairs.jsonl, turns of a conversation; 2 samples left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"model": "x", "truncation_mode": "keep_end"}, "no sample is ever cut"),
        ({"model": "x", "padding_free": True}, "leave it out"),
        ({"model": "x", "betta": 1}, "unknown key 'betta': did you mean 'beta'"),
        ({"model": "x", "context_length": 10}, "unknown key 'context_length'"),
        ({"model": "x", "on_bad_sample": "ignore"}, "choose stop or skip"),
        ({"model": "x", "learning_rate": 0}, "it must be positive"),
    ],
)
def test_a_wrong_key_is_refused_by_name(keys, problem, data, tmp_path):
    with pytest.raises(RecipeError) as refused:
        load_arguments(command_line(data, tmp_path / "run", **keys), PREFERENCE_CLASSES)
    assert problem in str(refused.value)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({}, "model is missing"),
        ({"preset": "tiny-text"}, "preset has no effect in a run over preferences"),
        ({"model": "base", "eval_strategy": "steps"}, "need each other"),
        ({"model": "base", "max_length": 4000}, "max_length 4000 is more than the 128 positions"),
        ({"model": "base", "data": "gone.jsonl"}, "the data file gone.jsonl does not exist"),
    ],
)
def test_what_cannot_be_run_is_refused_before_it_begins(keys, problem, data, tmp_path, capsys):
    keys = dict(keys)
    if "model" in keys:
        keys["model"] = save_base(tmp_path / keys["model"], "native")
    line = command_line(keys.pop("data", data), tmp_path / "run", **keys)
    assert dpo.main(line) == 1
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_help_names_the_keys(capsys):
    assert dpo.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert "--max_length" in said and "Default: 1024." in said and "--lora_r" in said and "--preset" not in said
