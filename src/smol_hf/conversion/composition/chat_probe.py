"""Render messages with a chat template, to see what the template does."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from smol_hf.processing.chat_rendering import render_bounded


def write_chat(tokenizer: PreTrainedTokenizerBase, messages: list[dict], template: str) -> str:
    """Render the messages and the generation prompt.

    Raises:
        FAULTS of `chat_format`: when the template refuses them.
        EndlessTemplateError: when the template does not end.
    """
    arguments = {**tokenizer.special_tokens_map, "conversations": [messages], "chat_template": template}
    (text,), _ = render_bounded(add_generation_prompt=True, **arguments)
    return text
