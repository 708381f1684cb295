"""`--to native` of LLaVA's connectors: equal logits and answers on every supported line of transformers."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from export.compositions import trained, write_prompts
from modeling import older_transformers
from safetensors.torch import load_file, save_file

from smol_hf.commands.main import main
from smol_hf.export.comparison import reference
from smol_hf.export.native import normalize
from smol_hf.inference.answering import load_checkpoint
from smol_hf.inference.prompts import read_prompts
from smol_hf.inference.run import Generator
from smol_hf.inference.sampling import Sampling

COMPOSITIONS = {
    "clip": ("clip", "llama", "mlp", {}),
    "siglip": ("siglip", "qwen3", "linear", {}),
    "dinov2": ("dinov2", "gpt2", "mlp", {"keep_text_class": True}),
}


@pytest.fixture(scope="module", params=COMPOSITIONS)
def exported(request, tmp_path_factory):
    """(folder with `checkpoint` and `native`, file of prompts, what the command printed)."""
    place = tmp_path_factory.mktemp(request.param)
    encoder, text, connector, options = COMPOSITIONS[request.param]
    checkpoint = trained(place, encoder, text, connector, **options)
    prompts = write_prompts(place)
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr("smol_hf.commands.main.print_facts", lambda facts, *_: printed.append(facts))
        words = ["export", checkpoint, place / "native", "--to", "native", "--prompts-file", prompts]
        assert main([*map(str, words)]) == 0
    return place, prompts, printed[0]


def test_it_answers_as_the_checkpoint_with_its_own_processor(exported):
    _, _, facts = exported
    comparison = facts["comparison"]
    assert comparison["note"] is None and facts["notes"] == []
    assert comparison["equal"] == comparison["equal_prompts"] == comparison["prompts"] == 12
    assert comparison["answers"] >= 6 and comparison["difference"] < 1e-4


@pytest.mark.parametrize("line", older_transformers.lines())
def test_an_older_transformers_answers_the_same(line, exported, tmp_path):
    place, file, _ = exported
    model, processor = load_checkpoint(place / "checkpoint", device="cpu", dtype="float32")
    generator, prompts = Generator(model, processor, Sampling()), read_prompts(file)
    rows = [generator.inputs([prompt]) for prompt in prompts]
    pixels = torch.cat([normalize(row["pixel_values"], place / "native").flatten(0, 1) for row in rows])
    save_file({"pixel_values": pixels}, tmp_path / "pixels")
    python = older_transformers.older_interpreter(line=line)
    script = Path(__file__).with_name("answer_native.py")
    command = [python, "-I", script, place / "native", file, tmp_path / "pixels", tmp_path / "results"]
    subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    facts, results = json.loads((tmp_path / "results.json").read_text()), load_file(tmp_path / "results")
    assert facts["class"] == "LlavaForConditionalGeneration"
    level = 1 / 255 / min(model.config.image_std)
    assert (results["pixel_values"] - pixels).abs().max() < 1.01 * level, "equal but for the rounding of Pillow"
    for prompt, row, (ids, tokens), logits in zip(prompts, rows, facts["answers"], results["logits"], strict=True):
        own = reference(generator, prompt)
        assert ids == row["input_ids"][0].tolist() and tokens == own.tokens
        assert np.abs(logits.numpy() - own.logits).max() < 1e-4


def test_the_folder_has_what_other_engines_look_for(exported):
    place, _, facts = exported
    native = place / "native"
    config = json.loads((native / "config.json").read_text())
    assert config["tie_word_embeddings"] is False and config["text_config"]["tie_word_embeddings"] is False
    assert config["text_config"]["architectures"][0].endswith(("ForCausalLM", "LMHeadModel"))
    assert config["vision_feature_layer"] == (-2 if config["vision_config"]["model_type"].startswith("clip") else -1)
    assert ("rope_theta" in config["text_config"]) == (config["text_config"]["model_type"] != "gpt2")
    names = load_file(native / "model.safetensors").keys()
    inner = "" if config["vision_config"]["model_type"] == "dinov2" else "vision_model."
    assert any(name.startswith(f"vision_tower.{inner}encoder") for name in names)
    assert "language_model.lm_head.weight" in names
    tokenizer = json.loads((native / "tokenizer_config.json").read_text())
    assert "auto_map" not in tokenizer and tokenizer["extra_special_tokens"] == {"image_token": "<image>"}
    assert "generation %}" not in tokenizer["chat_template"]
    assert (native / "generation_config.json").is_file() and facts["commands"] == [f"transformers serve {native}"]
    card = (native / "README.md").read_text()
    assert "LlavaForConditionalGeneration" in card and "custom_code" not in card and "num2words" not in card


def test_check_reads_the_folder_back(exported, capsys):
    place, prompts, _ = exported
    command = ["check", str(place / "native"), "--source", str(place / "checkpoint"), "--prompts-file", str(prompts)]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["equal"] == 12
    assert main(["convert", str(place / "native"), str(place / "back")]) == 0
    ours, back = (load_file(place / name / "model.safetensors") for name in ("checkpoint", "back"))
    ours.setdefault("language_model.lm_head.weight", back["language_model.lm_head.weight"])
    tied = "language_model.model.embed_tokens.weight"
    assert ours.keys() == back.keys() and all(torch.equal(ours[name], back[name]) for name in ours)
    assert tied not in ours or torch.equal(back["language_model.lm_head.weight"], ours[tied])
