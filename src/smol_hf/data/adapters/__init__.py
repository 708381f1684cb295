"""A record of a dataset or of a user's file → one `Conversation`.

Each module reads one shape of record; `adapt` finds the one that fits and runs it. A new shape is a function with the
decorator `adapter`, here or in another package that names it under the entry points `smol_hf.adapters`.
"""

# Importing a shape registers its adapters.
from smol_hf.data.adapters import (  # noqa: F401
    alpaca,
    captions,
    clips,
    finevideo,
    llava,
    messages,
    moviechat,
    prompt_completion,
    question_answer,
    texts,
)
from smol_hf.data.adapters.registry import Place, adapt, adapter, find_adapter, known_adapters

__all__ = ["Place", "adapt", "adapter", "find_adapter", "known_adapters"]
