"""A question and its answer, perhaps about images: {"question": text, "answer": text, "image" | "images"?: image}.

`<image>` in the question marks the place of the next image; images that the question does not mark come first.
"""

from __future__ import annotations

from typing import Any

from smol_hf.data.adapters.fields import Fields
from smol_hf.data.adapters.messages import BESIDE, conversation_of, is_conversation
from smol_hf.data.adapters.registry import Place, adapter
from smol_hf.data.conversation import Conversation


def is_question_and_answer(record: dict[str, Any]) -> bool:
    return all(record.get(key) is not None for key in ("question", "answer")) and not is_conversation(record)


@adapter("question_answer", shape=is_question_and_answer, fields=("question", "answer", *BESIDE))
def read_question_answer(record: dict[str, Any], place: Place) -> Conversation:
    """A question and its answer, with or without images."""
    fields = Fields(record, place, "question_answer")
    turns = [
        {"role": "user", "content": fields.text("question")},
        {"role": "assistant", "content": fields.text("answer")},
    ]
    return conversation_of(record, turns, "question_answer", place)
