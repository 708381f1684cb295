"""Data of text-only models. Read `documents/` (pretraining), `tokenizer_training`, `chat` and `preferences`."""
