"""Open the sources of a recipe's data keys: one or a mixture, to train on or to validate on."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

from smol_hf.data.conversation import Conversation, SampleError
from smol_hf.data.digits import EMBEDDED
from smol_hf.data.mixture.mixture import Data, MixtureEntry, can_be_surveyed, open_mixture, parse_entries
from smol_hf.data.sources.source import MadeSource
from smol_hf.training.recipe.data_arguments import DataArguments
from smol_hf.training.validation.held_out import for_validation, held_out_of


def open_validation(data: Data, arguments: DataArguments, seed: int) -> Data | None:
    """Open the samples that are validated on, or return None. Raises FileNotFoundError, SampleError, ValueError.

    Args:
        data: that `open_data` returned.
    """
    if arguments.eval_fraction:
        return held_out_of(data)
    if arguments.eval_data is not None:
        with of_key("eval_data"):
            return for_validation(open_one(arguments, entry_of(arguments, arguments.eval_data), seed))
    if arguments.eval_mixture is not None:
        with of_key("eval_mixture"):
            found = open_entries(arguments, arguments.eval_mixture, seed)
        arguments.eval_mixture = with_revisions(arguments.eval_mixture, found)
        return for_validation(found)
    return None


@contextlib.contextmanager
def of_key(key: str) -> Iterator[None]:
    """Name the key whose sources cannot be opened."""
    try:
        yield
    except SampleError as error:
        where = key if error.where == "mixture" else f"{key}, {error.where}"
        raise SampleError(where, error.problem) from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{key}: {error}") from error


def open_entries(arguments: DataArguments, entries: list[dict[str, Any]], seed: int) -> Data:
    """Open the sources of a mixture."""
    named = {entry.data for entry in parse_entries(entries)}
    return open_mixture(
        entries,
        arguments.stopping,
        on_failed=arguments.on_failed_source,
        data_root=arguments.data_root,
        max_image_bytes=arguments.max_image_bytes,
        embedded={name: embedded(name, arguments, seed) for name in EMBEDDED if name in named},
    )


def open_one(arguments: DataArguments, entry: MixtureEntry, seed: int) -> Data:
    """Open a single source."""
    if entry.data in EMBEDDED:
        return Data([embedded(entry.data, arguments, seed)], [None], [1.0], surveyed=False)
    source, reader = entry.open(max_image_bytes=arguments.max_image_bytes)
    return Data([source], [reader], [1.0], surveyed=can_be_surveyed([source]))


def entry_of(arguments: DataArguments, data: str | None = None) -> MixtureEntry:
    """Return `data` as an entry of a mixture; None: the recipe's data, with its keys of the Hub."""
    of_hub = {
        "config": arguments.dataset_config, "split": arguments.dataset_split,
        "revision": arguments.dataset_revision, "download": arguments.dataset_download,
    }  # fmt: skip
    return MixtureEntry(
        arguments.data if data is None else data,
        adapter=arguments.adapter,
        filters=arguments.filters or {},
        ignore_fields=arguments.ignore_fields,
        image_folder=arguments.image_folder,
        **(of_hub if data is None else {}),
    )


def with_revisions(mixture: list[dict[str, Any]], data: Data) -> list[dict[str, Any]]:
    """Return the entries with the opened commit of each dataset of the Hub."""
    entries = parse_entries(mixture)
    opened = {entries.index(entry): source.revision for entry, source in zip(data.entries, data.sources)}
    return [
        {**keys, "revision": opened[number]} if opened.get(number) else keys for number, keys in enumerate(mixture)
    ]


def embedded(name: str, arguments: DataArguments, seed: int) -> MadeSource:
    """Return the source of embedded digits of this name. Raises ValueError for an unusable page size."""
    facts = {"seed": seed, "page_size": arguments.page_size, "turns": arguments.turns_per_page}

    def make(number: int) -> tuple[str, Conversation]:
        conversation = EMBEDDED[name](first=number, **facts)
        return conversation.sample_id, conversation

    make(0)  # raises before the run
    kind = () if name == "digits" else (name,)  # older runs of digits resume
    print_of = hashlib.sha256(repr((arguments.num_pages, facts, *kind)).encode()).hexdigest()
    return MadeSource(name, arguments.num_pages, make, fingerprint=print_of)
