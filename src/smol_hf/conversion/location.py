"""Locate a checkpoint: a local folder or file, or a repository of the Hub, which is downloaded."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from smol_hf.conversion.formats.tensor_names import ConversionError

# Files that a conversion reads: no code, and only weights in the two layouts of transformers.
WANTED = [
    "*.json", "*.txt", "*.jinja", "*.model", "model*.safetensors", "pytorch_model*.bin", "tokenizer*",
]  # fmt: skip


def locate(
    source: str, *, revision: str | None = None, token: str | None = None, local_files_only: bool = False
) -> Path:
    """Return the folder (or `.pt` file) that `source` names. A Hub id is downloaded first.

    Raises:
        ConversionError: if neither a local file nor the Hub provides it.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise ConversionError(f"{source}: no such file or folder (a Hub id has the form owner/name)")
    try:
        folder = snapshot_download(
            source, revision=revision, token=token, local_files_only=local_files_only, allow_patterns=WANTED
        )
    except LocalEntryNotFoundError as error:
        where = "in the local cache" if local_files_only else "here, and the Hub could not be reached"
        raise ConversionError(f"{source}: not found {where} ({error})") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ConversionError(f"{source}: cannot be downloaded from the Hub: {error}") from error
    return Path(folder)
