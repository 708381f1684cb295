"""Questions for datasets with only answers. The wording for a sample is a function of its name."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

Choice = TypeVar("Choice")

PICTURE = (
    "Describe this picture.",
    "What is in this picture?",
    "What does this picture show?",
    "Say in a sentence what can be seen here.",
    "Write a caption for this picture.",
)
VIDEO = (
    "Describe this video.",
    "What happens in this video?",
    "What does this video show?",
    "Say what can be seen in this video.",
)
TIMELINE = (
    "List what happens in this video, with the times.",
    "What happens in this video, and when?",
    "Go through this video step by step, with the time of each step.",
)
SCRIPT = (
    "Write this clip down as a scene of a script.",
    "Describe this clip as a film crew would: title, shot, camera and content.",
    "What are the title, the type of shot, the movement of the camera and the content of this clip?",
)


def drawn(choices: Sequence[Choice], sample_id: str, purpose: str) -> Choice:
    """Draw one of the choices, always the same for a sample and `purpose`."""
    digest = hashlib.sha256(f"{purpose}\n{sample_id}".encode("utf-8", "backslashreplace")).digest()
    return choices[int.from_bytes(digest[:8], "big") % len(choices)]
