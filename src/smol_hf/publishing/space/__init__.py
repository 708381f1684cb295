"""The page of a model: a Gradio Space, on the Hub or served locally. Read `space`, then `local_app`."""
