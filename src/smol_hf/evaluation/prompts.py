"""A conversation that waits for its answer → the inputs of the model, and the tokens of the right answer."""

from __future__ import annotations

from typing import Any

import torch
from transformers import BatchEncoding, DynamicCache
from transformers.cache_utils import DynamicLayer

from smol_hf.data.conversation import Conversation, ImagePart, SampleError, VideoPart
from smol_hf.data.media.images import load_image
from smol_hf.data.stream.preparation import template_messages
from smol_hf.inference.answering import left_padded, plain_ids, prompt_inputs
from smol_hf.inference.generation import end_tokens
from smol_hf.inference.media import refuse_text_only
from smol_hf.modeling.compatibility import CACHE_NAME
from smol_hf.support.tokenizer_of import is_language_model, padding_token_id, tokenizer_of
from smol_hf.text.chat import as_texts

IGNORED = -100


def only_continues(processor) -> bool:
    """Return True for a language model without a chat template: it continues the texts of the conversation."""
    return is_language_model(processor) and processor.chat_template is None


def messages_of(processor, conversation: Conversation) -> list[dict]:
    """Return the messages for `prompt_inputs`, with decoded images. Raises SampleError for media that cannot be shown.

    Videos are decoded with the prompt, by the processor.
    """
    messages, media = template_messages(conversation)
    refuse_text_only(processor, media, conversation.sample_id)
    shown = iter(media)
    for message in messages:
        message.pop("trained", None)
        for part in message["content"]:
            if part["type"] != "text":
                part |= shown_part(processor, next(shown), conversation.sample_id)
    return messages


def shown_part(processor, part: ImagePart | VideoPart, where: str) -> dict[str, Any]:
    if isinstance(part, ImagePart):
        return {"image": load_image(part, where)}
    times = {name: getattr(part, name) for name in ("start", "end") if getattr(part, name) is not None}
    if hasattr(processor, "video_sampling"):
        return {"video": part.content if part.path is None else part.path, **times}
    if getattr(processor, "video_processor", None) is None:
        raise SampleError(where, "has a video, but the processor of this model takes no videos: remove the row")
    if part.path is None or times:
        raise SampleError(where, "has a part of a video or its bytes: the processor of this model takes files only")
    return {"path": part.path}


def encode(processor, messages: list[list[dict]]) -> BatchEncoding:
    """Encode conversations as a left-padded batch on the CPU. Raises ValueError for one that cannot be encoded."""
    if only_continues(processor):
        return left_padded(processor, [plain_ids(processor, plain_text(each)) for each in messages], "cpu")
    return prompt_inputs(processor, messages, "cpu")


def plain_text(messages: list[dict]) -> str:
    return "\n".join(each["content"] for each in as_texts(messages))


def prompt_text(processor, conversation: Conversation) -> str:
    """Return the text of a prompt as the chat template writes it, with `<video>` for each video."""
    messages, _ = template_messages(conversation)
    for message in messages:
        message.pop("trained", None)
        parts = message["content"]
        message["content"] = [{"type": "text", "text": "<video>"} if p["type"] == "video" else p for p in parts]
    if only_continues(processor):
        return plain_text(messages)
    messages = as_texts(messages) if is_language_model(processor) else messages
    return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def answer_ids(model, processor, messages: list[dict], answer: str) -> list[int]:
    """Return the tokens of the right answer up to its end token, as the chat template writes it after the question.

    Empty if the template changes the question when an answer follows.
    """
    tokenizer = tokenizer_of(processor)
    if only_continues(processor):
        return list(tokenizer(answer, add_special_tokens=False, split_special_tokens=True)["input_ids"])
    texts = [{**each, "content": [part for part in each["content"] if part["type"] == "text"]} for each in messages]
    reply: dict = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    if is_language_model(processor):
        texts, [reply] = as_texts(texts), as_texts([reply])
    before = processor.apply_chat_template(texts, tokenize=False, add_generation_prompt=True)
    after = processor.apply_chat_template([*texts, reply], tokenize=False)
    if not after.startswith(before):
        return []
    ids = list(tokenizer(after[len(before) :], add_special_tokens=False)["input_ids"])
    ends = end_tokens(model, tokenizer)
    end = next((place for place, token in enumerate(ids, start=1) if token in ends), len(ids))
    return ids[:end]


def measures_answers(model) -> bool:
    """Return False for models whose positions have several dimensions: their answers have no loss here."""
    return not any(hasattr(each, "get_rope_index") for each in (model, getattr(model, "model", None)))


@torch.inference_mode()
def answer_losses(model, tokenizer, inputs: BatchEncoding, answers: list[list[int]], cache: Any = None) -> list[float]:
    """Return the loss of each right answer after its prompt, in nats, summed over its tokens.

    Args:
        inputs: a left-padded batch on the model's device.
        answers: the tokens of each answer.
        cache: that of the prompts and of tokens generated after them. If it can lose these tokens, the prompts are not
            read again. Its content is lost.
    """
    device, longest = inputs["input_ids"].device, max(map(len, answers))
    labels = torch.tensor([ids + [IGNORED] * (longest - len(ids)) for ids in answers], device=device)
    known = labels != IGNORED
    shape, more = inputs["input_ids"].shape, dict(inputs)
    for name, value in inputs.items():
        if isinstance(value, torch.Tensor) and value.shape == shape:  # also token types
            more[name] = torch.cat([value, value.new_zeros(labels.shape)], dim=1)
    more["input_ids"][:, shape[1] :] = torch.where(known, labels, padding_token_id(tokenizer))
    more["attention_mask"][:, shape[1] :] = known
    more["position_ids"] = (more["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    if cuts(cache, shape[1]):
        first = shape[1] - 1  # the last token of the prompt predicts the first one of the answer
        cache.crop(first - cache.get_seq_length())
        more = {
            "input_ids": more["input_ids"][:, first:],
            "attention_mask": more["attention_mask"],
            "position_ids": more["position_ids"][:, first:],
            CACHE_NAME: cache,
        }
    logits = model(**more, logits_to_keep=longest + 1, use_cache=CACHE_NAME in more).logits
    losses = torch.nn.functional.cross_entropy(
        logits[:, -longest - 1 : -1].flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return losses.view(labels.shape).double().sum(dim=1).tolist()


def cuts(cache, length: int) -> bool:
    """Return True if `cache` can be cut to fewer than `length` tokens, since each layer keeps exactly all tokens."""
    if not isinstance(cache, DynamicCache):
        return False
    layers = [layer for layer in cache.layers if type(layer) is DynamicLayer]
    if len(layers) < len(cache.layers):
        return False  # a layer with a sliding window or a state has lost earlier tokens
    sizes = {layer.get_seq_length() for layer in layers}
    return len(sizes) == 1 and min(sizes) >= length
