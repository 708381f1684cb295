"""`smol-hf serve`: serve the page of a Space on this machine."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from smol_hf.inference.answering import load_checkpoint
from smol_hf.publishing.space.space import plan_space


def serve_locally(
    checkpoint: str,
    *,
    revision: str | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    examples: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Serve the page of a checkpoint (a folder or a repository of the Hub) until Ctrl-C.

    Args:
        port: the first free port from 7860 on by default.
        share: serve at a public URL of Gradio too.
        examples: file of example prompts, or `none`; see `plan_space`.

    Raises:
        ValueError: if Gradio is missing, or the checkpoint cannot be loaded.
        OSError: if the port is in use.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ValueError('the page needs Gradio: pip install "smol_hf[demo]"')
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    with TemporaryDirectory(prefix="smol-hf-serve-") as folder:
        if Path(checkpoint).is_dir() and revision:
            raise ValueError(f"{checkpoint} is a folder: only a repository of the Hub has revisions")
        space = plan_space(checkpoint, revision=revision, examples=examples)
        if Path(checkpoint).is_dir() and any(Path(checkpoint).glob("*.safetensors")):
            load_checkpoint(checkpoint, trust_remote_code=trust_remote_code, device="cpu")  # refuses an unsound one
        sys.stdout.write(f"{space.note}\n")
        space.write(folder)
        sys.path.insert(0, folder)  # the app also runs without this package
        app = importlib.import_module("app")
        app.serve(space.settings, trust_remote_code=trust_remote_code, server_name=host, server_port=port, share=share)
