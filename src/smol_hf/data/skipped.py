"""The ledger of samples that were left out: each by name, with the reason."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from smol_hf.data.conversation import SampleError
from smol_hf.data.engine.preparation import FilteredOutError, LeftOutError

SHOWN = 10


@dataclass
class SkippedSamples:
    """Counts and names samples that cannot be used.

    `policy` "stop" makes the first call of `settle` an error when there is any fault in the data; "skip" leaves
    faulty samples out, up to `max_fraction` of all samples, those found damaged while training included. Samples
    longer than the context are no fault: they are always left out and counted. More than `max_in_a_row` faults with no
    good sample between them stop a run too: it is then the data that is wrong, not a sample.

    `path` is the ledger, JSON lines. With several processes each plans the same data, so only the one with
    `writes_plan` writes what the plan found; what is found while training is written by whoever finds it. The ledger
    of an earlier run in the same place is replaced, unless this run goes on with it (`keeps_earlier`).
    """

    policy: str = "stop"
    max_fraction: float = 0.1
    path: Path | None = None
    writes_plan: bool = True
    keeps_earlier: bool = False
    max_in_a_row: int = 100
    total: int = 0
    faults: list[SampleError] = field(default_factory=list)
    left_out: list[SampleError] = field(default_factory=list)
    in_a_row: int = 0
    names: set[str] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.faults) + len(self.left_out)

    def settle(self, total: int) -> None:
        """Decide after all `total` samples were looked at.

        Raises:
            SampleError: under "stop" when there is a fault, under "skip" when there are too many; and when nothing
                is left. Up to 10 faults are spelled out.
        """
        self.total = total
        if self.writes_plan:
            self.write()
        faults = "\n".join(f"  {fault}" for fault in self.faults[:SHOWN])
        more = f"\n  … and {len(self.faults) - SHOWN} more" if len(self.faults) > SHOWN else ""
        if self.faults and self.policy == "stop":
            raise SampleError(
                "data",
                f"{len(self.faults)} of {total} samples cannot be used:\n{faults}{more}\n"
                "Mend them, or leave them out with --on_bad_sample skip",
            )
        if len(self.faults) > self.max_fraction * total:
            raise SampleError(
                "data",
                f"{len(self.faults)} of {total} samples cannot be used, more than max_skipped_fraction "
                f"{self.max_fraction}:\n{faults}{more}",
            )
        if total and len(self) == total:
            shown = [*self.faults[:SHOWN], *self.left_out[: max(SHOWN - len(self.faults), 1)]]
            longest = f"; {self.left_out_in_words()}" if self.left_out else ""
            reasons = "\n".join(f"  {each}" for each in shown)
            raise SampleError("data", f"none of {total} samples can be used{longest}:\n{reasons}")

    def expect(self, total: int) -> None:
        """Begin a run over `total` records that nobody looked at before it."""
        self.total = total
        if self.writes_plan:
            self.write()

    def note(self, used: int, faults: list[SampleError]) -> None:
        """Take what a row of the run brought: samples that are used, and faults met on the way, in the file at once.

        Raises:
            SampleError: under "stop" for a fault, under "skip" when there are too many by now.
        """
        for fault in faults:
            self.add(fault)
        self.in_a_row = 0 if used else self.in_a_row + sum(not isinstance(fault, LeftOutError) for fault in faults)
        if self.in_a_row > self.max_in_a_row:
            shown = "\n".join(f"  {fault}" for fault in self.faults[-SHOWN:])
            raise SampleError("data", f"{self.in_a_row} samples in a row cannot be used, the last of them:\n{shown}")

    def add(self, fault: SampleError) -> None:
        if fault.where in self.known():
            return  # met again in a later epoch
        self.known().add(fault.where)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(self.line(fault))
        if isinstance(fault, LeftOutError):
            self.left_out.append(fault)
            return
        self.faults.append(fault)
        if self.policy == "stop":
            raise SampleError("data", f"{fault}\nMend it, or leave such samples out with --on_bad_sample skip")
        if self.total and len(self.faults) > self.max_fraction * self.total:
            raise SampleError(
                "data",
                f"{len(self.faults)} of {self.total} samples cannot be used, more than max_skipped_fraction "
                f"{self.max_fraction}; the last: {fault}",
            )

    def known(self) -> set[str]:
        if len(self.names) < len(self):
            self.names |= {fault.where for fault in [*self.faults, *self.left_out]}
        return self.names

    def write(self) -> None:
        if self.path is None:
            return
        lines = [self.line(fault) for fault in [*self.faults, *self.left_out]]
        if self.keeps_earlier and self.path.exists():
            earlier = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            lines += [line for line in earlier if line not in lines]
        if lines:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("".join(lines), encoding="utf-8")
        else:
            self.path.unlink(missing_ok=True)

    @staticmethod
    def line(fault: SampleError) -> str:
        return json.dumps({"sample": fault.where, "reason": fault.problem}, ensure_ascii=False) + "\n"

    def summary(self) -> str:
        """One line for the log."""
        return f"{len(self)} samples left out: {len(self.faults)} unusable, {self.left_out_in_words()}"

    def left_out_in_words(self) -> str:
        filtered = sum(isinstance(each, FilteredOutError) for each in self.left_out)
        too_long = f"{len(self.left_out) - filtered} longer than the context"
        return f"{too_long}, {filtered} filtered out" if filtered else too_long
