"""Write a conversation with a chat template, to see what the template does."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from smol_hf.processing.bounded_rendering import render_bounded


def write_chat(tokenizer: PreTrainedTokenizerBase, messages: list[dict], template: str) -> str:
    """What `template` writes of the messages, up to where the assistant is asked.

    Raises:
        FAULTS of `chat_format`: when the template refuses them.
        EndlessTemplateError: when the template does not end.
    """
    (text,), _ = render_bounded(
        conversations=[messages], chat_template=template, add_generation_prompt=True, **tokenizer.special_tokens_map
    )
    return text
