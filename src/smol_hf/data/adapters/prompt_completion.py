"""A prompt and its completion, as TRL has them: {"prompt": text | [message, …], "completion": text | [message, …]}.

Messages may be a JSON string; those of a completion then begin with the assistant's.
Only the completion is trained: answers of the assistant inside the prompt are context.
"""

from __future__ import annotations

from typing import Any

from smol_hf.data.adapters.dialogue import list_of_objects, messages_in
from smol_hf.data.adapters.fields import Fields
from smol_hf.data.adapters.messages import BESIDE, conversation_of, is_conversation
from smol_hf.data.adapters.registry import Place, adapter
from smol_hf.data.conversation import Conversation


def is_prompt_and_completion(record: dict[str, Any]) -> bool:
    return all(record.get(key) is not None for key in ("prompt", "completion")) and not is_conversation(record)


@adapter("prompt_completion", shape=is_prompt_and_completion, fields=("prompt", "completion", *BESIDE))
def read_prompt_completion(record: dict[str, Any], place: Place) -> Conversation:
    """A prompt and its completion, each a text or chat messages."""
    fields = Fields(record, place, "prompt_completion")
    prompt = [{**turn, "train": False} for turn in turns_of(fields, "prompt", "user")]
    return conversation_of(record, prompt + turns_of(fields, "completion", "assistant"), "prompt_completion", place)


def turns_of(fields: Fields, key: str, role: str) -> list[dict[str, Any]]:
    value = messages_in(fields.given(key), first=None if role == "user" else role)
    if isinstance(value, str):
        return [{"role": role, "content": fields.text(key)}]
    return list_of_objects(value, key, fields.place.where)
