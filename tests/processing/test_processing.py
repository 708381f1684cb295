"""The processor: batches, refused inputs, and what survives pickling, saving and changed settings."""

import pickle

import numpy as np
import pytest
import torch
from modeling.builders import build_processor, build_tokenizer
from processing.chats import IMAGE, TILE, labelled_texts, message, picture
from transformers import AutoProcessor

from smol_hf import SmolHFProcessor
from smol_hf.modeling.label_loss import IGNORE_INDEX
from smol_hf.text.tiny_tokenizer import build_tiny_tokenizer

# -- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
def test_batches_are_padded_on_the_tokenizers_side(side):
    processor = build_processor()
    processor.tokenizer.padding_side = side
    conversations = [
        [message("user", {"type": "image", "image": picture(64, 64)}, "Hi")],
        [message("user", "What is in the picture?")],
        [message("user", {"type": "image", "image": picture(32, 32)}, {"type": "image", "image": picture(8, 8)})],
    ]
    batch = processor.apply_chat_template(
        conversations, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    for row, conversation in enumerate(conversations):
        alone = processor.apply_chat_template(conversation, tokenize=True, add_generation_prompt=True)
        assert len(alone) == lengths[row]
        real = slice(-len(alone), None) if side == "left" else slice(0, len(alone))
        assert batch["input_ids"][row, real].tolist() == alone
        rest = batch["input_ids"][row][batch["attention_mask"][row] == 0]
        assert (rest == processor.tokenizer.pad_token_id).all()
        assert batch["attention_mask"][row, real].all()
    assert batch["pixel_values"].shape == (3, 10, 3, TILE, TILE)
    assert batch["pixel_attention_mask"].shape == (3, 10, TILE, TILE)
    assert batch["pixel_attention_mask"].flatten(2).all(-1).sum(1).tolist() == [5, 0, 10]


def test_the_two_ways_to_a_prompt_agree(processor):
    """Rendering to a string and calling the processor, or both at once."""
    image = picture(64, 40)
    conversation = [message("user", {"type": "image", "image": image}, "What is in the picture?")]
    prompt = processor.apply_chat_template(conversation, add_generation_prompt=True)
    assert prompt == "<|im_start|>User:<image>What is in the picture?<end_of_utterance>\nAssistant:"
    called = processor(text=prompt, images=[image], return_tensors="pt")
    at_once = processor.apply_chat_template(
        conversation, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    # A string has one conversation's row; the tensors of one conversation have a batch axis too.
    assert called.keys() == at_once.keys()
    for name in called:
        assert torch.equal(called[name], at_once[name]), name


def test_images_may_be_given_in_several_shapes(processor):
    images = [picture(32, 32, seed=seed) for seed in range(3)]
    texts = ["<image><image>a", "<image>b"]
    flat = processor(text=texts, images=images, return_tensors="pt")
    nested = processor(text=texts, images=[images[:2], images[2:]], return_tensors="pt")
    arrays = processor(text=texts, images=[np.asarray(image) for image in images], return_tensors="pt")
    for name in flat:
        assert torch.equal(flat[name], nested[name]) and torch.equal(flat[name], arrays[name])
    single = processor(text="<image>b", images=images[2], return_tensors="pt")
    assert torch.equal(single["pixel_values"][0, 0], flat["pixel_values"][1, 0])


def test_images_are_found_by_path(processor, tmp_path):
    picture(32, 48).save(tmp_path / "picture.png")
    by_path, by_image = (
        processor.apply_chat_template([message("user", part)], tokenize=True, return_dict=True)
        for part in (
            {"type": "image", "path": str(tmp_path / "picture.png")},
            {"type": "image", "image": picture(32, 48)},
        )
    )
    assert torch.equal(by_path["pixel_values"], by_image["pixel_values"])


# -- what is refused --------------------------------------------------------------------------------------------------


def test_numbers_of_images_and_places_must_match(processor):
    image = picture(32, 32)
    one_place = [message("user", IMAGE, "What?")]
    with pytest.raises(ValueError, match="shows 1 images, but 0 were given"):
        processor.encode(one_place, [])
    with pytest.raises(ValueError, match="shows 1 images, but 2 were given"):
        processor.encode(one_place, [image, image])
    with pytest.raises(ValueError, match="shows 1 images, but 2 were given"):
        processor(text="<image>", images=[image, image])
    with pytest.raises(ValueError, match="shows 1 images, but 0 were given"):
        processor(text="<image>")
    with pytest.raises(ValueError, match="shows 2 images, but 1 were given"):
        processor(text=["<image>", "<image><image>"], images=[[image], [image]])
    with pytest.raises(ValueError, match="1 lists of images were given for 2 texts"):
        processor(text=["<image>", "no picture"], images=[[image]])
    with pytest.raises(ValueError, match="an image part has 0 images instead of one"):
        processor.apply_chat_template(one_place, tokenize=True)


def test_a_tokenizer_without_the_tokens_is_refused():
    with pytest.raises(ValueError, match="lacks 13 tokens for images, first <row_1_col_7>"):
        build_processor(longest_edge=7 * TILE)


def test_settings_may_change_after_use():
    processor, image = build_processor(), picture(64, 64)
    conversation = [message("user", IMAGE, "What?")]
    assert processor.encode(conversation, [image]).input_ids.count(processor.image_token_id) == 4 * 5
    processor.image_seq_len = 9
    assert processor.encode(conversation, [image]).input_ids.count(processor.image_token_id) == 9 * 5
    processor.do_image_splitting = False
    assert processor.encode(conversation, [image]).input_ids.count(processor.image_token_id) == 9
    processor.chat_template = "{% for m in messages %}{{ m['role'] }}<image>{{ m['content'][1]['text'] }}{% endfor %}"
    assert processor.tokenizer.decode(processor.encode(conversation, [image]).input_ids).startswith("user<fake")


@pytest.mark.parametrize("way", ["named", "added", "another tokenizer"])
def test_a_token_that_is_added_after_use_is_one_token(way):
    processor = build_processor()
    template = processor.chat_template.replace("{% for message", "<think>{% for message", 1)
    token, conversation = "<think>", [message("user", IMAGE, "What is <think>?")]
    before = processor.encode(conversation, [picture(64, 64)], chat_template=template).input_ids
    if way == "named":
        processor.tokenizer.add_special_tokens({"additional_special_tokens": [token]})
    elif way == "another tokenizer":
        processor.tokenizer = build_tokenizer()
        processor.tokenizer.add_tokens([token], special_tokens=True)
    else:
        processor.tokenizer.add_tokens([token], special_tokens=True)
    sample = processor.encode(conversation, [picture(64, 64)], chat_template=template)
    unused = SmolHFProcessor(processor.tokenizer, tile_size=32, image_seq_len=4, longest_edge=64)
    fresh = unused.encode(conversation, [picture(64, 64)], chat_template=template)
    assert sample.input_ids == fresh.input_ids != before
    number = processor.tokenizer.convert_tokens_to_ids(token)
    assert sample.input_ids.count(number) == 1, "that of the template; the one in the text is spelled"


def test_without_splitting_no_tile_tokens_are_needed():
    tokenizer = build_tiny_tokenizer(["a picture"])
    plain = SmolHFProcessor(tokenizer, tile_size=TILE, image_seq_len=4, do_image_splitting=False)
    assert tokenizer.decode(plain.image_block_ids(500, 300)) == (
        "<fake_token_around_image><global-img><image><image><image><image><fake_token_around_image>"
    )
    assert plain.tiles([picture(50, 30)]).shape == (1, 3, TILE, TILE)


def test_padding_needs_a_token():
    processor = build_processor()
    processor.tokenizer.pad_token = None
    with pytest.raises(ValueError, match="no padding token"):
        processor(text=["a", "a longer one"])


# -- travelling -------------------------------------------------------------------------------------------------------


def assert_same_processor(first, second):
    images = [picture(60, 64), picture(20, 20)]
    messages = [message("user", IMAGE, "What<image>?", IMAGE), message("assistant", "A cat.")]
    one, other = first.encode(messages, images), second.encode(messages, images)
    assert (one.input_ids, one.labels) == (other.input_ids, other.labels)
    assert np.array_equal(one.tiles, other.tiles)


def test_pickling_before_and_after_use():
    processor = build_processor()
    assert_same_processor(pickle.loads(pickle.dumps(processor)), processor)
    assert_same_processor(pickle.loads(pickle.dumps(processor)), processor)


def test_saving_after_use_and_loading(tmp_path):
    processor = build_processor(longest_edge=96, do_image_splitting=True, chat_template=None)
    assert_same_processor(processor, processor)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is SmolHFProcessor
    assert loaded.chat_template == processor.chat_template
    assert (loaded.tile_size, loaded.longest_edge, loaded.image_seq_len) == (TILE, 96, 4)
    assert loaded.tokenizer.padding_side == "left", "answers of a batch must begin in the same column"
    assert_same_processor(loaded, processor)
    loaded.save_pretrained(tmp_path / "again")
    assert_same_processor(AutoProcessor.from_pretrained(tmp_path / "again"), processor)


def test_no_token_reaches_over_the_border_of_generated_text():
    template = "in the pic{% generation %}{{ messages[0]['content'][0]['text'] }}!{% endgeneration %} end"
    processor = build_processor(chat_template=template)
    tokenizer = processor.tokenizer
    ids, labels = processor.encode_text([message("assistant", "ture")], [])
    assert tokenizer.decode(ids) == "in the picture! end"
    # " picture" is one token, which no prompt that ends with " pic" could be followed by.
    assert tokenizer.decode([label for label in labels if label != IGNORE_INDEX]) == "ture!"


def test_an_own_chat_template_is_kept_and_its_spans_are_the_labels(tmp_path):
    template = (
        "{% for message in messages %}[{{ message['role'] }}]"
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% elif message['role'] == "
        "'assistant' %}{% generation %}{{ part['text'] }}<|endoftext|>{% endgeneration %}{% else %}{{ part['text'] }}"
        "{% endif %}{% endfor %}{% endfor %}"
    )
    processor = build_processor(chat_template=template)
    sample = processor.encode([message("user", "<|endoftext|>?"), message("assistant", "Yes.")])
    assert processor.tokenizer.decode(sample.input_ids) == "[user]<|endoftext|>?[assistant]Yes.<|endoftext|>"
    assert labelled_texts(processor, sample) == ["Yes.<|endoftext|>"]
    processor.save_pretrained(tmp_path)
    assert AutoProcessor.from_pretrained(tmp_path).chat_template == template
