"""As in the tests of the model code: one thread, and quiet."""

from modeling.conftest import one_thread, processor, seed_and_silence, tokenizer  # noqa: F401
