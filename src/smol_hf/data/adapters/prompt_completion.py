"""A prompt and its completion, as TRL has them: {"prompt": text | [message, …], "completion": text | [message, …]}.

Messages may be a JSON string; those of a completion then begin with the assistant's.
Only the completion is trained: answers of the assistant inside the prompt are context, whatever their marks say.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from smol_hf.data.adapters.dialogue import messages_in
from smol_hf.data.adapters.fields import Fields, list_of_objects
from smol_hf.data.adapters.messages import BESIDE, conversation_of, is_conversation
from smol_hf.data.adapters.registry import Place, adapter
from smol_hf.data.adapters.turn_keys import TRAIN_KEYS
from smol_hf.data.conversation import Conversation


def is_prompt_and_completion(record: dict[str, Any]) -> bool:
    return all(record.get(key) is not None for key in ("prompt", "completion")) and not is_conversation(record)


@adapter("prompt_completion", shape=is_prompt_and_completion, fields=("prompt", "completion", *BESIDE))
def read_prompt_completion(record: dict[str, Any], place: Place) -> Conversation:
    """A prompt and its completion, each a text or chat messages."""
    fields = Fields(record, place, "prompt_completion")
    prompt = turns_of(fields, "prompt", "user")
    marks = tuple(f"prompt[].{key}" for key in TRAIN_KEYS if any(turn.get(key) for turn in prompt))
    unmarked = [{key: turn[key] for key in turn if key not in TRAIN_KEYS} for turn in prompt]
    turns = [{**turn, "train": False} for turn in unmarked] + turns_of(fields, "completion", "assistant")
    conversation = conversation_of(record, turns, "prompt_completion", place)
    return replace(conversation, ignored=(*conversation.ignored, *marks))


def turns_of(fields: Fields, key: str, role: str) -> list[dict[str, Any]]:
    value = messages_in(fields.given(key), first=None if role == "user" else role)
    if isinstance(value, str):
        return [{"role": role, "content": fields.text(key)}]
    return list_of_objects(value, key, fields.place.where)
