"""Options of the processor: each is honoured as transformers' processors honour it, or refused by name."""

import json
from pathlib import Path

import numpy as np
import pytest
from chat_models import SMOLVLM_LIKE
from modeling.builders import build_processor, build_tokenizer
from processing.chats import PROMPT, TEXTS, ask, picture
from transformers import AutoProcessor
from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

from smol_hf import SmolHFProcessor

# -- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_side_is_that_of_the_call(processor, side):
    batch = processor(text=TEXTS, padding_side=side, return_tensors="pt")
    alone = [processor(text=text)["input_ids"][0] for text in TEXTS]
    real = slice(-len(alone[0]), None) if side == "left" else slice(0, len(alone[0]))
    assert batch["input_ids"][0, real].tolist() == alone[0] and batch["input_ids"][1].tolist() == alone[1]
    assert batch["attention_mask"].sum(1).tolist() == [len(ids) for ids in alone]
    chats = [[{"role": "user", "content": text}] for text in TEXTS]
    for options in ({"padding_side": side}, {"processor_kwargs": {"padding_side": side}}):
        batch = processor.apply_chat_template(chats, tokenize=True, return_dict=True, return_tensors="pt", **options)
        assert bool(batch["attention_mask"][0, 0]) is (side == "right")


def test_lengths_are_those_asked_for(processor):
    assert processor(text=TEXTS, pad_to_multiple_of=64, return_tensors="pt")["input_ids"].shape == (2, 64)
    fixed = processor(text=TEXTS, padding="max_length", max_length=76, return_tensors="pt")
    assert fixed["input_ids"].shape == (2, 76)
    longest = processor(text=TEXTS, padding="longest", max_length=76)
    lengths = [len(processor(text=text)["input_ids"][0]) for text in TEXTS]
    assert [len(row) for row in longest["input_ids"]] == [max(lengths)] * 2
    for padding in (False, "do_not_pad"):
        assert [len(row) for row in processor(text=TEXTS, padding=padding)["input_ids"]] == lengths
    assert processor(text=TEXTS, return_length=True)["length"] == lengths
    assert "attention_mask" not in processor(text=TEXTS, return_attention_mask=False)
    assert processor(text=TEXTS, return_tensors="np")["input_ids"].dtype.kind == "i"


def test_a_prompt_is_cut_where_it_may_be_and_an_image_never(processor):
    whole = processor(text=TEXTS[1])["input_ids"][0]
    cut = processor(text=TEXTS[1], truncation=True, max_length=4)["input_ids"][0]
    assert cut == (whole[-4:] if processor.tokenizer.truncation_side == "left" else whole[:4])
    with pytest.raises(ValueError, match=f"{len(whole)} tokens, but max_length is 4"):
        processor(text=TEXTS[1], max_length=4)
    with pytest.raises(ValueError, match="would cut an image"):
        processor(text=PROMPT, images=picture(), truncation=True, max_length=9)


def test_image_tokens_are_marked(processor):
    batch = processor(text=PROMPT, images=picture(), return_mm_token_type_ids=True)
    ids, types = batch["input_ids"][0], batch["mm_token_type_ids"][0]
    assert types == [int(each == processor.image_token_id) for each in ids] and sum(types) == 5 * 4


def test_flat_tiles_are_those_of_all_rows():
    processor = build_processor()
    prompts, images = [PROMPT, "no image", PROMPT], [[picture(64, 64)], [], [picture(8, 8)]]
    padded = processor(text=prompts, images=images)
    flat = processor(text=prompts, images=images, flat_tiles=True)
    assert flat.keys() == padded.keys() - {"pixel_attention_mask"} and flat["input_ids"] == padded["input_ids"]
    real = padded["pixel_attention_mask"][:, :, 0, 0]
    assert (flat["pixel_values"] == padded["pixel_values"][real]).all() and len(flat["pixel_values"]) == real.sum()
    texts = processor(text=["no image"], flat_tiles=True)
    assert texts["pixel_values"].shape == (0, *flat["pixel_values"].shape[1:])


@pytest.mark.parametrize("changes", [{}, {"image_style": "nanovlm"}, {"do_image_splitting": False}], ids=str)
def test_tokens_and_tiles_are_counted_by_size(changes):
    """The question of vLLM's backend for transformers' models."""
    if "image_style" in changes:
        tokenizer = build_tokenizer()
        tokenizer.add_tokens(["<|global_image|>"], special_tokens=True)
        processor = SmolHFProcessor(tokenizer, tile_size=32, image_seq_len=4, longest_edge=128, **changes)
    else:
        processor = build_processor(**changes)
    sizes = [(32, 32), (64, 64), (40, 100), (100, 40), (1, 500)]
    counts = processor._get_num_multimodal_tokens(image_sizes=sizes)
    for size, tokens, patches in zip(sizes, counts["num_image_tokens"], counts["num_image_patches"], strict=True):
        shown = processor(text=PROMPT, images=picture(*size))
        without = processor(text=PROMPT.replace("<image>", ""))
        assert tokens == len(shown["input_ids"][0]) - len(without["input_ids"][0])
        assert patches == shown["pixel_values"].shape[1]
    assert len(set(counts["num_image_patches"])) > 1 or "do_image_splitting" in changes
    assert "num_image_tokens" not in processor._get_num_multimodal_tokens()
    smaller = processor._get_num_multimodal_tokens(image_sizes=sizes, size={"longest_edge": 32})
    assert smaller["num_image_patches"][0] == 1


def test_the_tokenizers_settings_hold_where_the_call_says_nothing():
    tokenizer = build_tokenizer()
    tokenizer.init_kwargs |= {"padding": "max_length", "max_length": 117}
    processor = SmolHFProcessor(tokenizer, tile_size=32, image_seq_len=4)
    assert processor(text=TEXTS, return_tensors="pt")["input_ids"].shape == (2, 117)
    shorter = processor(text=TEXTS, padding="max_length", max_length=112, return_tensors="pt")
    assert shorter["input_ids"].shape == (2, 112)


def test_trls_collator_sees_a_pair_as_it_is_alone(processor):
    def pair(question, chosen):
        said = [[{"role": role, "content": text}] for role, text in (("assistant", chosen), ("assistant", "no"))]
        prompt = [{"role": "user", "content": question}]
        return {"images": [picture()], "prompt": prompt, "chosen": said[0], "rejected": said[1]}

    collate = DataCollatorForVisionPreference(processor=processor)
    alone = collate([pair("What?", "4")])
    both = collate([pair("What?", "4"), pair("What is in the picture, please?", "A cat that sits on the mat")])
    for name in ("input_ids", "completion_mask"):
        rows = [batch[name][0][batch["attention_mask"][0].bool()].tolist() for batch in (alone, both)]
        assert rows[0] == rows[1]
    for mask in both["attention_mask"].tolist():
        assert mask == sorted(mask, reverse=True), "no padding between a prompt and its answer"


# -- the chat template ------------------------------------------------------------------------------------------------

TOOLS_TEMPLATE = (
    "{% if tools %}TOOLS:{{ tools | tojson }}\n{% endif %}{% if hint is defined %}HINT:{{ hint }}\n{% endif %}"
    "{% for m in messages %}{{ m['role'] }}: {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for part in m['content'] or [] %}{{ part['text'] }}{% endfor %}{% endif %}"
    "{% if m.get('tool_calls') %}CALL:{{ m['tool_calls'] | tojson }}{% endif %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
TOOLS = [{"type": "function", "function": {"name": "count", "parameters": {"type": "object", "properties": {}}}}]
CALLS = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "count", "arguments": {}}}]},
    {"role": "tool", "content": "3"},
]


def test_tools_and_variables_reach_the_template():
    processor = build_processor(chat_template=TOOLS_TEMPLATE)
    options = {"tools": TOOLS, "hint": "be brief", "add_generation_prompt": True}
    text = processor.apply_chat_template(CALLS, **options)
    assert "TOOLS:" in text and "HINT:be brief" in text and 'CALL:[{"function": {"name": "count"' in text
    ids = processor.apply_chat_template(CALLS, tokenize=True, **options)
    assert processor.tokenizer.decode(ids) == text
    hostile = [CALLS[0], {**CALLS[1], "tool_calls": [{"function": {"name": "<end_of_utterance>", "arguments": {}}}]}]
    with pytest.raises(ValueError, match="tool_calls of message 2 holds '<end_of_utterance>'"):
        processor.apply_chat_template(hostile, tokenize=True)


@pytest.mark.parametrize("answer", ["4", "4 and ", [{"type": "text", "text": "It is"}]])
def test_the_last_message_is_continued(processor, answer):
    chat = ask({"type": "image", "image": picture()}, {"role": "assistant", "content": answer})
    text = processor.apply_chat_template(chat, continue_final_message=True)
    assert text.endswith("Assistant: " + (answer if isinstance(answer, str) else answer[0]["text"]))
    ids = processor.apply_chat_template(chat, tokenize=True, continue_final_message=True)
    assert ids == processor(text=text, images=picture())["input_ids"][0]
    with pytest.raises(ValueError, match="exclude each other"):
        processor.apply_chat_template(chat, continue_final_message=True, add_generation_prompt=True)


def test_text_reaches_templates_that_read_parts_alone_or_text_alone():
    chat, parts = ([{"role": "user", "content": content}] for content in ("Hi", [{"type": "text", "text": "Hi"}]))
    for template in (SMOLVLM_LIKE, "{% for m in messages %}{{ '<|im_start|>' + m.content }}{% endfor %}"):
        processor = build_processor(chat_template=template)
        for messages in (chat, parts):
            text = processor.apply_chat_template(messages)
            assert text.count("Hi") == 1
            ids = processor.apply_chat_template(messages, tokenize=True)
            assert processor.tokenizer.decode(ids) == text


# -- what is unknown --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    [
        {"paddding_side": "left"}, {"text_kwargs": {"paddding": True}}, {"images_kwargs": {"sizes": 3}},
        {"skip_secs": 1}, {"videos_kwargs": {"video_fps": 2}}, {"nothing": None},
    ],
)  # fmt: skip
def test_what_is_unknown_is_an_error(processor, option):
    with pytest.raises(TypeError, match="takes no"):
        processor(text=TEXTS, **option)
    with pytest.raises(TypeError, match="takes no"):
        processor.apply_chat_template(
            ask({"type": "image", "image": picture()}), tokenize=True, processor_kwargs=option
        )


def test_a_misspelt_name_is_shown_the_right_one(processor):
    for tokenize in (True, False):
        with pytest.raises(TypeError, match="did you mean 'add_generation_prompt'"):
            processor.apply_chat_template(ask({"type": "image"}), tokenize=tokenize, add_generation_promt=True)
    with pytest.raises(TypeError, match="longest_egde"):
        build_processor(longest_egde=64)


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ({"padding_side": "up"}, "padding_side 'up'"), ({"padding": "all"}, "padding 'all'"),
        ({"return_tensors": "tf"}, "return_tensors 'tf'"), ({"pad_to_multiple_of": 0}, "pad_to_multiple_of 0"),
        ({"do_resize": False}, "do_resize is always True"), ({"add_special_tokens": True}, "add_special_tokens"),
        ({"return_offsets_mapping": True}, "return_offsets_mapping is not supported"),
        ({"size": {"height": 8, "width": 8}}, "give only longest_edge"), ({"size": {"longest_edge": 999}}, "lacks"),
        ({"size": {"longest_edge": 40.5}}, "longest_edge 40.5 must be a positive whole number"),
        ({"size": 40.5}, "longest_edge 40.5 must be"), ({"size": {"longest_edge": "64"}}, "longest_edge '64' must be"),
        ({"size": {"longest_edge": True}}, "longest_edge True must be"), ({"size": -3}, "longest_edge -3 must be"),
        ({"size": "64"}, "size '64' is not supported"), ({"max_image_size": "32"}, "max_image_size '32' is not"),
        ({"max_image_size": {"longest_edge": 16}}, "the encoder reads 32"), ({"crop_size": 5}, "crop_size"),
        ({"do_normalize": True}, "needs image_mean"), ({"resample": 3}, "LANCZOS"),
        ({"audio": [1]}, "leave out audio"),
        ({"padding": True, "text_kwargs": {"padding": False}}, "padding is given twice"),
        ({"padding": "max_length"}, "needs max_length"), ({"input_data_format": "last"}, "input_data_format 'last'"),
    ],
)  # fmt: skip
def test_what_is_never_done_is_an_error(processor, option, complaint):
    with pytest.raises(ValueError, match=complaint):
        processor(text=PROMPT, images=np.asarray(picture()), **option)


def test_nothing_to_prepare_is_an_error(processor):
    for tokenize in (True, False):
        with pytest.raises(ValueError, match="the conversation is empty"):
            processor.apply_chat_template([], tokenize=tokenize)
    with pytest.raises(ValueError, match="neither text nor images nor videos were given"):
        processor()
    with pytest.raises(ValueError, match="a string or a list of strings"):
        processor(text=[[1, 2]])
    with pytest.raises(FileNotFoundError, match="neither a file nor a URL nor base64"):
        processor(text=PROMPT, images="missing.png")


def test_options_may_be_grouped(processor):
    groups = {
        "common_kwargs": {"return_tensors": "pt"},
        "text_kwargs": {"padding": "max_length", "max_length": 176},
        "images_kwargs": {"do_rescale": True, "rescale_factor": -1},
    }
    batch = processor(text=PROMPT, images=picture(), **groups)
    assert batch["input_ids"].shape == (1, 176) and batch["pixel_values"].max() <= 0


# -- saving -----------------------------------------------------------------------------------------------------------


def test_a_saved_processor_is_the_same(tmp_path):
    first = build_processor(longest_edge=96, enlarge_images=False)
    first(text=PROMPT, images=picture())
    settings = json.loads(first.to_json_string())
    assert (settings["tile_size"], settings["longest_edge"], settings["enlarge_images"]) == (32, 96, False)
    files = first.save_pretrained(tmp_path)
    assert files and all(json.loads(Path(path).read_text(encoding="utf-8")) for path in files)
    for load in (AutoProcessor, SmolHFProcessor):
        second = load.from_pretrained(tmp_path)
        assert settings_of(second) == settings_of(first) and second.chat_template == first.chat_template
        assert second.tokenizer.get_vocab() == first.tokenizer.get_vocab()
    changed = AutoProcessor.from_pretrained(tmp_path, longest_edge=32)
    assert changed.longest_edge == 32
    assert set(first(text=PROMPT, images=picture())) == set(first.model_input_names)


def settings_of(processor):
    return {name: value for name, value in processor.to_dict().items() if name != "auto_map"}
