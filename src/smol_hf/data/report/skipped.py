"""The list of samples that were left out, with their reasons, and the limit that stops a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from smol_hf.data.conversation import KIND_OF, KINDS, FilteredOutError, LeftOutError, SampleError
from smol_hf.data.report.reasons import describe_sources
from smol_hf.support.atomic import atomic_file
from smol_hf.support.formatting import counted
from smol_hf.support.sample_lists import append_entries, line_of, whole_lines

SHOWN = 10
JUDGED_FROM = 100  # unusable samples, from which the share of a source without a survey is judged


@dataclass
class SkippedSamples:
    """Counters and names of samples that cannot be used.

    `policy` "stop" makes the first fault an error; "skip" leaves out faulty samples up to a limit. Too long and
    filtered samples are not faults: they are always left out and counted.

    With "skip", a run stops if

    - more than `max_fraction` of a source's samples are unusable (a single one never stops it, unless the limit is 0);
    - at least 100 samples of a source without a survey are, and more than `max_fraction` of its samples so far;
    - `max_in_a_row` samples are, without a usable one between them.

    `path`: the list, JSON lines. All processes count the same, and one `writes`. The list of an earlier run is
    replaced, unless this run resumes it (`keeps_earlier`) and counts its entries too. (Under "stop", they were mended,
    or stop this run again.)

    `gives_up`: a source without a usable sample is not read any more, so it does not stop the run.
    """

    policy: str = "stop"
    max_fraction: float = 0.01
    path: Path | None = None
    writes: bool = True
    keeps_earlier: bool = False
    max_in_a_row: int = 100
    gives_up: bool = False
    sizes: dict[str, int] = field(default_factory=dict)  # samples of each source, by its name
    surveyed: bool = False
    faults: list[SampleError] = field(default_factory=list)
    left_out: list[SampleError] = field(default_factory=list)
    earlier: list[SampleError] = field(default_factory=list)  # in the list, but not counted any more
    in_a_row: int = 0
    names: set[tuple[str, str]] = field(default_factory=set)
    drawn: Counter = field(default_factory=Counter)  # samples read by this process, by source
    drawn_bad: Counter = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.faults) + len(self.left_out)

    @property
    def total(self) -> int:
        return sum(self.sizes.values())

    def settle(self, sizes: Mapping[str, int], in_a_row: int = 0) -> None:
        """Judge the sources after a survey.

        Args:
            sizes: number of samples of each source, by its name.
            in_a_row: the most unusable samples that follow each other.

        Raises:
            SampleError: under "stop" for a fault, under "skip" for too many; and if no sample is left. It lists up to
                10 faults.
        """
        self.surveyed = True
        self.expect(sizes)
        faults = "\n".join(f"  {fault}" for fault in self.faults[:SHOWN])
        more = f"\n  … and {len(self.faults) - SHOWN} more" if len(self.faults) > SHOWN else ""
        if self.faults and self.policy == "stop":
            raise SampleError(
                "data",
                f"{len(self.faults)} of {counted(self.total, 'sample')} cannot be used:\n{faults}{more}\n"
                "Mend them, or leave them out with --on_bad_sample skip",
            )
        if self.total and len(self) == self.total:
            shown = [*self.faults[:SHOWN], *self.left_out[: max(SHOWN - len(self.faults), 1)]]
            longest = f"; {self.left_out_in_words()}" if self.left_out else ""
            reasons = "\n".join(f"  {each}" for each in shown)
            raise SampleError("data", f"none of {counted(self.total, 'sample')} can be used{longest}:\n{reasons}")
        for source in dict.fromkeys(fault.source for fault in self.faults):
            self.judge(source)
        if in_a_row >= self.max_in_a_row:
            raise self.too_many(f"{counted(in_a_row, 'sample')} in a row cannot be used")

    def expect(self, sizes: Mapping[str, int]) -> None:
        """Start a run over sources of these sizes. Without `settle`, they have no survey."""
        self.sizes = dict(sizes)
        if self.keeps_earlier:
            self.take_earlier()
        if self.writes:
            self.write()

    def note(self, used: int, faults: list[SampleError], drawn: Mapping[str, int] | None = None) -> None:
        """Count the results of some rows.

        Args:
            used: number of their samples.
            faults: of samples that were read for them; they are written at once.
            drawn: samples read from each source, with faulty ones.

        Raises:
            SampleError: under "stop" for a fault, under "skip" for too many.
        """
        bad = [fault for fault in faults if not isinstance(fault, LeftOutError)]
        self.drawn.update(drawn or {})
        self.drawn_bad.update(fault.source for fault in bad)
        for fault in faults:
            self.add(fault)
        for source in dict.fromkeys(fault.source for fault in bad):
            self.judge(source)
        self.in_a_row = 0 if used else self.in_a_row + len(bad)
        if self.in_a_row >= self.max_in_a_row:
            raise self.too_many(f"{counted(self.in_a_row, 'sample')} in a row cannot be used")

    def add(self, fault: SampleError) -> None:
        if (fault.source, fault.where) in self.known():
            return  # met again in a later epoch
        self.known().add((fault.source, fault.where))
        if self.path is not None and self.writes:
            append_entries(self.path, [entry_of(fault)])
        if isinstance(fault, LeftOutError):
            self.left_out.append(fault)
            return
        self.faults.append(fault)
        if self.policy == "stop":
            raise SampleError("data", f"{fault}\nMend it, or leave such samples out with --on_bad_sample skip")

    def judge(self, source: str) -> None:
        """Raise SampleError if too many samples of a source are unusable."""
        size = self.sizes.get(source, self.total)
        bad = sum(fault.source == source for fault in self.faults)
        drawn, drawn_bad = self.drawn[source], self.drawn_bad[source]
        if self.gives_up and not self.surveyed and drawn == drawn_bad:
            return
        name = f" of {source}" if source else ""
        limit = f"cannot be used, more than max_skipped_fraction {self.max_fraction}"
        if size and bad > (max(self.max_fraction * size, 1) if self.max_fraction else 0):
            raise self.too_many(f"{bad} of {counted(size, 'sample')}{name} {limit}")
        if not self.surveyed and drawn and drawn_bad >= JUDGED_FROM and drawn_bad > self.max_fraction * drawn:
            raise self.too_many(f"{drawn_bad} of the first {drawn} samples{name} {limit}")

    def too_many(self, problem: str) -> SampleError:
        seen = self.sizes if self.surveyed else self.drawn
        listed = "" if self.path is None else f"\nAll of them, by name: {self.path}"
        return SampleError("data", f"{problem}:\n{describe_sources(self.faults, seen)}{listed}")

    def known(self) -> set[tuple[str, str]]:
        """Return (source, name) of the counted samples: files of two sources may share a name."""
        if len(self.names) < len(self):
            self.names |= {(fault.source, fault.where) for fault in [*self.faults, *self.left_out]}
        return self.names

    def take_earlier(self) -> None:
        """Add the entries of an earlier run's list that this run has not found."""
        if self.path is None or not self.path.exists():
            return
        for entry in whole_lines(self.path):
            source = entry.get("source", "")
            if (source, entry["sample"]) not in self.known():
                fault = fault_of(entry)
                counted = self.earlier if self.policy == "stop" else self.faults
                (self.left_out if isinstance(fault, LeftOutError) else counted).append(fault)

    def write(self) -> None:
        if self.path is None:
            return
        lines = [line_of(entry_of(fault)) for fault in [*self.faults, *self.left_out, *self.earlier]]
        if lines:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(self.path) as file:  # other processes may be reading it
                file.write_text("".join(lines), encoding="utf-8")
        else:
            self.path.unlink(missing_ok=True)

    def summary(self) -> str:
        """Return one line for the log."""
        return f"{counted(len(self), 'sample')} left out: {len(self.faults)} unusable, {self.left_out_in_words()}"

    def left_out_in_words(self) -> str:
        filtered = sum(isinstance(each, FilteredOutError) for each in self.left_out)
        too_long = f"{len(self.left_out) - filtered} longer than the context"
        return f"{too_long}, {filtered} filtered out" if filtered else too_long


def entry_of(fault: SampleError) -> dict[str, str]:
    """Return the entry of a sample in the list."""
    kind = KIND_OF.get(type(fault), "unusable")
    return {"sample": fault.where, "reason": fault.problem, "kind": kind, "source": fault.source}


def fault_of(entry: Mapping[str, str]) -> SampleError:
    """Return the error of an entry of the list."""
    return KINDS[entry.get("kind", "unusable")](entry["sample"], entry["reason"], entry.get("source", ""))
