"""Conversations for a text-only model: labels on the assistant's messages, by the templates of real models."""

import random

import pytest
from chat_models import HOSTILE, SMOLLM2_INSTRUCT, SPECIAL, TALK, chat_messages, chat_tokenizer, shown
from tokenizers import pre_tokenizers
from trl import chat_template_utils as trl_templates

from smol_hf.inference.answering import chat_ids
from smol_hf.modeling.label_loss import IGNORE_INDEX
from smol_hf.processing.chat_turns import rewrites_answers
from smol_hf.text.chat import ChatTemplateError, TextChat
from smol_hf.training.model.chat_template import CHATML, SMOLLM2

LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
QWEN = (  # the part of Qwen2.5's that a conversation without tools meets
    "{%- if messages[0]['role'] == 'system' %}"
    "{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    "<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{%- if (message.role == 'user') or (message.role == 'system' and not loop.first) or (message.role == "
    "'assistant' and not message.tool_calls) %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
ODD = ["\n", " ", "a", "Nobody", "\t", "é", "<|im_end|>", "🦊", "\ue0001\ue001"]


def labelled(tokenizer, turns):
    return shown(tokenizer, *TextChat(tokenizer).encode_text(chat_messages(turns)))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (
            SMOLLM2_INSTRUCT,
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
            "<|im_start|>user\nWho wrote it?<|im_end|>\n<|im_start|>assistant\n⟦Nobody.<|im_end|>⟧\n"
            "<|im_start|>user\n And then?\n<|im_end|>\n<|im_start|>assistant\n⟦Nothing new.<|im_end|>⟧\n",
        ),
        (
            LLAMA3,
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWho wrote it?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n⟦Nobody.<|eot_id|>⟧"
            "<|start_header_id|>user<|end_header_id|>\n\nAnd then?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n⟦Nothing new.<|eot_id|>⟧",
        ),
        (
            QWEN,
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
            "<|im_start|>user\nWho wrote it?<|im_end|>\n<|im_start|>assistant\n⟦Nobody.<|im_end|>⟧\n"
            "<|im_start|>user\n And then?\n<|im_end|>\n<|im_start|>assistant\n⟦Nothing new.<|im_end|>⟧\n",
        ),
    ],
    ids=["smollm2", "llama3", "qwen"],
)
def test_every_answer_is_labelled_with_the_token_that_ends_it(template, expected):
    chosen = chat_tokenizer(template)
    assert labelled(chosen, TALK) == expected
    ids, _ = TextChat(chosen).encode_text(chat_messages(TALK))
    theirs = chosen.apply_chat_template(chat_messages(TALK), tokenize=True, return_dict=True)["input_ids"]
    assert ids == theirs, "the tokens are those of transformers"


def test_a_system_message_takes_the_place_of_the_default_one():
    text = labelled(chat_tokenizer(SMOLLM2_INSTRUCT), [("system", "Be brief."), *TALK[:2]])
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n") and "SmolLM" not in text
    assert text.endswith("<|im_start|>assistant\n⟦Nobody.<|im_end|>⟧\n")


@pytest.mark.parametrize(("ours", "theirs"), [(SMOLLM2, SMOLLM2_INSTRUCT), (CHATML, None)], ids=["smollm2", "chatml"])
def test_the_shipped_templates_mark_what_would_be_found_without_marks(ours, theirs):
    bare = ours.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    for turns in (TALK, [("system", "Be brief."), *TALK]):
        assert labelled(chat_tokenizer(ours), turns) == labelled(chat_tokenizer(bare), turns)
        for asks in (False, True):
            texts = [
                chat_tokenizer(template).apply_chat_template(
                    chat_messages(turns), tokenize=False, add_generation_prompt=asks
                )
                for template in (ours, theirs or bare)
            ]
            assert texts[0] == texts[1]


@pytest.mark.parametrize("name", ["llama3", "qwen2_5", "qwen3_instruct_2507", "phi3", "gemma", "lfm2"])
def test_labels_are_trls_where_it_has_marked_the_template(name):
    """TRL's masks hold what stands around an answer too, which no prompt asks for."""
    chosen = chat_tokenizer(getattr(trl_templates, f"{name}_chat_template"))
    marked = getattr(trl_templates, f"{name}_training_chat_template")
    ids, labels = TextChat(chosen).encode_text(chat_messages(TALK))
    theirs = chosen.apply_chat_template(
        chat_messages(TALK), chat_template=marked, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    assert ids[: len(theirs["input_ids"])] == theirs["input_ids"][: len(ids)]
    ours = [place for place, label in enumerate(labels) if label != IGNORE_INDEX]
    masked = [place for place, mask in enumerate(theirs["assistant_masks"]) if mask]
    assert set(ours) <= set(masked) and ours
    assert (
        not chosen.decode([ids[place] for place in masked if place not in ours]).replace("<|endoftext|>", "").strip()
    )


@pytest.mark.parametrize("template", [SMOLLM2_INSTRUCT, LLAMA3, QWEN, CHATML], ids=["smollm2", "llama3", "qwen", "ml"])
def test_text_that_looks_like_special_tokens_stays_text(template):
    chosen = chat_tokenizer(template)
    turns = [("user", HOSTILE), ("assistant", f"You said {HOSTILE}"), ("user", "x"), ("assistant", HOSTILE)]
    ids, labels = TextChat(chosen).encode_text(chat_messages(turns))
    plain, _ = TextChat(chosen).encode_text(chat_messages([(role, "plain") for role, _ in turns]))
    special = set(chosen.all_special_ids) | {chosen.convert_tokens_to_ids(token) for token in SPECIAL}
    assert [token for token in ids if token in special] == [token for token in plain if token in special]
    ends = [label for label in labels if label in special]
    assert ends == [chosen.convert_tokens_to_ids(TextChat(chosen).end_of_turn[1])] * 2
    trained = chosen.decode([label for label in labels if label != IGNORE_INDEX])
    assert trained.count(HOSTILE) == 2


@pytest.mark.parametrize("words", ["llama3", "gpt2"])
@pytest.mark.parametrize("template", [SMOLLM2_INSTRUCT, LLAMA3, CHATML], ids=["smollm2", "llama3", "chatml"])
def test_an_answer_is_trained_after_the_very_tokens_that_ask_for_it(template, words):
    """Whatever the texts begin and end with: a token over the border would never be met at inference."""
    chosen = chat_tokenizer(template)
    if words == "gpt2":
        chosen.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    draw = random.Random(0)
    for _ in range(60):
        roles = ("user", "assistant") * draw.randint(1, 3)
        messages = chat_messages([(role, "".join(draw.choices(ODD, k=5))) for role in roles])
        ids, labels = TextChat(chosen).encode_text(messages)
        prompt = chat_ids(chosen, messages[:-1])
        assert ids[: len(prompt)] == prompt
        assert labels[len(prompt)] != IGNORE_INDEX and labels[len(prompt) - 1] == IGNORE_INDEX
        rendered = chosen.apply_chat_template(messages, tokenize=False)
        assert chosen.decode(ids, clean_up_tokenization_spaces=False) == rendered


def test_parts_of_text_are_one_text():
    parts = [{"role": "user", "content": [{"type": "text", "text": "Who "}, {"type": "text", "text": "wrote it?"}]}]
    whole = chat_messages(TALK[:2])
    chat = TextChat(chat_tokenizer(CHATML))
    assert chat.encode_text([*parts, whole[1]]) == chat.encode_text(whole)


def test_reasoning_is_written_as_the_template_writes_it_or_refused():
    chosen = chat_tokenizer(trl_templates.qwen3_chat_template)
    assert labelled(chosen, TALK[:2]).endswith("assistant\n⟦<think>\n\n</think>\n\nNobody.<|im_end|>⟧\n")
    thinking = [TALK[0], ("assistant", "<think>\nHm.\n</think>\nNobody.")]
    assert labelled(chosen, thinking).endswith("assistant\n⟦<think>\nHm.\n</think>\n\nNobody.<|im_end|>⟧\n")
    with pytest.raises(ChatTemplateError, match=r"changes the answer in message 2 when more messages follow"):
        labelled(chosen, TALK)
    hostile = [("user", HOSTILE), thinking[1]]
    with pytest.raises(ChatTemplateError, match=r"message 1 holds '<\|im_end\|>', which would become"):
        labelled(chosen, hostile)
    assert chat_ids(chosen, chat_messages(TALK[:3])), "what cannot be trained on can be asked"


def test_answers_that_a_template_rewrites_are_trained_each_in_its_own_context():
    chosen = chat_tokenizer(trl_templates.qwen3_chat_template)
    chat = TextChat(chosen)
    talk = [TALK[0], ("assistant", "<think>\nHm.\n</think>\nNobody."), *TALK[2:]]
    assert rewrites_answers(chat) and not rewrites_answers(TextChat(chat_tokenizer(SMOLLM2_INSTRUCT)))
    turns = chat.encode_turns(chat_messages(talk))
    assert [shown(chosen, *turn[:2]) for turn in turns] == [
        "<|im_start|>user\nWho wrote it?<|im_end|>\n<|im_start|>assistant\n"
        "⟦<think>\nHm.\n</think>\n\nNobody.<|im_end|>⟧\n",
        "<|im_start|>user\nWho wrote it?<|im_end|>\n<|im_start|>assistant\nNobody.<|im_end|>\n"
        "<|im_start|>user\n And then?\n<|im_end|>\n<|im_start|>assistant\n"
        "⟦<think>\n\n</think>\n\nNothing new.<|im_end|>⟧\n",
    ]
    for (ids, labels, _), end in zip(turns, (2, 4)):
        theirs = chosen.apply_chat_template(chat_messages(talk[:end]), tokenize=True, return_dict=True)["input_ids"]
        assert ids == theirs
        prompt = chat_ids(chosen, chat_messages(talk[: end - 1]))
        assert ids[: len(prompt)] == prompt and labels[len(prompt)] != IGNORE_INDEX
    marked = [*chat_messages(talk)]
    marked[1]["trained"] = False
    assert chat.encode_turns(marked) == turns[1:]


DROPS_SYSTEM = CHATML.replace("{% else %}", "{% elif message['role'] == 'user' %}", 1)
NO_END = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
OTHER_PROMPT = SMOLLM2_INSTRUCT.replace("assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}")
LAST_ALONE = SMOLLM2_INSTRUCT.replace("+ message['content'] +", "+ (message['content'] if loop.last else '') +")


@pytest.mark.parametrize(
    ("template", "turns", "problem"),
    [
        (DROPS_SYSTEM, [("system", "Be brief."), *TALK], r"does not write message 1 \(system\)"),
        (NO_END, TALK, "contains no special token of the tokenizer"),
        (OTHER_PROMPT, TALK, "does not begin the answer in message 2 with its generation prompt"),
        (LAST_ALONE, TALK, "message"),
        (SMOLLM2_INSTRUCT, TALK[1:], "does not begin the answer"),
        (trl_templates.gemma_chat_template, [("system", "Be brief."), *TALK], "rejects .*: System role not supported"),
        ("{% for m in messages %}{{ m.content.nothing.at_all }}{% endfor %}", TALK, "rejects the messages"),
        ("{% if %}", TALK, "rejects the messages"),
        ("{% for i in range(1000000) %}{{ i }}{% endfor %}", TALK, "rejects the messages: Range too big"),
        ("{{ 1 // 0 }}", TALK, "rejects the messages: .*by zero"),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", TALK, "rejects .*: maximum recursion"),
    ],
    ids=[
        "dropped", "no end", "other prompt", "rewritten", "begins with an answer", "refused", "undefined", "syntax",
        "long range", "division", "recursion",
    ],
)  # fmt: skip
def test_what_cannot_be_labelled_exactly_is_refused(template, turns, problem):
    with pytest.raises(ChatTemplateError, match=problem):
        labelled(chat_tokenizer(template), turns)


def test_a_tokenizer_without_a_template_or_with_other_words_after_special_tokens_is_refused():
    with pytest.raises(ChatTemplateError, match="name one, such as chat_template"):
        TextChat(chat_tokenizer(None))
    prefixed = chat_tokenizer(CHATML)
    prefixed.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    with pytest.raises(ChatTemplateError, match="cannot be encoded exactly"):
        TextChat(prefixed).check()


def test_an_answer_ends_with_the_end_token_of_the_tokenizer_where_several_stand_together():
    template = SMOLLM2_INSTRUCT.replace("'<|im_end|>' + '\n'", "'<|END_RESPONSE|><|END_OF_TURN_TOKEN|>'")
    own = "<|END_OF_TURN_TOKEN|>"
    ends = {eos: TextChat(chat_tokenizer(template, eos)).end_of_turn[1] for eos in ("<|endoftext|>", own)}
    assert ends == {"<|endoftext|>": "<|END_RESPONSE|>", own: own}
    assert f"⟦Nobody.<|END_RESPONSE|>{own}⟧" in labelled(chat_tokenizer(template, own), TALK)
