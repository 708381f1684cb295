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
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from smol_hf import SmolHFForCausalLM, SmolHFTextConfig
from smol_hf.commands.main import main
from smol_hf.data.collator import SmolCollator
from smol_hf.data.stream.preparation import ReadySample
from smol_hf.modeling.label_loss import IGNORE_INDEX
from smol_hf.support.resources import resource_path
from smol_hf.text.documents.held_out import Split
from smol_hf.text.documents.readers import open_documents
from smol_hf.text.documents.token_cache import Tokens
from smol_hf.training.document_data import DocumentData
from smol_hf.training.log.console import read_log
from smol_hf.training.model.presets import TEXT
from smol_hf.training.recipe.recipes import load_arguments
from smol_hf.training.recipe.values import RecipeError
from smol_hf.training.run import train

ROOT = Path(__file__).resolve().parents[2]
SENTENCES = [
    f"{name} the {animal} {verb} {place}, and {name} was {mood} because the {animal} {verb} {place}.\n"
    for name in ("Ada", "Bruno", "Celia", "Dmitri")
    for animal in ("fox", "heron", "otter")
    for verb in ("sleeps", "waits", "sings")
    for place in ("under the bridge", "beside the mill", "on the hill")
    for mood in ("glad", "sorry")
]
TINY = ["--preset", "tiny-text", "--context_length", "64", "--per_device_train_batch_size", "4", "--use_cpu"]
TINY += ["--logging_steps", "1", "--learning_rate", "3.0e-3", "--save_strategy", "no", "--documents_cache", "caches"]

SHORT = ["--context-length", "64"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text("".join(SENTENCES))
    return tmp_path


def run(*words, documents="story.txt", output="runs/a"):
    words = ["--documents", documents, "--output_dir", output, *TINY, *words]
    last = {word: index for index, word in enumerate(words) if word.startswith("--")}  # what is said last counts
    kept = [
        word
        for index, word in enumerate(words)
        if last.get(word, index) == index
        and not (index and words[index - 1].startswith("--") and last[words[index - 1]] != index - 1)
    ]
    return train(*load_arguments(kept))


def samples(*lengths):
    generator = torch.Generator().manual_seed(0)
    made = []
    for number, length in enumerate(lengths):
        ids = torch.randint(5, 400, (length,), generator=generator)
        labels = ids.clone()
        labels[0] = IGNORE_INDEX
        made.append(ReadySample(f"sample {number}", 0, ids, labels, torch.empty(0, dtype=torch.uint8)))
    return made


# Rows ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["rotary", "learned"])
def test_stacked_rows_train_as_one_row_does(style):
    """What fills a row is neither seen nor learned from, and documents of a row do not see each other."""
    tokenizer = AutoTokenizerStandIn()
    torch.manual_seed(0)
    config = SmolHFTextConfig(**{**TEXT["tiny-text"], "position_embedding_type": style})
    model = SmolHFForCausalLM(config).train()
    batch = samples(20, 12, 32, 7, 9)

    def gradients(collator, given):
        model.zero_grad()
        inputs = collator(given)
        loss = model(**inputs, use_cache=False).loss
        loss.backward()
        return inputs, loss.item(), torch.cat([weight.grad.flatten() for weight in model.parameters()])

    stacked, loss, found = gradients(SmolCollator(tokenizer, packing=True, row_length=32), batch)
    assert stacked["input_ids"].shape == (3, 32) and stacked["position_ids"][2].tolist() == [*range(7), *range(25)]
    assert stacked["labels"][2, 16:].eq(IGNORE_INDEX).all() and "attention_mask" not in stacked
    for other in (SmolCollator(tokenizer, packing=True), SmolCollator(tokenizer)):
        _, expected_loss, expected = gradients(other, batch)
        assert loss == pytest.approx(expected_loss, abs=1e-5)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    alone = sum(gradients(SmolCollator(tokenizer), [each])[1] * (len(each.input_ids) - 1) for each in batch) / 75
    assert loss == pytest.approx(alone, abs=1e-5), "each document as if it were alone"


class AutoTokenizerStandIn:
    pad_token_id = None
    eos_token_id = 2


# A run ---------------------------------------------------------------------------------------------------------------


def test_pretrain_does_it_all_and_ends_with_one_line_of_json(here, capsys):
    words = ["pretrain", "--data", "story.txt", "--preset", "tiny-text", "--steps", "12", "--output", "runs/story"]
    words += ["--context-length", "64", "--batch-size", "8", "--log-interval", "3", "--num-checkpoints", "3"]
    words += ["--documents_cache", "caches", "--use_cpu", "--keep", "2", "--eval_steps", "4"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    result = json.loads(printed.strip().splitlines()[-1])
    assert result["steps"] == 12 and result["parameters"] > 50_000 and result["tokens_per_second"] > 0
    assert result["perplexity"] == pytest.approx(math.exp(result["validation_loss"]))
    assert 0 < result["bits_per_byte"] < 8
    assert "to validate on" in printed and "validation loss" in printed and "step 12/12" in printed
    folders = sorted(folder.name for folder in Path("runs/story").glob("checkpoint-*"))
    assert folders == ["checkpoint-12", "checkpoint-8"], "evenly spaced, and the newest two are kept"
    log = read_log("runs/story")
    assert [entry["step"] for entry in log if "eval_loss" in entry] == [4, 8, 12]
    assert log[-1]["step"] == 12 and [entry["step"] for entry in log if "loss" in entry] == [1, 3, 6, 9, 12]
    run_facts = json.loads(Path("runs/story/run.json").read_text())
    assert run_facts["validation"]["loss"] == result["validation_loss"]

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
    first, second = run("--max_steps", "3"), run("--max_steps", "3", output="runs/b")
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
    trainer = run("--max_steps", "2", "--validation_fraction", "0.2")
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
    plain = run("--max_steps", "4", "--text_config.attention_dropout", "0.1")
    often = run("--max_steps", "4", "--text_config.attention_dropout", "0.1", "--eval_strategy", "steps",
                "--eval_steps", "1", output="runs/b")  # fmt: skip
    for one, other in zip(plain.model.parameters(), often.model.parameters()):
        assert torch.equal(one, other)


def test_a_run_that_is_resumed_goes_on_exactly(here):
    whole = run("--max_steps", "6", "--save_strategy", "steps", "--save_steps", "2")
    for name in ("checkpoint-6", "checkpoint-4"):
        folder = Path("runs/a") / name
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    again = run(
        "--max_steps", "6", "--save_strategy", "steps", "--save_steps", "2", "--resume_from_checkpoint", "true"
    )
    for one, other in zip(whole.model.parameters(), again.model.parameters()):
        assert torch.equal(one, other)
    for value in ("loss", "epoch"):
        logged = [entry[value] for entry in read_log("runs/a") if "loss" in entry]
        assert logged == [entry[value] for entry in whole.state.log_history if "loss" in entry]
    assert not any("train_loss" in entry for entry in read_log("runs/a")), "it would be of the last part alone"


def test_epochs_are_counted_exactly_and_every_token_is_trained_once(here):
    lines = "".join(
        json.dumps({"text": sentence * (number % 5 + 1)}) + "\n" for number, sentence in enumerate(SENTENCES)
    )
    Path("story.jsonl").write_text(lines)
    trainer = run("--num_train_epochs", "1", "--validation_fraction", "0", documents="story.jsonl")
    total = trainer.counters.gather()
    (source,) = trainer.plan.sources
    assert total["samples"] == len(source) and total["trained_tokens"] == len(source.tokens) - len(SENTENCES)
    assert trainer.state.global_step == trainer.state.max_steps
    assert len(open_documents("story.jsonl").fingerprint) > 10


def test_a_language_model_goes_on_from_a_checkpoint_of_any_kind(here):
    from transformers import LlamaConfig, LlamaForCausalLM

    first = run("--max_steps", "1")
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


# What cannot be ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--context_length", "512", "--max_documents", "1"), "its text has"),
        (("--text_config.vocab_size", "300", "--tokenizer_vocab_size", "500"), "but the tokenizer"),
        (("--context_length", "1024"), "more than the 512 positions"),
        (("--documents", "none.txt"), "none.txt does not exist"),
        (("--text_key", "body"), "text_key"),
        (("--data", "x.jsonl"), "data has no effect in a run over documents"),
        (("--preset", "tiny-vlm"), "documents train a text-only model"),
        (("--num_checkpoints", "0"), "num_checkpoints is 0"),
        (("--save_steps", "0"), "save_steps is 0"),
        (("--save_total_limit", "0"), "save_total_limit is 0"),
        (("--max_steps", "-5"), "max_steps is -5"),
        (("--context_length", "1"), "at least 2"),
        (("--documents", ""), "documents is empty"),
        (("--validation_documents", ""), "validation_documents is empty"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_step(words, message, here):
    if "--context_length" in words and "512" in words:
        Path("story.txt").write_text("Too short to fill a context.")
    with pytest.raises((RecipeError, ValueError, FileNotFoundError), match=message):
        run("--max_steps", "2", *words)
    assert not Path("runs/a").exists() or not list(Path("runs/a").glob("checkpoint*"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\x00\x01\x02" * 100, "binary"),
        (b"caf\xe9 " * 100, "0xe9 at byte 3 (line 1)"),
        (b"too short", "fewer than one context of 64"),
    ],
)
def test_a_text_that_cannot_be_read_is_one_line(content, message, here, capsys):
    Path("bad.txt").write_bytes(content)
    words = ["pretrain", "--data", "bad.txt", "--preset", "tiny-text", "--steps", "2", "--output", "runs/bad"]
    assert main([*words, "--context-length", "64", "--documents_cache", "caches"]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error and error.startswith("error: ") and "\n" not in error
    assert not Path("runs/bad/checkpoint").exists()


def test_a_push_that_would_fail_is_refused_before_the_run(here, capsys):
    words = ["pretrain", "--data", "story.txt", "--preset", "tiny-text", "--steps", "2", "--output", "runs/a"]
    assert main([*words, "--push-to-hub", "me/mine"]) == 1
    assert "--push-to-hub needs --license" in capsys.readouterr().err
    assert main([*words, "--push-to-hub", "no name", "--license", "mit"]) == 1
    assert main([*words, "--push-to-hub", "me/mine", "--license", "my own"]) == 1
    assert "'my own' is not a licence identifier" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_run_outlives_the_checkpoint_that_it_was_resumed_from(here, capsys):
    """Which is rotated away; and what began the run need not be said again."""
    words = ["pretrain", "--data", "story.txt", "--preset", "tiny-text", "--output", "runs/a", *SHORT]
    words += ["--documents_cache", "caches", "--use_cpu", "--save-interval", "1", "--keep", "1", "--log-interval", "1"]
    assert main([*words, "--steps", "2", "--lr_scheduler_type", "constant"]) == 0
    assert main(["pretrain", "--resume", "--output", "runs/a", "--steps", "4", "--use_cpu"]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert result["steps"] == 4 and [folder.name for folder in Path("runs/a").glob("checkpoint-*")] == ["checkpoint-4"]
    assert json.loads(Path("runs/a/run.json").read_text())["resumed_at_step"] == 2
    recipe = yaml.safe_load(Path("runs/a/recipe.yaml").read_text())
    assert recipe["lr_scheduler_type"] == "constant" and not {"data", "page_size", "connector_type"} & set(recipe)


def test_nothing_need_be_held_out(here, capsys):
    words = ["pretrain", "--data", "story.txt", "--preset", "tiny-text", "--output", "runs/a", *SHORT]
    assert main([*words, "--steps", "2", "--validation_fraction", "0", "--documents_cache", "caches"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed.strip().splitlines()[-1])["validation_loss"] is None
    assert "nothing is held out" in printed and "the model has 512 rows" in printed
    card = Path("runs/a/checkpoint/README.md").read_text()
    assert "language:" not in card.split("---")[1]


def test_documents_that_are_trained_on_are_no_validation(here, capsys):
    run("--max_steps", "1", "--validation_documents", "story.txt")
    assert "their loss says nothing about other texts" in capsys.readouterr().out


@pytest.mark.parametrize("model_type", ["mamba", "bloom"])
def test_an_architecture_that_reads_on_from_document_to_document_is_refused(model_type, here):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "n_layer": 1, "n_head": 2}
    sizes |= {"ffn_dim": 32, "word_embed_proj_dim": 16, "state_size": 4}
    known = AutoConfig.for_model(model_type).to_dict()
    kept = {key: value for key, value in sizes.items() if key in known}
    words = [f"--text_config={json.dumps({'model_type': model_type, **kept})}", "--tokenizer_vocab_size", "300"]
    words += ["--attn_implementation", "eager"]
    with pytest.raises(RecipeError, match=f"{model_type} does not keep them apart"):
        run("--max_steps", "1", "--preset", "null", *words)


def test_a_tokenizer_is_trained_on_the_documents_that_are_asked_for(here):
    records = [{"text": "one two three " * 50}, {"text": "überhaupt " * 50}]
    Path("some.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    words = ["--documents", "some.jsonl", "--max_documents", "1", "--output_dir", "x", "--validation_fraction", "0"]
    _, _, data, _ = load_arguments(words)
    assert "".join(DocumentData.open(data).texts()) == records[0]["text"]


def test_more_steps_can_be_added_to_a_finished_run(here, capsys):
    words = [
        "pretrain",
        "--data",
        "story.txt",
        "--preset",
        "tiny-text",
        "--output",
        "runs/a",
        "--context-length",
        "64",
    ]
    words += ["--lr_scheduler_type", "constant", "--warmup_steps", "0", "--documents_cache", "caches", "--use_cpu"]
    words += ["--save-interval", "2", "--log-interval", "1"]
    assert main([*words, "--steps", "4"]) == 0
    assert main([*words, "--steps", "6", "--resume"]) == 0
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1])["steps"] == 6
    assert main([*words, "--steps", "6", "--output", "runs/b"]) == 0
    assert [entry["loss"] for entry in read_log("runs/a") if "loss" in entry] == [
        entry["loss"] for entry in read_log("runs/b") if "loss" in entry
    ]


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


def test_a_small_model_beats_a_trigram_model_of_the_bytes(here):
    """On sentences that it has not seen, made of words that it has. (The benchmark does this with a real text.)"""
    spec = importlib.util.spec_from_file_location("measured", ROOT / "benchmarks" / "text_pretraining.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    draws = np.random.default_rng(0)
    Path("tales.txt").write_text("".join(SENTENCES[index] for index in draws.integers(0, len(SENTENCES), 800)))
    train_text, held_out = benchmark.halves(Path("tales.txt"), 0.1)
    bits = benchmark.trigram_bits(train_text, held_out)
    steps = ["--max_steps", "150", "--per_device_train_batch_size", "16", "--validation_fraction", "0.1"]
    trainer = run(*steps, "--logging_steps", "50", documents="tales.txt")
    assert trainer.validated["bits_per_byte"] < 0.8 * bits
