"""`smol-hf compose`: an image encoder and a language model → one model. Read `compose`, then `parts`."""
