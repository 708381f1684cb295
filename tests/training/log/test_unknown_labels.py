"""Labels that a tokenizer does not know are counted and shown before the first step, and too many stop the run."""

import json

import pytest
import torch
from helpers import build_processor, text_sizes
from processes import call
from tiny_runs import RECIPE, words
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from smol_hf import SmolHFForCausalLM, SmolHFTextConfig
from smol_hf.conversion.composition.compose import compose
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.data.stream import size_cache
from smol_hf.support.tokenizer_of import unknown_texts, unknown_token_id
from smol_hf.text.character_tokenizer import build_character_tokenizer

LETTERS = [chr(code) for code in range(32, 127) if not chr(code).isdigit()] + ["\n"]


@pytest.fixture
def model(tmp_path):
    """A language model that knows every letter and no digit."""
    tokenizer = build_character_tokenizer(LETTERS)
    torch.manual_seed(0)
    SmolHFForCausalLM(SmolHFTextConfig(**text_sizes(tokenizer, max_position_embeddings=256))).save_pretrained(
        tmp_path / "model"
    )
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def run(model, answers, tmp_path, **keys):
    turns = [[{"role": "user", "content": "How many?"}, {"role": "assistant", "content": each}] for each in answers]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns))
    recipe = {
        "model": str(model), "data": str(data), "max_steps": 1, "per_device_train_batch_size": 2, "use_cpu": True,
        "chat_template": "chatml", "save_strategy": "no", "output_dir": str(tmp_path / "run"), "seed": 0, **keys,
    }  # fmt: skip
    result = call(["train", *words(recipe)])
    return result.returncode, " ".join((result.stdout + result.stderr).split())


WRITTEN = ["There are 12 of them.", "There are 7 of them, or 17.", "There are none of them."]
# 5 digits among the characters, with an end token for each answer
FOUND = f"warning: 5 of {sum(map(len, WRITTEN)) + 3} labelled tokens (6.8%) are unknown to the tokenizer: "


def test_a_run_with_many_is_refused_before_the_first_step(model, tmp_path):
    code, said = run(model, WRITTEN, tmp_path)
    assert code == 1 and FOUND in said and "'1' 2 times, '7' 2 times, '2' 1 time" in said
    assert "compose --add-characters" in said and "more than max_unknown_fraction 0.01" in said
    assert "step" not in said and not (tmp_path / "run" / "checkpoint").exists()


@pytest.mark.parametrize("cached", [False, True])
def test_it_is_a_warning_if_the_user_allows_it(cached, model, tmp_path, monkeypatch):
    monkeypatch.setattr(size_cache, "cached_assets_path", lambda *names: tmp_path / "cache" / names[-1])
    for _ in range(1 + cached):
        code, said = run(model, WRITTEN, tmp_path, max_unknown_fraction=0.5)
        assert code == 0 and FOUND in said and "'7' 2 times" in said
        assert said.index("unknown to the tokenizer") < said.index("step 1/1")


def test_a_run_without_any_says_nothing(model, tmp_path):
    code, said = run(model, ["There are none.", "None at all."], tmp_path)
    assert code == 0 and "unknown" not in said


def test_data_without_a_survey_is_judged_by_its_first_batches(model, tmp_path):
    """The answers about pages of digits have digits, and nothing measures them before the run."""
    compose_vlm(model, tmp_path)
    recipe = {name: value for name, value in RECIPE.items() if not name.endswith("_config")}
    recipe |= {"model": str(tmp_path / "vlm"), "save_strategy": "no", "output_dir": str(tmp_path / "run")}
    result = call(["train", *words(recipe)])
    said = " ".join((result.stdout + result.stderr).split())
    assert result.returncode == 1 and "labelled tokens are unknown to the tokenizer" in said
    assert said.index("warning:") < said.index("step 1/8")
    assert "more than max_unknown_fraction 0.01" in said


def compose_vlm(model, tmp_path, **options):
    from conversion.native_models import saved
    from conversion.test_compose import build_encoder

    if not (tmp_path / "encoder").exists():
        saved(lambda: build_encoder("siglip"), tmp_path / "encoder")
    return compose(str(tmp_path / "encoder"), str(model), tmp_path / "vlm", longest_edge=24, **options)


def test_compose_adds_the_missing_characters(model, tmp_path):
    facts = compose_vlm(model, tmp_path, add_characters="0123456789abc")
    assert facts["added_characters"] == "0123456789"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "vlm", trust_remote_code=True)
    ids = tokenizer("a 10, 7")["input_ids"]
    assert tokenizer.unk_token_id not in ids and tokenizer.decode(ids) == "a 10, 7" and len(ids) == 7
    begin, end = json.loads((tmp_path / "vlm" / "config.json").read_text())["new_tokens"]
    assert end == len(tokenizer) and begin == len(LETTERS) + 2 and set(ids) & set(range(begin, end))
    with pytest.raises(ConversionError, match="--add-characters: this tokenizer can write every text"):
        tokenizer = build_processor().tokenizer
        tokenizer.save_pretrained(model)
        compose(str(tmp_path / "encoder"), str(model), tmp_path / "other", add_characters="x")


def test_a_named_token_that_is_never_written_is_none():
    """A byte-level tokenizer names one, and SmolLM2's is also the end of a text."""
    byte_level = build_processor().tokenizer
    byte_level.unk_token = "<|endoftext|>"
    assert unknown_token_id(byte_level) is None and unknown_texts(byte_level, "any") == []
    characters = build_character_tokenizer(["a", "b"])
    assert unknown_token_id(characters) == 2 and unknown_texts(characters, "abc c") == ["c", " ", "c"]
    same = PreTrainedTokenizerFast(tokenizer_object=characters.backend_tokenizer, eos_token="<unk>")
    assert unknown_token_id(same) is None
