"""Files of folders that others are to read."""

from __future__ import annotations

import os
from pathlib import Path


def give_usual_modes(folder: Path) -> None:
    """safetensors writes files that only their owner may read: a folder to be shared gets what any file would have."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~mask)
    folder.chmod(0o777 & ~mask)
