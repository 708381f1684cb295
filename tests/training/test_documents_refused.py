"""Documents and settings that are refused before the first step."""

import json
from pathlib import Path

import pytest
from story_runs import run_story
from transformers import AutoConfig

from smol_hf.commands.main import main
from smol_hf.training.recipe.values import RecipeError


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
        run_story("--max_steps", "2", *words)
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


@pytest.mark.parametrize("model_type", ["mamba", "bloom"])
def test_an_architecture_that_reads_on_from_document_to_document_is_refused(model_type, here):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "n_layer": 1, "n_head": 2}
    sizes |= {"ffn_dim": 32, "word_embed_proj_dim": 16, "state_size": 4}
    known = AutoConfig.for_model(model_type).to_dict()
    kept = {key: value for key, value in sizes.items() if key in known}
    words = [f"--text_config={json.dumps({'model_type': model_type, **kept})}", "--tokenizer_vocab_size", "300"]
    words += ["--attn_implementation", "eager"]
    with pytest.raises(RecipeError, match=f"{model_type} does not keep them apart"):
        run_story("--max_steps", "1", "--preset", "null", *words)
