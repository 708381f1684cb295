"""The list of samples that were shortened to fit the context (see `shortening`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from smol_hf.support.sample_lists import append_entries, whole_lines


@dataclass
class ShortenedSamples:
    """The list of shortened samples, each once: `shortened.jsonl`. `keeps_earlier`: continue an earlier run's list."""

    path: Path | None = None
    keeps_earlier: bool = True
    writes: bool = True
    names: set[str] = field(default_factory=set)

    def __post_init__(self):
        if self.path is None or not self.path.exists():
            return
        if self.keeps_earlier:
            self.names |= {entry["sample"] for entry in whole_lines(self.path)}
            if self.writes and not self.path.read_bytes().endswith(b"\n"):
                with self.path.open("a", encoding="utf-8") as file:
                    file.write("\n")  # the last line was cut off
        elif self.writes:
            self.path.unlink(missing_ok=True)

    def note(self, samples: list[tuple[str, str]]) -> None:
        """Add (sample, lost parts) pairs."""
        new = [(name, lost) for name, lost in samples if name not in self.names]
        self.names |= {name for name, _ in new}
        if new and self.path is not None and self.writes:
            append_entries(self.path, ({"sample": name, "shortened": lost} for name, lost in new))
