"""Where a checkpoint is: a folder or file here, or a repository of the Hub, fetched."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from smol_hf.conversion.formats.tensor_names import ConversionError

# What a conversion reads: never code, and of weights only the two layouts of transformers.
WANTED = [
    "*.json", "*.txt", "*.jinja", "*.model", "model*.safetensors", "pytorch_model*.bin", "tokenizer*",
]  # fmt: skip


def locate(
    source: str, *, revision: str | None = None, token: str | None = None, local_files_only: bool = False
) -> Path:
    """The folder (or `.pt` file) that `source` names, after downloading it when it is a Hub id.

    Raises:
        ConversionError: when there is nothing here by that name and the Hub does not have or give it either.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise ConversionError(f"{source}: no such file or folder (and a Hub id has the form owner/name)")
    try:
        folder = snapshot_download(
            source, revision=revision, token=token, local_files_only=local_files_only, allow_patterns=WANTED
        )
    except LocalEntryNotFoundError as error:
        where = "in the local cache" if local_files_only else "here, and the Hub could not be reached"
        raise ConversionError(f"{source}: not found {where} ({error})") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ConversionError(f"{source}: the Hub did not give it: {error}") from error
    return Path(folder)
