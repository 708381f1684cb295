"""Adapters in a user's file outside any package: `adapter: cards.py` or `adapter: cards.py:cards`."""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path

from smol_hf.data.records.registry import ADAPTERS, AdapterError

MODULE_PREFIX = "smol_hf_adapter_"  # of the names of their modules


def names_a_file(name: str) -> bool:
    return name.partition(":")[0].endswith(".py")


def adapter_of_file(name: str) -> str:
    """Run a file and return the name of the adapter that it registers. Raises AdapterError."""
    path, _, wanted = name.partition(":")
    registered = registered_by(str(Path(path).resolve()))
    if wanted and wanted not in registered:
        raise AdapterError(f"{path} registers {', '.join(registered) or 'no adapter'}, not {wanted!r}")
    if not wanted and len(registered) != 1:
        what = f"several ({', '.join(registered)}): name one as {path}:{registered[0]}" if registered else "none"
        raise AdapterError(f"{path} must register an adapter with the decorator smol_hf.data.records.adapter: {what}")
    return wanted or registered[0]


@functools.cache
def registered_by(path: str) -> tuple[str, ...]:
    """Run a file, once for each process, and return the names of its adapters."""
    if not Path(path).is_file():
        raise AdapterError(f"the adapter's file {path} does not exist")
    before = set(ADAPTERS)
    name = f"{MODULE_PREFIX}{Path(path).stem}"
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None and specification.loader is not None  # as for every .py file
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses and pickles look a module up by its name
    try:
        specification.loader.exec_module(module)
    except (SyntaxError, ImportError, NameError, AttributeError, TypeError, ValueError, LookupError, OSError) as error:
        for new in set(ADAPTERS) - before:
            del ADAPTERS[new]
        raise AdapterError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    return tuple(each for each in ADAPTERS if each not in before)
