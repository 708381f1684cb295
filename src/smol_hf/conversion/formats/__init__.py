"""One module for each foreign format. Read `registry`, then `llama` (the simplest)."""
