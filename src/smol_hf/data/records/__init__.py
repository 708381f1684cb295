"""A record of a dataset or of a user's file → one `Conversation`.

Each module reads one family of record shapes; `adapt` finds the adapter that fits and runs it. A new shape is a
function with the decorator `adapter`. Another package adds one under the entry point group `smol_hf.adapters`.
Read `registry`, then `messages` (the most common shape), then any other.
"""

# Importing a module registers its adapters.
from smol_hf.data.records import captions, instructions, llava, messages, texts, videos  # noqa: F401
from smol_hf.data.records.registry import Place, adapt, adapter, find_adapter, known_adapters

__all__ = ["Place", "adapt", "adapter", "find_adapter", "known_adapters"]
