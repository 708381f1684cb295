"""A converted model reads pictures and chats as its family does: the tokens and pixels of LLaVA and nanoVLM."""

import json

import numpy as np
import pytest
import torch
from conversion.native_models import llava, saved
from conversion.test_nanovlm import CONFIG, tensors_of_nanovlm
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from smol_hf.conversion.convert import convert
from smol_hf.conversion.formats.tensor_names import ConversionError

CHATML = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
EXTRA = {
    "image_token": "<|image|>", "global_image_token": "<|global_image|>", "r1c1": "<row_1_col_1>",
    "r1c2": "<row_1_col_2>", "r2c1": "<row_2_col_1>", "r2c2": "<row_2_col_2>",
}  # fmt: skip


def byte_tokenizer(*special, bos=False):
    """One token per byte, after the special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*special, *alphabet])}
    engine = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    if bos:
        engine.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return engine


def picture(height, width):
    values = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.fixture
def nanovlm(tmp_path):
    """A folder of nanoVLM's, and one of the tokenizer that its language model had."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer("<|im_start|>", "<|im_end|>"), eos_token="<|im_end|>"
    )
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    base = len(tokenizer)
    config = {
        **CONFIG, "lm_base_vocab_size": base, "extra_token_amount": len(EXTRA), "lm_vocab_size": base + len(EXTRA),
        "vlm_extra_tokens": EXTRA, "lm_chat_template": CHATML, "max_img_size": 32, "resize_to_max_side_len": False,
    }  # fmt: skip
    tensors = tensors_of_nanovlm()
    name = "decoder.token_embedding.weight"
    tensors[name] = torch.randn(base + len(EXTRA), 32, generator=torch.Generator().manual_seed(3))
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "source" / "model.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    ("size", "grid"), [((10, 16), (1, 1)), ((32, 32), (2, 2)), ((15, 32), (1, 2)), ((500, 40), (2, 1))]
)
def test_nanovlm_is_asked_in_its_own_words(size, grid, nanovlm):
    facts = convert(str(nanovlm / "source"), nanovlm / "ours", tokenizer=str(nanovlm / "tokenizer"))
    assert facts["source"] == "nanovlm"
    processor = AutoProcessor.from_pretrained(nanovlm / "ours")
    content = [{"type": "image", "image": picture(*size)}, {"type": "text", "text": "What is it?"}]
    messages = [{"role": "user", "content": content}]
    ours = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    # As nanoVLM writes it: its picture's string before the question, in its own template.
    features = EXTRA["image_token"] * 4
    string = EXTRA["global_image_token"] + features
    if grid != (1, 1):
        places = [(row, column) for row in range(1, grid[0] + 1) for column in range(1, grid[1] + 1)]
        string += "".join(EXTRA[f"r{row}c{column}"] + features for row, column in places)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(nanovlm / "tokenizer")
    tokenizer.add_tokens(list(EXTRA.values()), special_tokens=True)
    theirs = tokenizer.apply_chat_template(
        [{"role": "user", "content": string + "What is it?"}], chat_template=CHATML, add_generation_prompt=True
    )
    assert ours["input_ids"][0].tolist() == theirs["input_ids"]
    model = AutoModelForImageTextToText.from_pretrained(nanovlm / "ours")
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert model.generate(**ours, max_new_tokens=2).shape[1] > ours["input_ids"].shape[1]


def test_answers_are_what_nanovlm_is_trained_on(nanovlm):
    convert(str(nanovlm / "source"), nanovlm / "ours", tokenizer=str(nanovlm / "tokenizer"))
    processor = AutoProcessor.from_pretrained(nanovlm / "ours")
    messages = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A cat."}]
    encoded = processor.encode(messages)
    labelled = [token for token in encoded.labels if token != -100]
    assert processor.tokenizer.decode(labelled) == "A cat.<|im_end|>"


def test_another_tokenizer_than_nanovlms_is_refused(nanovlm):
    PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer("<|im_end|>")).save_pretrained(nanovlm / "other")
    with pytest.raises(ConversionError, match="has 257 tokens, but nanoVLM's began with 258"):
        convert(str(nanovlm / "source"), nanovlm / "ours", tokenizer=str(nanovlm / "other"))
    assert not (nanovlm / "ours").exists()


def test_a_template_without_places_for_images_is_refused(nanovlm):
    path = nanovlm / "source" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lm_chat_template": "{{ messages[0].content }}"}))
    with pytest.raises(ConversionError, match="does not write ChatML"):
        convert(str(nanovlm / "source"), nanovlm / "ours", tokenizer=str(nanovlm / "tokenizer"))


LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | upper }}: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def test_llava_sees_the_middle_square_and_begins_with_its_token(tmp_path):
    native = saved(llava, tmp_path / "source")
    config = native.config
    image_token = config.image_token_id
    special = ["<s>", "</s>", *(f"<unused_{number}>" for number in range(2, image_token)), "<image>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(*special, bos=True), bos_token="<s>", eos_token="</s>", pad_token="</s>",
        additional_special_tokens=special, chat_template=LLAVA_TEMPLATE,
    )  # fmt: skip
    tokenizer.save_pretrained(tmp_path / "source")
    side = config.vision_config.image_size
    clip = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    clip.save_pretrained(tmp_path / "source")
    convert(str(tmp_path / "source"), tmp_path / "ours")
    processor = AutoProcessor.from_pretrained(tmp_path / "ours")
    assert processor.image_style == "crop"
    image = picture(side, 3 * side)
    content = [{"type": "image", "image": image}, {"type": "text", "text": "What?"}]
    ours = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    written = f"USER: {'<image>' * processor.image_seq_len}\nWhat? ASSISTANT:"
    assert ours["input_ids"] == tokenizer(written)["input_ids"]
    assert ours["input_ids"][0] == 0
    pixels = np.asarray(ours["pixel_values"])[0] / 255
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (clip.image_mean, clip.image_std))
    expected = np.asarray(clip(image)["pixel_values"][0])
    assert np.abs((pixels - mean) / std - expected).max() < 1e-5
