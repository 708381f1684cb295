"""Model keys of a recipe → a model. Read `composition`, then `parts` (freezing) and `lora`."""
