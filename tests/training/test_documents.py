"""Language models on documents: the same trainer, collator, checkpoints and log as for pictures."""

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import model_of_preset
from PIL import Image
from story_runs import PRETRAIN, SENTENCES, TINY, run_story
from transformers import AutoModelForCausalLM, AutoTokenizer

from smol_hf.commands.main import main
from smol_hf.support.resources import resource_path
from smol_hf.text.documents.held_out import Split
from smol_hf.text.documents.readers import open_documents
from smol_hf.text.documents.token_cache import Tokens
from smol_hf.training.document_data import DocumentData
from smol_hf.training.log.console import read_log
from smol_hf.training.model.presets import TEXT
from smol_hf.training.recipe.recipes import load_arguments
from smol_hf.training.run import train

ROOT = Path(__file__).resolve().parents[2]


def test_pretrain_does_it_all_and_ends_with_one_line_of_json(here, capsys):
    words = ["pretrain", "--data", "story.txt", "--preset", "tiny-text", "--steps", "12", "--output", "runs/story"]
    words += ["--context-length", "64", "--batch-size", "8", "--log-interval", "3", "--num-checkpoints", "3"]
    words += ["--documents_cache", "caches", "--use_cpu", "--keep", "2", "--eval_steps", "4"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    result = json.loads(printed.strip().splitlines()[-1])
    assert result["steps"] == 12 and result["parameters"] > 50_000 and result["tokens_per_second"] > 0
    assert result["perplexity"] == pytest.approx(math.exp(result["validation_loss"]), rel=1e-3)
    assert 0 < result["bits_per_byte"] < 8
    assert all(value == round(value, 4) for value in result.values() if isinstance(value, float))
    assert "to validate on" in printed and "validation loss" in printed and "step 12/12" in printed
    folders = sorted(folder.name for folder in Path("runs/story").glob("checkpoint-*"))
    assert folders == ["checkpoint-12", "checkpoint-8"], "evenly spaced, and the newest two are kept"
    log = read_log("runs/story")
    assert [entry["step"] for entry in log if "eval_loss" in entry] == [4, 8, 12]
    assert log[-1]["step"] == 12 and [entry["step"] for entry in log if "loss" in entry] == [1, 3, 6, 9, 12]
    run_facts = json.loads(Path("runs/story/run.json").read_text())
    assert round(run_facts["validation"]["loss"], 4) == result["validation_loss"]

    tokenizer = AutoTokenizer.from_pretrained(result["checkpoint"])
    model = AutoModelForCausalLM.from_pretrained(result["checkpoint"], trust_remote_code=True)
    begin = torch.tensor([[tokenizer.bos_token_id]])
    written = model.generate(begin, max_new_tokens=5, do_sample=False)
    assert written.shape[1] >= 2 and model.generation_config.eos_token_id == tokenizer.eos_token_id
    card = Path(result["checkpoint"], "README.md").read_text()
    assert "AutoModelForCausalLM" in card and "Validation loss" in card and "story.txt" in card
    assert "![Loss by step](loss.png)" in card and Image.open(Path(result["checkpoint"], "loss.png")).width > 500
    recipe = yaml.safe_load(Path("runs/story/recipe.yaml").read_text())
    assert recipe["documents"] == "story.txt" and recipe["preset"] == "tiny-text"

    assert main(["generate", result["checkpoint"], "--prompt", "Ada the", "--max-new-tokens", "4"]) == 0


def test_the_same_recipe_gives_the_same_model(here):
    first, second = run_story("--max_steps", "3"), run_story("--max_steps", "3", output="runs/b")
    for one, other in zip(first.model.parameters(), second.model.parameters()):
        assert torch.equal(one, other)


def test_a_tokenizer_does_not_learn_from_what_is_held_out(here):
    _, _, arguments, _ = load_arguments(
        ["--documents", "story.txt", "--output_dir", "x", "--validation_fraction", "0.3"]
    )
    text = "".join(SENTENCES)
    read = "".join(DocumentData.open(arguments).texts())
    assert text.startswith(read) and 0.6 < len(read) / len(text) < 0.75
    Path("many.jsonl").write_text("".join(json.dumps({"text": f"{number}"}) + "\n" for number in range(500)))
    arguments.documents = "many.jsonl"
    seen = list(DocumentData.open(arguments).texts())
    cache = DocumentData.open(arguments)
    held = [part for part in Split(cache.documents, cache.held_out) if part.is_held_out]
    assert 100 < len(held) == 500 - len(seen) and not {"".join(part.chunks) for part in held} & set(seen)


def test_validation_is_the_mean_over_all_held_out_tokens(here):
    trainer = run_story("--max_steps", "2", "--validation_fraction", "0.2")
    found = trainer.validated
    trainer.args.per_device_eval_batch_size = 3
    assert trainer.evaluate()["eval_loss"] == pytest.approx(found["loss"], rel=1e-6), "whatever the batch size"

    text = "".join(SENTENCES)
    tail = text[len(text) - round(0.2 * len(text)) :]
    tail = tail[tail.index("\n") + 1 :]
    tokens = Tokens(trainer.processing_class)
    ids = [tokens.begin, *tokens.encode(tail), tokens.end]
    model, nats = trainer.model.eval(), 0.0
    for start in range(0, len(ids) - 1, 63):
        piece = torch.tensor([ids[start : start + 64]])
        with torch.no_grad():
            scores = model(input_ids=piece, use_cache=False).logits[0, :-1].log_softmax(-1)
        nats -= scores.gather(1, piece[0, 1:, None]).sum().item()
    assert found["tokens"] == len(ids) - 1
    assert found["loss"] == pytest.approx(nats / (len(ids) - 1), rel=1e-4)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(tail.encode()), rel=1e-4)


def test_validating_changes_nothing_of_the_training(here):
    plain = run_story("--max_steps", "4", "--text_config.attention_dropout", "0.1")
    often = run_story("--max_steps", "4", "--text_config.attention_dropout", "0.1", "--eval_strategy", "steps",
                "--eval_steps", "1", output="runs/b")  # fmt: skip
    for one, other in zip(plain.model.parameters(), often.model.parameters()):
        assert torch.equal(one, other)


def test_epochs_are_counted_exactly_and_every_token_is_trained_once(here):
    lines = "".join(
        json.dumps({"text": sentence * (number % 5 + 1)}) + "\n" for number, sentence in enumerate(SENTENCES)
    )
    Path("story.jsonl").write_text(lines)
    trainer = run_story("--num_train_epochs", "1", "--validation_fraction", "0", documents="story.jsonl")
    total = trainer.counters.gather()
    (source,) = trainer.plan.sources
    assert total["samples"] == len(source) and total["trained_tokens"] == len(source.tokens) - len(SENTENCES)
    assert trainer.state.global_step == trainer.state.max_steps
    assert len(open_documents("story.jsonl").fingerprint) > 10


def test_a_language_model_goes_on_from_a_checkpoint_of_any_kind(here):
    from transformers import LlamaConfig, LlamaForCausalLM

    first = run_story("--max_steps", "1")
    config = LlamaConfig(
        vocab_size=len(first.processing_class), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained("llama")
    first.processing_class.save_pretrained("llama")
    words = ["--documents", "story.txt", "--output_dir", "runs/b", *TINY[2:], "--max_steps", "2", "--model", "llama"]
    trainer = train(*load_arguments([*words, "--rope_theta", "50000", "--max_position_embeddings", "256"]))
    assert trainer.model.config.rope_parameters["rope_theta"] == 50000
    assert trainer.model.config.max_position_embeddings == 256 and trainer.validated["loss"] > 0


def test_nothing_need_be_held_out(here, capsys):
    words = [*PRETRAIN]
    assert main([*words, "--steps", "2", "--validation_fraction", "0", "--documents_cache", "caches"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed.strip().splitlines()[-1])["validation_loss"] is None
    assert "nothing is held out" in printed and "the model has 512 rows" in printed
    card = Path("runs/a/checkpoint/README.md").read_text()
    assert "language:" not in card.split("---")[1]


def test_documents_that_are_trained_on_are_no_validation(here, capsys):
    run_story("--max_steps", "1", "--validation_documents", "story.txt")
    assert "their loss says nothing about other texts" in capsys.readouterr().out


def test_a_tokenizer_is_trained_on_the_documents_that_are_asked_for(here):
    records = [{"text": "one two three " * 50}, {"text": "überhaupt " * 50}]
    Path("some.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    words = ["--documents", "some.jsonl", "--max_documents", "1", "--output_dir", "x", "--validation_fraction", "0"]
    _, _, data, _ = load_arguments(words)
    assert "".join(DocumentData.open(data).texts()) == records[0]["text"]


def test_the_recipe_of_93_million_parameters_learns_a_page_by_heart_with_a_small_model(here):
    """A batch of 64 tokens, seen again and again, is known word for word. The whole model is only counted."""
    page = "A page that is read again and again, until it is known by heart"
    Path("page.txt").write_text(page[:62])
    recipe = str(resource_path("recipes", "text", "gpt_93m.yaml"))
    words = ["--config", recipe, "--documents", "page.txt", "--documents_cache", "caches", "--output_dir", "runs/page"]
    words += ["--validation_fraction", "0", "--eval_strategy", "no", "--save_strategy", "no", "--max_steps", "60"]
    words += ["--per_device_train_batch_size", "1", "--logging_steps", "1", "--use_cpu"]
    words += ["--tokenizer_vocab_size", "275"]  # each letter is a token
    model_arguments = load_arguments(words)[1]
    whole = model_of_preset(model_arguments.preset)
    assert sum(weight.numel() for weight in whole.parameters()) == 92_837_376
    small = {
        "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }  # fmt: skip
    words += [f"--text_config.{name}={value}" for name, value in small.items()]
    trainer = train(*load_arguments([*words, "--learning_rate", "3e-3"]))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    config = trainer.model.config.to_dict()
    assert config | small == config | TEXT["gpt-93m"] | small, "all else is the preset's"
    assert losses[0] > 6 and losses[-1] < 0.01
    assert trainer.counters.gather()["tokens"] == 60 * 64


def test_a_small_model_beats_a_trigram_model_of_the_bytes(here, monkeypatch):
    """On sentences that it has not seen, made of words that it has. (The benchmark does this with a real text.)"""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # the script imports its siblings
    spec = importlib.util.spec_from_file_location("measured", ROOT / "benchmarks" / "text_pretraining.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    draws = np.random.default_rng(0)
    Path("tales.txt").write_text("".join(SENTENCES[index] for index in draws.integers(0, len(SENTENCES), 800)))
    train_text, held_out = benchmark.halves(Path("tales.txt"), 0.1)
    bits = benchmark.trigram_bits(train_text, held_out)
    steps = ["--max_steps", "150", "--per_device_train_batch_size", "16", "--validation_fraction", "0.1"]
    trainer = run_story(*steps, "--logging_steps", "50", documents="tales.txt")
    assert trainer.validated["bits_per_byte"] < 0.8 * bits
