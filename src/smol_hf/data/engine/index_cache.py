"""Where the records of a remote file stand, kept on this machine: a file is read through once, not at every start."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from typing import Any

from huggingface_hub import cached_assets_path

from smol_hf.data.engine.files import describe, is_remote
from smol_hf.support.atomic import atomic_file


def remembered(url: str, kind: str, build: Callable[[], Any]) -> Any:
    """What `build` gives (JSON) of a file elsewhere, which is read from this machine's cache the next time, as long as
    its store says that the file is the same. A file here is simply read.

    Args:
        kind: name of what is built, with its version.
    """
    facts = describe(url) if is_remote(url) else []
    if len(facts) < 2 or url.startswith("memory://"):
        return build()
    name = hashlib.sha256(json.dumps([kind, url, facts]).encode()).hexdigest()
    path = cached_assets_path("smol_hf", "index") / f"{name}.json"
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_text(encoding="utf-8"))
    built = build()
    # A full disk, or one that may not be written, is no reason to stop.
    with contextlib.suppress(OSError), atomic_file(path) as file:
        file.write_text(json.dumps(built), encoding="utf-8")
    return built
