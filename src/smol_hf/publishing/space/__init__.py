"""The page of a model: a Gradio Space, also served locally. Read `space`, then `examples`."""
