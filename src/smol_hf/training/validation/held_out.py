"""The samples of a run over conversations that are validated on: a part of its sources, or other sources."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from typing import Any

from smol_hf.data.conversation import SampleError
from smol_hf.data.mixture.mixture import Data
from smol_hf.data.sources.source import Source
from smol_hf.data.stream.mixing import scaled_weights
from smol_hf.support.formatting import counted

PREFIX = "validation: "  # of the name of a source that is validated on


def is_held_out(name: str, fraction: float) -> bool:
    """Return True if the sample of this name is held out. A larger fraction holds out the same samples and others."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") < fraction * 2**64


class PartOfSource(Source):
    """The rows of a source that are held out, or the others. A row of the other part has no record.

    The names of samples decide, without the name of an entry of a mixture: two entries of one file hold out the same.

    Attributes:
        rows: number of records of this part, once they are counted.
    """

    rows: int | None = None

    def __init__(self, source: Source, fraction: float, held_out: bool):
        self.source, self.fraction, self.held_out = source, fraction, held_out
        self.name = PREFIX + source.name if held_out else source.name
        self.prefix, self.files = source.prefix, source.files
        self.block_sizes, self.rows_anywhere = source.block_sizes, source.rows_anywhere
        self.fingerprint = f"{source.fingerprint}:{'validation' if held_out else 'train'}:{fraction}"
        self.remote, self.revision = source.remote, source.revision

    def belongs(self, where: str) -> bool:
        return is_held_out(where.removeprefix(self.prefix), self.fraction) == self.held_out

    def read_block(self, block: int) -> list[tuple[str, Any]]:
        rows = self.source.read_block(block)
        return [(where, record if self.belongs(where) else None) for where, record in rows]

    def bytes_of(self, block: int) -> int:
        return self.source.bytes_of(block)

    @property
    def share(self) -> float:
        return self.fraction if self.held_out else 1 - self.fraction

    def __len__(self) -> int:
        """Return the number of records, or before they are counted the expected one."""
        return round(len(self.source) * self.share) if self.rows is None else self.rows

    @property
    def most_rows(self) -> int:
        """Return a number that the records exceed less than once in 30,000 times (4 standard deviations)."""
        spread = 4 * math.sqrt(len(self.source) * self.fraction * (1 - self.fraction))
        return min(len(self.source), math.ceil(len(self) + spread)) if self.rows is None else self.rows


def most_rows(source: Source) -> int:
    """Return the largest number of records that a source may have."""
    return source.most_rows if isinstance(source, PartOfSource) else len(source)


def without_held_out(data: Data, fraction: float, stopping: str) -> Data:
    """Return the data without the held-out samples of each source."""
    parts: list[Source] = [PartOfSource(source, fraction, held_out=False) for source in data.sources]
    weights = data.weights
    if data.entries:
        rows = [len(part) for part in parts]
        weights = scaled_weights(rows, [entry.weight_of(max(n, 1)) for entry, n in zip(data.entries, rows)], stopping)
    return replace(data, sources=parts, weights=weights)


def held_out_of(data: Data) -> Data:
    """Return the held-out samples of data that `without_held_out` returned. Each is used once."""
    parts: list[Source] = [
        PartOfSource(part.source, part.fraction, held_out=True)
        for part in data.sources
        if isinstance(part, PartOfSource)
    ]
    return Data(parts, list(data.readers), [1.0] * len(parts), data.surveyed)


def for_validation(data: Data) -> Data:
    """Return the data of `eval_data` or `eval_mixture` with the names of sources that are validated on."""
    for source in data.sources:
        source.name = PREFIX + source.name
    return Data(data.sources, data.readers, [1.0] * len(data.sources), data.surveyed)


def note_rows(data: Data) -> None:
    """Count the records of the parts of sources that a survey has read."""
    for source, names in data.found.rows.items():
        part = data.sources[source]
        if isinstance(part, PartOfSource):
            part.rows = sum(name is not None for name in names)


def keep_sources(validation: Data, names: set[str]) -> None:
    """Leave out the held-out samples of sources that the run leaves out. `names`: of the others."""
    kept = [n for n, source in enumerate(validation.sources) if source.name.removeprefix(PREFIX) in names]
    validation.found = validation.found.of_sources({old: new for new, old in enumerate(kept)})
    for name in ("sources", "readers", "weights"):
        setattr(validation, name, [getattr(validation, name)[each] for each in kept])


def usable_rows(data: Data, source: int) -> int:
    """Return the number of usable records of a source; without a survey, the expected number of records."""
    if not data.found.total:
        return len(data.sources[source])
    return sum(index == source and not isinstance(each, SampleError) for (index, _), each in data.found.found.items())


def describe_validation(data: Data, validation: Data | None, fraction: float) -> list[str]:
    """Return sentences about the samples that are validated on."""
    if validation is None:
        return []
    numbers = [usable_rows(validation, source) for source in range(len(validation.sources))]
    names = [source.name.removeprefix(PREFIX) for source in validation.sources]
    how = f" (eval_fraction {fraction})" if fraction else ""
    if not any(numbers):
        return [f"warning: no sample to validate on is usable{how}: nothing is validated"]
    about = "" if validation.found.total else "about "
    lines = [f"{about}{counted(sum(numbers), 'sample')} to validate on, of {', '.join(names)}{how}"]
    if empty := [name for name, number in zip(names, numbers) if not number]:
        lines.append(f"nothing of {', '.join(empty)} is validated on")
    trained = {source.fingerprint for source in data.sources}
    if same := [name for name, source in zip(names, validation.sources) if source.fingerprint in trained]:
        lines.append(f"{', '.join(same)} is also trained on: its validation loss says nothing about other samples")
    return lines
