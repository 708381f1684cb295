"""`smol-hf export`: complete folders or none, and answers that are compared with the checkpoint's."""

import json
import os
import shutil
import signal
import time

import pytest
import torch
from helpers import model_of_preset
from modeling.builders import build_decoder, build_processor, build_tokenizer, build_vlm, randomise
from processes import Forked, fork_command
from safetensors.torch import load_file, save_file

from smol_hf import SmolHFForCausalLM, SmolHFForConditionalGeneration
from smol_hf.commands.main import main
from smol_hf.conversion.convert import convert
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.conversion.native.card import card_of_export
from smol_hf.estimate.estimate import status
from smol_hf.export.export import export, work_folder

CARD = """---
library_name: transformers
tags:
- custom_code
- mine
---

# My model

Words.

## Use

from_pretrained(path, trust_remote_code=True)

## Results

Good.
"""


def test_a_text_model_answers_alike_in_transformers(text_checkpoint, tmp_path, capsys):
    (text_checkpoint / "LICENSE").write_text("the licence")
    assert main(["export", str(text_checkpoint), str(tmp_path / "out"), "--to", "native", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["comparison"]["equal"] == facts["comparison"]["prompts"] == 6
    assert facts["comparison"]["answers"] == 6
    assert facts["comparison"]["equal_prompts"] == 6 and facts["comparison"]["difference"] < 1e-4
    assert (tmp_path / "out" / "LICENSE").read_text() == "the licence" and "LICENSE" in facts["files"]


def test_check_finds_another_source(text_checkpoint, tmp_path, capsys):
    assert main(["export", str(text_checkpoint), str(tmp_path / "out"), "--to", "native", "--no-compare"]) == 0
    assert main(["check", str(tmp_path / "out"), "--source", str(text_checkpoint)]) == 0
    shutil.copytree(text_checkpoint, tmp_path / "other")
    weights = load_file(tmp_path / "other/model.safetensors")
    weights["model.layers.0.self_attn.v_proj.weight"] *= -1
    save_file(weights, tmp_path / "other/model.safetensors", metadata={"format": "pt"})
    assert main(["check", str(tmp_path / "out"), "--source", str(tmp_path / "other")]) == 1
    assert "does not answer like" in capsys.readouterr().err


@pytest.mark.parametrize("style", ["rotary", "gpt", "nope"])
def test_every_decoder_answers_alike(style, tmp_path):
    tokenizer = build_tokenizer()
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    model = build_decoder(style, vocab_size=len(tokenizer), tie_word_embeddings=False, **ids)
    randomise(model, 0.3).save_pretrained(tmp_path / "ours")
    tokenizer.save_pretrained(tmp_path / "ours")
    facts = export(tmp_path / "ours", tmp_path / "out", "native")["comparison"]
    assert facts["note"] is None and facts["equal"] == facts["equal_prompts"] == 6
    assert facts["answers"] >= 4 and facts["difference"] < 1e-4


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    """A checkpoint like SmolVLM, with random weights."""
    folder = tmp_path_factory.mktemp("vlm")
    processor = build_processor()
    tokenizer = processor.tokenizer
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    config = build_vlm().config
    config.text_config.vocab_size, config.image_token_id = len(tokenizer), processor.image_token_id
    config.vision_config.image_size, config.vision_config.patch_size = 32, 8
    config.text_config.max_position_embeddings, config.text_config.tie_word_embeddings = 256, False
    for name, value in ids.items():
        setattr(config.text_config, name, value)
    torch.manual_seed(0)
    randomise(SmolHFForConditionalGeneration(config), 0.3).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_a_model_is_compared_without_the_packages_of_its_processor(vlm, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("smol_hf.export.native.AutoProcessor", MissingTorchvision)
    assert main(["export", str(vlm), str(tmp_path / "out"), "--to", "native"]) == 0
    said = capsys.readouterr().out
    assert "20 of 20 prompts with the greedy tokens" in said and "its own processor was not compared" in said
    assert main(["check", str(tmp_path / "out"), "--source", str(vlm), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["note"].endswith("a missing package: torchvision") and facts["equal_prompts"] is None
    assert facts["equal"] == 20 and facts["difference"] < 1e-4 and facts["answers"] >= 3


class MissingTorchvision:
    @staticmethod
    def from_pretrained(folder):
        raise ImportError("SmolVLMVideoProcessor requires the Torchvision library but it was not found")


def test_a_native_folder_names_what_its_processor_needs(vlm, tmp_path):
    (tmp_path / "source").mkdir()
    shutil.copytree(vlm, tmp_path / "source", dirs_exist_ok=True)
    (tmp_path / "source" / "README.md").write_text(CARD)
    (tmp_path / "source" / "LICENSE").write_text("the licence")
    for source, title in ((vlm, "# A vision-language model"), (tmp_path / "source", "# My model")):
        out = tmp_path / title[2:5]
        convert(str(source), out)
        card = (out / "README.md").read_text()
        assert title in card and "SmolVLMForConditionalGeneration" in card and "custom_code" not in card
        assert "pip install num2words torchvision" in card
        assert "trust_remote_code=True" not in card and "## Use" not in card
        assert "auto_map" not in json.loads((out / "tokenizer_config.json").read_text())
    assert (out / "LICENSE").read_text() == "the licence"


def test_an_adapter_is_merged_first(text_checkpoint, tmp_path):
    from peft import LoraConfig, get_peft_model

    model = SmolHFForCausalLM.from_pretrained(text_checkpoint)
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora" in name:
                weight.mul_(10)
    adapted.save_pretrained(tmp_path / "adapter")
    shutil.copyfile(text_checkpoint / "tokenizer.json", tmp_path / "adapter" / "tokenizer.json")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(text_checkpoint)}))
    facts = export(tmp_path / "adapter", tmp_path / "out", "native")["comparison"]
    assert facts["equal"] == 6 and facts["difference"] < 1e-4
    base = load_file(text_checkpoint / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    merged = load_file(tmp_path / "out" / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    assert not torch.equal(base, merged)
    assert sorted(os.listdir(tmp_path)) == ["adapter", "out"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_export_leaves_no_output(number, text_checkpoint, tmp_path, monkeypatch):
    def wait(*_):
        print("waiting")
        time.sleep(60)

    monkeypatch.setattr("smol_hf.conversion.convert.write_generation_config", wait)  # after the weights
    words = ["export", text_checkpoint, tmp_path / "out", "--to", "native", "--no-compare"]
    killed = fork_command(words, tmp_path / "printed")
    killed.wait_for("waiting")
    assert list(tmp_path.glob(".out.*.incomplete"))
    os.kill(killed.pid, number)
    assert killed.wait()[0] == (143 if number == signal.SIGTERM else -number)
    assert not (tmp_path / "out").exists()
    if number == signal.SIGTERM:
        assert os.listdir(tmp_path) == ["printed"]
    monkeypatch.undo()
    assert main(list(map(str, words))) == 0
    assert sorted(os.listdir(tmp_path)) == ["out", "printed"], "also what the killed attempt left"


def test_an_option_of_another_target_is_refused(text_checkpoint, tmp_path):
    with pytest.raises(ValueError, match="--outtype has no effect with --to native"):
        export(text_checkpoint, tmp_path / "out", "native", outtype="q8_0")
    with pytest.raises(ValueError, match="choose one of native"):
        export(text_checkpoint, tmp_path / "out", "tflite")
    assert not os.listdir(tmp_path)


def test_it_takes_at_most_three_times_the_memory_of_the_weights(tmp_path):
    model = model_of_preset("tiny-vlm", "cpu")
    model.language_model.resize_token_embeddings(400_000)  # 100 MB in a tied matrix, which the export unties
    model.config.text_config.vocab_size = 400_000
    model.save_pretrained(tmp_path / "ours")
    del model
    size = (tmp_path / "ours" / "model.safetensors").stat().st_size
    assert size > 100e6
    Forked(export_and_measure, tmp_path / "printed", tmp_path).wait()
    assert int((tmp_path / "peak").read_text()) < 3 * size


def export_and_measure(place):
    before = status("VmRSS")
    export(place / "ours", place / "out", "native", compared=False)
    (place / "peak").write_text(str(status("VmHWM") - before))


def test_faults_of_the_output_are_found_before_the_export(text_checkpoint, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    words = ["export", str(text_checkpoint), str(tmp_path / "file" / "out"), "--to", "native"]
    assert main(words) == 1 and f"is inside the file {tmp_path / 'file'}" in capsys.readouterr().err
    words[2] = str(tmp_path / "above" / "out")
    assert main([*words[:-1], "gguf", "--quantization", "q9"]) == 1
    assert os.listdir(tmp_path) == ["file"]


def test_two_exports_into_one_place_do_not_disturb_each_other(text_checkpoint, tmp_path):
    with work_folder(tmp_path / "out") as place:
        (place / "file").write_text("")
        with pytest.raises(ConversionError, match="another process exports into"):
            export(text_checkpoint, tmp_path / "out", "native", compared=False)
        assert (place / "file").is_file()
    export(text_checkpoint, tmp_path / "out", "native", compared=False)
    assert os.listdir(tmp_path) == ["out"]


def test_the_home_folder_is_meant(text_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    facts = export(text_checkpoint, "~/out", "native", compared=False)
    assert "config.json" in facts["files"] and str(tmp_path / "out") in facts["commands"][0]


@pytest.mark.parametrize("to", ["native", "gguf"])
def test_prompts_that_cannot_be_shown_are_found_before_the_export(to, vlm, tmp_path, capsys):
    (tmp_path / "text.png").write_text("no image")
    for line in ({"image": "missing.png"}, {"image": "text.png"}, {"video": "missing.mp4"}):
        (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "What?", **line}))
        words = ["export", str(vlm), str(tmp_path / "out"), "--to", to, "--prompts-file"]
        assert main([*words, str(tmp_path / "prompts.jsonl")]) == 1
        assert "prompts.jsonl:1: " in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_an_export_that_cannot_be_compared_is_said_to_be_written(text_checkpoint, tmp_path, capsys):
    shutil.copytree(text_checkpoint, tmp_path / "short")
    path = tmp_path / "short" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": 24}))
    assert main(["export", str(tmp_path / "short"), str(tmp_path / "out"), "--to", "native"]) == 1
    assert f"{tmp_path / 'out'} is written, but it cannot be compared" in capsys.readouterr().err
    assert (tmp_path / "out" / "config.json").is_file()


@pytest.mark.parametrize("key", ["tile_size", "longest_edge", "do_image_splitting", "image_seq_len"])
def test_a_damaged_processor_is_one_sentence(key, vlm, tmp_path, capsys):
    shutil.copytree(vlm, tmp_path / "damaged")
    path = tmp_path / "damaged" / "processor_config.json"
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != key}))
    words = ["export", str(tmp_path / "damaged"), str(tmp_path / "out"), "--to", "native"]
    assert main(words) == 1
    assert f"{path}: a value is missing or unusable: KeyError: '{key}'" in capsys.readouterr().err
    path.unlink()
    assert main(words) == 1 and "has no processor_config.json" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["damaged"]


def test_the_card_of_a_page_says_how_to_run_it():
    native = CARD.partition("\n## Use")[0] + "\n\n## Load this folder\n\nfrom_pretrained\n"
    card = card_of_export(native, "llama.cpp", ["llama-server -m FOLDER/model.gguf"])
    assert "# My model" in card and "llama-server -m FOLDER/model.gguf" in card
    assert "Load this folder" not in card and "library_name" not in card


def test_the_base_of_an_adapter_is_not_downloaded_unasked(text_checkpoint, tmp_path):
    from peft import LoraConfig, get_peft_model

    model = SmolHFForCausalLM.from_pretrained(text_checkpoint)
    get_peft_model(model, LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "nobody/missing"}))
    with pytest.raises(ConversionError, match="not found in the local cache"):
        export(tmp_path / "adapter", tmp_path / "out", "native", local_files_only=True)
    shutil.copytree(text_checkpoint, tmp_path / "shards")
    (tmp_path / "shards" / "pytorch_model_fsdp_0").mkdir()
    with pytest.raises(ConversionError, match="merge them first"):
        export(tmp_path / "shards", tmp_path / "out", "native")


def test_check_of_an_export_asks_for_the_source(tmp_path, capsys):
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "model-f16.gguf").write_bytes(b"GGUF")
    assert main(["check", str(tmp_path / "gguf")]) == 1
    assert "is an export to gguf: name its checkpoint, --source CHECKPOINT" in capsys.readouterr().err
