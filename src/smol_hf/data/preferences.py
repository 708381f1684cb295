"""Preferences: two answers to one prompt, of which one is preferred, as DPO learns from them.

{"prompt"?: text | [message, …], "chosen": text | [message, …], "rejected": text | [message, …]}

With messages, `chosen` and `rejected` are the answers alone, or whole conversations that differ in their last message
(UltraFeedback's form, where `prompt` repeats what the user says). Texts are one exchange where the model has a chat
template, and otherwise a text and two continuations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from smol_hf.data.adapters.dialogue import list_of_objects, needed, role_of
from smol_hf.data.conversation import SampleError
from smol_hf.data.engine.preparation import LeftOutError, TooLongError
from smol_hf.data.engine.source import Source
from smol_hf.data.text_chat import ChatTemplateError, TextChat
from smol_hf.modeling.label_loss import IGNORE_INDEX

ANSWERS = ("chosen", "rejected")
COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")  # as TRL's DPOTrainer has them


@dataclass(frozen=True)
class Preference:
    """`prompt`: chat messages that the user ended, or the text to be continued."""

    prompt: list[dict[str, str]] | str
    chosen: str
    rejected: str


@dataclass
class Preferences:
    """The pairs of a source as token ids, and what could not be used."""

    rows: dict[str, list[np.ndarray]] = field(default_factory=lambda: {name: [] for name in COLUMNS})
    faults: list[SampleError] = field(default_factory=list)
    left_out: list[SampleError] = field(default_factory=list)
    longest_run: int = 0

    @property
    def total(self) -> int:
        return len(self.rows[COLUMNS[0]]) + len(self.faults) + len(self.left_out)


def read_preferences(source: Source, encoder: PreferenceEncoder) -> Preferences:
    """All pairs of a source, tokenised."""
    found, run = Preferences(), 0
    for where, record in records_of(source):
        try:
            if isinstance(record, SampleError):
                raise record
            ids = encoder.encode(where, preference_of(where, record, encoder.chat is not None))
            for name, column in found.rows.items():
                column.append(np.array(ids[name], dtype=np.int32))
            run = 0
        except SampleError as fault:
            fault.source = source.name
            is_fault = not isinstance(fault, LeftOutError)
            (found.faults if is_fault else found.left_out).append(fault)
            run = run + 1 if is_fault else 0
            found.longest_run = max(found.longest_run, run)
    return found


def records_of(source: Source) -> Iterator[tuple[str, Any]]:
    for block in range(len(source.block_sizes)):
        yield from ((where, record) for where, record in source.read_block(block) if record is not None)


def preference_of(where: str, record: Any, chats: bool) -> Preference:
    """The pair of a record.

    Args:
        chats: the model has a chat template, so that texts are what a user and an assistant say.

    Raises:
        SampleError: for one that lacks something, contradicts itself, or prefers nothing.
    """
    if not isinstance(record, dict):
        raise SampleError(where, f"a record is a JSON object, not {type(record).__name__}")
    given = {name: record.get(name) for name in ("prompt", *ANSWERS)}
    for name in ANSWERS:
        if given[name] is None:
            raise SampleError(where, f"needs the keys 'chosen' and 'rejected'; it has {sorted(map(str, record))}")
    prompt, kinds = given["prompt"], {type(given[name]) for name in ANSWERS}
    if kinds == {str} and isinstance(prompt, str):
        pair = Preference(
            [{"role": "user", "content": prompt}] if chats else prompt, given["chosen"], given["rejected"]
        )
    elif kinds == {str} and prompt is not None:
        pair = Preference(messages_of(prompt, "prompt", where), given["chosen"], given["rejected"])
    elif kinds == {list}:
        pair = of_conversations(where, prompt, *(messages_of(given[name], name, where) for name in ANSWERS))
    else:
        raise SampleError(where, "chosen and rejected must be two texts with a prompt, or two lists of messages")
    check(where, pair)
    return pair


def of_conversations(where: str, prompt: Any, chosen: list[dict], rejected: list[dict]) -> Preference:
    before = chosen[:-1]
    if before != rejected[:-1]:
        raise SampleError(where, "chosen and rejected must be the same but for their last message")
    if any(messages[-1]["role"] != "assistant" for messages in (chosen, rejected)):
        raise SampleError(where, "chosen and rejected must end with what the assistant says")
    if isinstance(prompt, str):
        asked = [message["content"] for message in before if message["role"] == "user"]
        if before and prompt not in asked:
            raise SampleError(where, "the prompt is none of what the user says in chosen")
        before = before or [{"role": "user", "content": prompt}]
    elif prompt is not None:
        prompt = messages_of(prompt, "prompt", where)
        if before and before[: len(prompt)] != prompt:
            raise SampleError(where, "chosen begins otherwise than the prompt")
        before = before or prompt
    return Preference(before, chosen[-1]["content"], rejected[-1]["content"])


def messages_of(value: Any, key: str, where: str) -> list[dict[str, str]]:
    """Messages of a role and a text each."""
    messages = []
    for number, turn in enumerate(list_of_objects(value, key, where), start=1):
        role, content = role_of(turn, "role", number, f"{where}, {key}"), needed(turn, "content", number, where)
        if isinstance(content, list) and all(
            isinstance(part, dict) and part.get("type") == "text" for part in content
        ):
            content = "".join(str(part.get("text", "")) for part in content)
        if not isinstance(content, str):
            raise SampleError(where, f"{key}, message {number}: 'content' must be text; DPO learns from nothing else")
        messages.append({"role": role, "content": content})
    return messages


def check(where: str, pair: Preference) -> None:
    if not pair.prompt or (isinstance(pair.prompt, str) and not pair.prompt.strip()):
        raise SampleError(where, "the prompt is empty")
    if not isinstance(pair.prompt, str) and pair.prompt[-1]["role"] != "user":
        raise SampleError(where, f"the prompt ends with what the {pair.prompt[-1]['role']} says, not the user")
    for name in ANSWERS:
        if not getattr(pair, name).strip():
            raise SampleError(where, f"{name} is empty")
    if pair.chosen.strip() == pair.rejected.strip():
        raise SampleError(where, "chosen and rejected are the same, so that nothing is preferred")


class PreferenceEncoder:
    """Pairs → the token ids that TRL's `DPOTrainer` reads. No text of a record becomes a special token, and none is
    cut.

    Args:
        max_length: most tokens of the prompt with either answer.

    Raises:
        ChatTemplateError: for a chat template that nothing can be trained with. ValueError: when nothing ends a text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int):
        self.tokenizer, self.max_length = tokenizer, max_length
        self.chat = TextChat(tokenizer) if tokenizer.chat_template is not None else None
        if self.chat is not None:
            self.chat.check()
        elif tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has neither a chat template nor a token that ends a text (eos_token)")

    def encode(self, where: str, pair: Preference) -> dict[str, list[int]]:
        """`prompt_ids`, `chosen_ids`, `rejected_ids`; answers end with the token that ends a turn or a text.

        Raises:
            SampleError: for what the chat template cannot write. TooLongError: for more than `max_length` tokens.
        """
        if isinstance(pair.prompt, str):
            prompt = self.tokenizer(pair.prompt, split_special_tokens=True)["input_ids"]
            answers = [self.continuation(pair.chosen), self.continuation(pair.rejected)]
        elif self.chat is None:
            raise SampleError(where, "holds messages, and the model has no chat template: name one (chat_template)")
        else:
            try:
                prompt = self.chat.prompt_ids(pair.prompt)
                answers = [self.answer(pair.prompt, prompt, text) for text in (pair.chosen, pair.rejected)]
            except ChatTemplateError as error:
                raise SampleError(where, str(error)) from error
        if answers[0] == answers[1]:
            raise SampleError(where, "chosen and rejected are the same tokens")
        length = len(prompt) + max(map(len, answers))
        if length > self.max_length:
            raise TooLongError(where, f"{length} tokens, more than max_length {self.max_length}")
        return dict(zip(COLUMNS, (prompt, *answers)))

    def continuation(self, text: str) -> list[int]:
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [*ids, self.tokenizer.eos_token_id]

    def answer(self, messages: list[dict], prompt: list[int], text: str) -> list[int]:
        """What the assistant generates after the prompt."""
        ids, labels = self.chat.encode_text([*messages, {"role": "assistant", "content": text}])
        end = max((place for place, label in enumerate(labels, start=1) if label != IGNORE_INDEX), default=0)
        if ids[: len(prompt)] != prompt or end <= len(prompt) or IGNORE_INDEX in labels[len(prompt) : end]:
            raise ChatTemplateError("the chat template writes the answer otherwise than it asks for it")
        return ids[len(prompt) : end]
