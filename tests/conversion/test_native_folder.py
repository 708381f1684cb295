"""The exported native folder: transformers 4.57 and 5.x load it, and it has what other engines look for."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import build_model, build_processor
from modeling.builders import randomise
from modeling.older_transformers import older_interpreter
from PIL import Image
from processes import run_script
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Idefics3Processor
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE as SMOLVLM_TEMPLATE

from smol_hf.auto import AutoModelForImageTextToText, AutoProcessor
from smol_hf.conversion.convert import convert
from smol_hf.modeling.tiles import normalize_tiles

MESSAGES = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(our model, our processor, the native folder, the folder converted back)."""
    place = tmp_path_factory.mktemp("export")
    processor = build_processor(video_fps=2.0, video_max_frames=9, video_frame_size=48)
    model = randomise(build_model(processor, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]))
    model.save_pretrained(place / "ours")
    processor.save_pretrained(place / "ours")
    convert(str(place / "ours"), place / "native")
    convert(str(place / "native"), place / "back")
    return model, processor, place / "native", place / "back"


def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (44, 60, 3), dtype=np.uint8))


def encoded(model, processor):
    video = {"type": "video", "video": [picture()] * 3}
    messages = [{"role": "user", "content": [{"type": "image", "image": picture()}, video, MESSAGES[0]["content"][1]]}]
    batch = processor.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    pixels = normalize_tiles(batch["pixel_values"].flatten(0, 1), model.config, torch.float32).unsqueeze(0)
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "pixel_values": pixels}


@pytest.mark.parametrize("line", ["this", "4.57"])
def test_transformers_own_class_computes_the_same(line, exported, tmp_path):
    model, processor, native, _ = exported
    inputs = encoded(model, processor)
    if line == "4.57":  # which numbers the patches of a picture wrongly, in float32: text alone can be compared
        inputs = {"input_ids": torch.arange(60, 100).unsqueeze(0)}
    save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, tmp_path / "inputs.safetensors")
    script = Path(__file__).with_name("load_native.py")
    arguments = [native, tmp_path / "inputs.safetensors", tmp_path / "results"]
    if line == "this":
        run_script(script, *arguments)
    else:
        command = [older_interpreter(), "-I", script, *arguments]
        subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    facts = json.loads((tmp_path / "results.json").read_text())
    assert facts["class"] == "SmolVLMForConditionalGeneration"
    assert facts["prompt"] == "<|im_start|>User:<image>What?<end_of_utterance>\nAssistant:"
    with torch.no_grad():
        expected = model(**inputs).logits
    torch.testing.assert_close(load_file(tmp_path / "results")["logits"], expected, rtol=0, atol=1e-5)


def test_its_processor_gives_the_same_tokens_and_pixels(exported):
    model, processor, native, _ = exported
    theirs = Idefics3Processor(
        Idefics3ImageProcessorPil.from_pretrained(native), AutoTokenizer.from_pretrained(native), image_seq_len=4
    )
    image = picture()
    prompt = AutoTokenizer.from_pretrained(native).apply_chat_template(
        MESSAGES, tokenize=False, add_generation_prompt=True
    )
    expected = theirs(text=prompt, images=[image], return_tensors="pt")
    actual = processor(text=prompt, images=[image], return_tensors="pt")
    assert torch.equal(actual["input_ids"], expected["input_ids"])
    pixels = normalize_tiles(actual["pixel_values"][0], model.config, torch.float32)
    torch.testing.assert_close(pixels, torch.as_tensor(expected["pixel_values"])[0], rtol=0, atol=1e-6)


def test_it_writes_and_samples_videos_as_we_do(exported):
    _, _, native, back = exported
    tokenizer = AutoTokenizer.from_pretrained(native)
    messages = [{"role": "user", "content": [{"type": "video"}, MESSAGES[0]["content"][1]]}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt == tokenizer.apply_chat_template(
        messages, chat_template=SMOLVLM_TEMPLATE, tokenize=False, add_generation_prompt=True
    )
    video = json.loads((native / "video_preprocessor_config.json").read_text())
    assert video["video_sampling"] == {"fps": 2.0, "max_frames": 9, "video_size": {"longest_edge": 48}}
    again = AutoProcessor.from_pretrained(back)
    assert (again.video_fps, again.video_max_frames, again.video_frame_size) == (2.0, 9, 48)


def test_what_other_engines_cannot_do_with_videos_is_noted(exported, tmp_path):
    model = exported[0]
    processor = build_processor(video_style="smolvlm2_training", video_min_frames=4)
    model.save_pretrained(tmp_path / "ours")
    processor.save_pretrained(tmp_path / "ours")
    notes = " ".join(convert(str(tmp_path / "ours"), tmp_path / "native")["notes"])
    assert "instead of smolvlm2_training" in notes and "video_min_frames 4" in notes


def test_it_has_what_other_engines_look_for(exported):
    model, _, native, _ = exported
    config = json.loads((native / "config.json").read_text())
    assert config["text_config"]["rope_theta"] == model.config.text_config.rope_parameters["rope_theta"]
    assert config["text_config"]["architectures"] == ["VLlama3ForCausalLM"]
    assert config["tie_word_embeddings"] is False and config["text_config"]["tie_word_embeddings"] is False
    assert "lm_head.weight" in load_file(native / "model.safetensors")
    image = json.loads((native / "preprocessor_config.json").read_text())
    assert image["processor_class"] == "SmolVLMProcessor" and image["image_mean"] == [0.4, 0.5, 0.6]
    tokenizer = json.loads((native / "tokenizer_config.json").read_text())
    assert tokenizer["chat_template"] == (native / "chat_template.jinja").read_text()
    assert "generation %}" not in tokenizer["chat_template"], "other engines' Jinja does not know the mark"
    assert not [path for path in native.iterdir() if path.suffix == ".py"]


def test_back_again_it_reads_and_writes_as_before(exported):
    model, processor, _, back = exported
    again, again_processor = AutoModelForImageTextToText.from_pretrained(back), AutoProcessor.from_pretrained(back)
    assert again_processor.chat_template == processor.chat_template, "with the marks of generated text"
    assert again.config.image_mean == model.config.image_mean and again.config.image_std == model.config.image_std
    inputs, again_inputs = encoded(model, processor), encoded(again, again_processor)
    assert all(torch.equal(inputs[name], again_inputs[name]) for name in inputs)
    tokens = [each.generate(**inputs, max_new_tokens=8, do_sample=False) for each in (model, again.eval())]
    assert torch.equal(*tokens)
