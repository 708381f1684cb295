"""Preferences as token ids, for DPO: a prompt, a preferred answer and a rejected one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from smol_hf.data.conversation import LeftOutError, SampleError, TooLongError
from smol_hf.data.records.turn_keys import TOO_DEEP, without_fields
from smol_hf.data.sources.source import Source
from smol_hf.modeling.label_loss import IGNORE_INDEX
from smol_hf.processing.chat_format import ChatTemplateError, untrained
from smol_hf.text.chat import TextChat
from smol_hf.text.preference_records import Preference, preference_of

COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")  # as TRL's DPOTrainer has them


@dataclass
class Preferences:
    """The pairs of a source as token ids, and its unusable records."""

    rows: dict[str, list[np.ndarray]] = field(default_factory=lambda: {name: [] for name in COLUMNS})
    faults: list[SampleError] = field(default_factory=list)
    left_out: list[SampleError] = field(default_factory=list)
    longest_run: int = 0
    ignored: Counter[str] = field(default_factory=Counter)  # number of pairs by unused field

    @property
    def usable(self) -> int:
        return len(self.rows[COLUMNS[0]])

    @property
    def total(self) -> int:
        return self.usable + len(self.faults) + len(self.left_out)


def read_preferences(source: Source, encoder: PreferenceEncoder, ignore_fields: Sequence[str] = ()) -> Preferences:
    """Tokenise all pairs of a source. The records are read without the fields `ignore_fields`."""
    unread = frozenset(ignore_fields)
    found, run = Preferences(), 0
    for where, record in source.all_rows():
        if record is None:
            continue
        try:
            if isinstance(record, SampleError):
                raise record
            try:
                pair = preference_of(where, without_fields(record, unread), encoder.chat is not None)
            except RecursionError as error:
                raise SampleError(where, TOO_DEEP) from error
            ids = encoder.encode(where, pair)
            found.ignored.update(dict.fromkeys(pair.ignored, 1))
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


class PreferenceEncoder:
    """Pairs → the token ids that TRL's `DPOTrainer` reads. No text becomes a special token, and none is cut.

    Args:
        max_length: most tokens of the prompt with either answer.

    Raises:
        ChatTemplateError: for a chat template that cannot be trained with.
        ValueError: if no token ends a text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int):
        self.tokenizer, self.max_length = tokenizer, max_length
        self.chat = TextChat(tokenizer) if tokenizer.chat_template is not None else None
        if self.chat is not None:
            self.chat.check()
        elif tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has neither a chat template nor a token that ends a text: set eos_token")

    def encode(self, where: str, pair: Preference) -> dict[str, list[int]]:
        """Return `prompt_ids`, `chosen_ids` and `rejected_ids`. Answers end with the token that ends a turn or a text.

        Raises:
            SampleError: if the chat template cannot write it. TooLongError: for more than `max_length` tokens.
        """
        if isinstance(pair.prompt, str):
            prompt = self.tokenizer(pair.prompt, split_special_tokens=True)["input_ids"]
            answers = [self.continuation(pair.chosen), self.continuation(pair.rejected)]
        elif self.chat is None:
            raise SampleError(where, "holds messages, but the model has no chat template: name one (chat_template)")
        else:
            try:
                prompt = self.chat.prompt_ids(pair.prompt, pair.tools)
                contents = ((pair.chosen, pair.chosen_fields), (pair.rejected, pair.rejected_fields))
                messages = ({"role": "assistant", "content": text, **fields} for text, fields in contents)
                answers = [self.answer(self.chat, pair, prompt, message) for message in messages]
            except ChatTemplateError as error:
                raise SampleError(where, str(error)) from error
        if answers[0] == answers[1]:
            raise SampleError(where, "chosen and rejected are the same tokens")
        length = len(prompt) + max(map(len, answers))
        if length > self.max_length:
            raise TooLongError(where, f"{length} tokens, more than max_length {self.max_length}")
        return dict(zip(COLUMNS, (prompt, *answers)))

    def continuation(self, text: str) -> list[int]:
        end: Any = self.tokenizer.eos_token_id
        ids: Any = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [*ids, end]

    def answer(self, chat: TextChat, pair: Preference, prompt: list[int], message: dict) -> list[int]:
        """Return the tokens that the assistant generates after the prompt. Raises ChatTemplateError."""
        [(ids, labels, _)] = chat.encode_turns([*untrained(pair.prompt), message], tools=pair.tools)
        end = max((place for place, label in enumerate(labels, start=1) if label != IGNORE_INDEX), default=0)
        if ids[: len(prompt)] != prompt or end <= len(prompt) or IGNORE_INDEX in labels[len(prompt) : end]:
            raise ChatTemplateError("the chat template writes an answer differently from its generation prompt")
        return ids[len(prompt) : end]
