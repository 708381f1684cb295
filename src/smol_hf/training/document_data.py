"""A recipe's documents → tokens to train on and tokens to validate on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState
from rich.console import Console

from smol_hf.data.conversation import SampleError
from smol_hf.data.mixture.mixture import Data
from smol_hf.data.report.skipped import SkippedSamples
from smol_hf.data.stream.stream import Plan
from smol_hf.support.formatting import compact, counted
from smol_hf.text.documents.document import Documents
from smol_hf.text.documents.held_out import HeldOut, Split
from smol_hf.text.documents.readers import open_documents, unescaped
from smol_hf.text.documents.records import Records
from smol_hf.text.documents.token_cache import TokenCache, caches_folder, tokenise
from smol_hf.text.documents.token_source import TokenSource, TokenWork
from smol_hf.training.log.console import ProgressLines
from smol_hf.training.recipe.data_arguments import DataArguments
from smol_hf.training.validation.measure import Validation

TOKENIZER_CHARACTERS = 50_000_000  # from which a recipe without a tokenizer gets one


@dataclass
class DocumentData:
    """Documents that are open but not tokenised yet."""

    documents: Documents
    validation: Documents | None
    held_out: HeldOut
    limit: int | None = None

    @classmethod
    def open(cls, arguments: DataArguments) -> DocumentData:
        """Open the documents of a recipe. Raises FileNotFoundError, SampleError, ValueError: see `open_documents`."""
        assert arguments.documents is not None
        read: dict[str, Any] = {"text_key": arguments.text_key}
        if arguments.document_separator is not None:
            read["separator"] = unescaped(arguments.document_separator)
        of_hub: dict[str, Any] = {
            "config": arguments.dataset_config, "split": arguments.dataset_split,
            "revision": arguments.dataset_revision, "download": arguments.dataset_download,
        }  # fmt: skip
        documents = open_documents(arguments.documents, **read, **of_hub)
        arguments.dataset_revision = documents.revision  # for the saved recipe
        if arguments.validation_documents is None:
            return cls(documents, None, HeldOut(arguments.validation_fraction), arguments.max_documents)
        validation = open_documents(arguments.validation_documents, **read)
        return cls(documents, validation, HeldOut(), arguments.max_documents)

    def texts(self) -> Iterator[str]:
        """Yield the texts to train a tokenizer on: the beginning of the documents, without the held-out part."""
        left = TOKENIZER_CHARACTERS
        for part in Split(self.documents, self.held_out, self.limit):
            if isinstance(part, SampleError):
                continue  # it is reported when it is tokenised
            with contextlib.suppress(SampleError):
                for chunk in part.chunks:
                    if not part.is_held_out:
                        yield chunk
                        left -= len(chunk)
                    if left <= 0:
                        return

    def tokenise(self, tokenizer, arguments: DataArguments, console: Console) -> TokenisedDocuments:
        """Tokenise the documents, or open their cache. Raises OSError, ValueError: see `token_cache.tokenise`."""
        writes = PartialState().is_local_main_process
        folder = caches_folder(arguments.documents_cache)

        def cache_of(documents: Documents, held_out: HeldOut, limit: int | None) -> TokenCache:
            lines = ProgressLines(console if writes else None)

            def progress(text_bytes: int, tokens: int) -> None:
                lines.show(
                    lambda _: f"tokenising {documents.name}: {text_bytes / 1e6:,.0f} MB, {compact(tokens)} tokens"
                )

            return tokenise(
                documents, tokenizer, held_out, folder=folder, limit=limit, writes=writes, progress=progress
            )

        train = cache_of(self.documents, self.held_out, self.limit)
        other = cache_of(self.validation, HeldOut(), None) if self.validation is not None else None
        ignored = sorted(self.documents.ignored()) if isinstance(self.documents, Records) else []
        assert arguments.context_length is not None  # it is known once the model is built
        return TokenisedDocuments(self.documents.name, train, other, arguments.context_length, ignored)


@dataclass
class TokenisedDocuments:
    """The token caches of a run's documents."""

    name: str
    cache: TokenCache
    validation_cache: TokenCache | None
    context_length: int
    ignored: list[str] = field(default_factory=list)  # unused fields of the records

    def settle(self, skipped: SkippedSamples) -> None:
        """Decide by the faults whether the run may begin. Raises SampleError, also for too little text."""
        caches = {self.name: self.cache}
        if self.validation_cache is not None:
            caches["validation"] = self.validation_cache
        skipped.faults = [fault for cache in caches.values() for fault in cache.faults]
        skipped.settle(
            {name: cache.records for name, cache in caches.items()}, max(cache.in_a_row for cache in caches.values())
        )
        tokens = self.cache.counts["train"].tokens
        if not tokens:
            raise SampleError(self.name, "holds no text to train on")
        if tokens < self.context_length:
            raise SampleError(
                self.name,
                f"its text has {tokens:,} tokens to train on, fewer than one context of {self.context_length:,}: "
                "lower context_length, or add text",
            )

    def data(self) -> Data:
        """Return the source of the part that is trained on."""
        return Data([self.source(self.cache, "train", self.name)], [None], [1.0], surveyed=False)

    def source(self, cache: TokenCache, part: str, name: str) -> TokenSource:
        """Return the source of one part of a cache."""
        return TokenSource(name, Path(cache.folder) / part, cache.key, cache.token_bytes, self.context_length)

    def held_out(self) -> tuple[TokenCache, str]:
        """Return the cache and its part that is validated on."""
        return (self.cache, "validation") if self.validation_cache is None else (self.validation_cache, "train")

    def validation(self) -> Validation | None:
        """Return the validation, or None if nothing is held out."""
        cache, part = self.held_out()
        if not cache.counts[part].documents:
            return None
        source = self.source(cache, part, "validation")
        plan = Plan([source], [1.0], TokenWork(), self.context_length, rounds=1, lanes=1, pool_size=1)
        return Validation([plan], cache.counts[part].text_bytes)

    def describe(self, skipped: SkippedSamples) -> list[str]:
        """Return sentences about the documents."""
        train = self.cache.counts["train"]
        size = f"{self.name}, {train.text_bytes / 1e6:,.1f} MB"
        count = f"{train.documents:,} document{'s' * (train.documents != 1)}"
        lines = [f"{train.tokens:,} tokens of {count} ({size}) to train on"]
        cache, part = self.held_out()
        held = cache.counts[part]
        if held.documents:
            predicted = held.tokens - held.documents  # nothing predicts the first token
            lines.append(f"{predicted:,} tokens ({held.text_bytes / 1e6:,.2f} MB) to validate on")
        else:
            lines.append("nothing is held out to validate on")
        if self.validation_cache is not None and self.validation_cache.key == self.cache.key:
            lines.append("these are the training documents: their loss says nothing about other texts")
        if self.ignored:
            lines.append(f"ignored fields of {self.name}: {', '.join(self.ignored)}")
        if self.cache.empty:
            lines.append(f"{counted(self.cache.empty, 'document', 'is/are')} empty")
        if len(skipped):
            lines.append(f"{skipped.summary()}, listed in {skipped.path}")
        return lines
