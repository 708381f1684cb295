"""Labels of conversations with images, whatever the chat template: those of the text path."""

import numpy as np
import pytest
from chat_models import HOSTILE, SMOLVLM_LIKE, chat_tokenizer
from modeling.builders import build_processor
from PIL import Image

from smol_hf import SmolHFProcessor
from smol_hf.modeling.label_loss import IGNORE_INDEX
from smol_hf.processing.chat_format import DEFAULT_CHAT_TEMPLATE, ChatTemplateError, image_tokens

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% for part in m.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "{{ '<end_of_utterance>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BARE = DEFAULT_CHAT_TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", "")
IMAGES = [Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8))]


def talk(first="4", second="On the left.", question="Where?"):
    texts = [("user", "Which digit?"), ("assistant", first), ("user", question), ("assistant", second)]
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in texts]
    messages[0]["content"].insert(0, {"type": "image"})
    return messages


def trained(processor, sample):
    runs, inside = [], False
    for token, label in zip(sample.input_ids, sample.labels):
        if label != IGNORE_INDEX:
            runs = [*runs[:-1], [*runs[-1], token]] if inside else [*runs, [token]]
        inside = label != IGNORE_INDEX
    return [processor.tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize("template", [BARE, SMOLVLM_LIKE], ids=["bare", "parts alone"])
def test_a_template_without_marks_has_the_labels_of_the_marked_one(processor, template):
    bare = build_processor(chat_template=template)
    for messages in (talk(), talk("", "<image>"), talk(HOSTILE, HOSTILE), talk(" 4", "\n5")):
        expected, sample = (each.encode(messages, IMAGES) for each in (processor, bare))
        assert (sample.input_ids, sample.labels) == (expected.input_ids, expected.labels)
    mask = bare.apply_chat_template(
        [*talk()[2:]], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )["assistant_masks"]  # fmt: skip
    assert sum(mask) == len([label for label in bare.encode(talk()[2:]).labels if label != IGNORE_INDEX]) > 0


@pytest.mark.parametrize("answer", ["\n4", "\n\nA cat", "4\n", " 4", "\n"])
def test_an_answer_keeps_its_leading_line_break(answer):
    """The prompt ends with a line break, and the tokenizer has a token for two."""
    tokenizer = chat_tokenizer(CHATML)
    tokenizer.add_tokens(image_tokens(2), special_tokens=True)
    processor = SmolHFProcessor(tokenizer, tile_size=32, image_seq_len=4, longest_edge=64, chat_template=CHATML)
    assert len(tokenizer("\n\n", add_special_tokens=False)["input_ids"]) == 1
    messages = talk(answer, answer)
    sample = processor.encode(messages, IMAGES)
    assert trained(processor, sample) == [answer + "<end_of_utterance>"] * 2
    for end in (1, 3):
        prompt = processor.encode(messages[:end], IMAGES, add_generation_prompt=True).input_ids
        assert sample.input_ids[: len(prompt)] == prompt
        assert sample.labels[len(prompt)] != IGNORE_INDEX and sample.labels[len(prompt) - 1] == IGNORE_INDEX
    given = [*messages[:2], messages[2]]
    given[0] = {**given[0], "content": [{"type": "image", "image": IMAGES[0]}, *given[0]["content"][1:]]}
    asked = processor.apply_chat_template(given, tokenize=True, add_generation_prompt=True)
    assert asked == processor.encode(messages[:3], IMAGES, add_generation_prompt=True).input_ids


def test_what_cannot_be_labelled_exactly_is_refused():
    no_end = build_processor(chat_template=CHATML.replace("{{ '<end_of_utterance>\n' }}", ""))
    with pytest.raises(ChatTemplateError, match="contains no special token of the tokenizer"):
        no_end.encode(talk(), IMAGES)
    last_alone = CHATML.replace("{{ part.text }}", "{{ part.text if loop.revindex0 == 0 and m == messages[-1] }}")
    with pytest.raises(ChatTemplateError):
        build_processor(chat_template=last_alone).encode(talk(), IMAGES)


LAST_MARKED = DEFAULT_CHAT_TEMPLATE.replace(
    "{% if message['role'] == 'assistant' %}", "{% if message['role'] == 'assistant' and loop.last %}"
)
FIRST_TWICE = DEFAULT_CHAT_TEMPLATE.replace(
    "{% if message['role'] == 'assistant' %}",
    "{% if message['role'] == 'assistant' and loop.index == 2 %}{% generation %} {% endgeneration %}{% endif %}"
    "{% if message['role'] == 'assistant' and not loop.last %}",
)


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        (LAST_MARKED, "marks 1 generated spans in 2 assistant turns, so an answer would not be trained"),
        (FIRST_TWICE, r"does not mark message 4 \(assistant\) as generated"),
    ],
    ids=["last alone", "first twice"],
)
def test_an_answer_that_the_template_does_not_mark_is_refused(template, complaint):
    processor = build_processor(chat_template=template)
    with pytest.raises(ChatTemplateError, match=complaint):
        processor.encode(talk(), IMAGES)
    untrained = [{**message, "trained": False} for message in talk()]
    assert set(processor.encode(untrained, IMAGES).labels) == {IGNORE_INDEX}
