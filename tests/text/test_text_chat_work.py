"""Conversations of a text-only model in the data stream: sequences, contexts, faults."""

import pickle

import pytest
from chat_models import SMOLLM2_INSTRUCT, TALK, chat_tokenizer, shown
from trl import chat_template_utils as trl_templates

from smol_hf.data.collator import SmolCollator
from smol_hf.data.conversation import Conversation, ImagePart, Message, SampleError, TextPart, TooLongError
from smol_hf.data.stream.preparation import SampleWork
from smol_hf.modeling.label_loss import IGNORE_INDEX
from smol_hf.text.chat import TextChat, TextChatWork
from smol_hf.training.model.chat_template import CHATML


def conversation(turns, *parts):
    messages = [Message(role, (TextPart(text),)) for role, text in turns]
    return Conversation("chat.jsonl:1", (Message(messages[0].role, (*parts, *messages[0].parts)), *messages[1:]))


@pytest.mark.parametrize("packing", [True, False])
def test_the_sequences_of_a_conversation_do_not_see_each_other(packing):
    chosen = chat_tokenizer(trl_templates.qwen3_chat_template)
    work = TextChatWork(TextChat(chosen), 512, [None])
    sample = pickle.loads(pickle.dumps(work)).prepare(0, "chat.jsonl:1", conversation(TALK))
    single = work.prepare(0, "chat.jsonl:2", conversation(TALK[:2]))
    units = [*sample.units, *single.units]
    lengths = [unit.num_tokens for unit in units]
    assert len(lengths) == 3 and sum(lengths[:2]) == sample.num_tokens
    batch = SmolCollator(chosen, packing=packing)([work.encode(0, unit) for unit in units])
    if packing:
        assert batch["position_ids"][0].tolist() == [place for length in lengths for place in range(length)]
    else:
        assert batch["attention_mask"].sum(1).tolist() == lengths
    starts = batch["labels"][0][batch["position_ids"][0] == 0] if packing else batch["labels"][:, 0]
    assert starts.tolist() == [IGNORE_INDEX] * 3
    assert (batch["labels"] != IGNORE_INDEX).sum() == sum(label != IGNORE_INDEX for label in sample.labels) + sum(
        label != IGNORE_INDEX for label in single.labels
    )
    work.context_length = lengths[1]
    assert work.prepare(0, "chat.jsonl:1", conversation(TALK)).num_tokens > lengths[1]
    work.context_length -= 1
    with pytest.raises(
        TooLongError, match=rf"{lengths[1]} tokens in sequence 2 of 2 \(one for each answer\), more than"
    ):
        work.prepare(0, "chat.jsonl:1", conversation(TALK))
    work.too_long = ["turns"]
    shorter = work.prepare(0, "chat.jsonl:1", conversation(TALK))
    assert shorter.lost == "1 of 2 turns" and shorter.num_tokens == lengths[0]


def test_the_engine_takes_it_for_a_processor():
    work = TextChatWork(TextChat(chat_tokenizer(CHATML)), 512, [None], too_long=["turns"])
    work = pickle.loads(pickle.dumps(work)).with_readers([None])
    assert isinstance(work, SampleWork)
    sample = work.prepare(0, "chat.jsonl:1", conversation(TALK))
    ready = work.encode(0, sample)
    assert shown(work.processor.tokenizer, ready.input_ids.tolist(), ready.labels.tolist()).count("⟦") == 2
    assert not len(ready.tiles) and not sample.num_tiles
    work.context_length = sample.num_tokens - 1
    shorter = work.prepare(0, "chat.jsonl:1", conversation(TALK))
    assert shorter.lost == "1 of 2 turns" and shorter.num_tokens < work.context_length
    work.context_length = 5
    with pytest.raises(TooLongError):
        work.prepare(0, "chat.jsonl:1", conversation(TALK))


def test_a_picture_and_a_refused_conversation_are_faults_of_their_sample():
    work = TextChatWork(TextChat(chat_tokenizer(SMOLLM2_INSTRUCT)), 512, [None])
    with pytest.raises(SampleError, match=r"chat\.jsonl:1: has an image, but the model is text-only"):
        work.prepare(0, "", conversation(TALK, ImagePart(content=b"")))
    with pytest.raises(SampleError, match=r"chat\.jsonl:1: the chat template does not begin the answer in message 1"):
        work.prepare(0, "", conversation([("assistant", "Hello."), *TALK]))
