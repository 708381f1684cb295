"""Sources that a mixture names and that cannot be used: all of them are reported together, by name."""

from __future__ import annotations

from dataclasses import dataclass

from smol_hf.data.conversation import SampleError

ON_FAILED = ("stop", "reweight")


@dataclass(frozen=True)
class FailedSource:
    """`records`: what it should have given in a round, where that is known."""

    name: str
    reason: str
    modality: str | None = None
    records: float | None = None


def refuse_failed(failed: list[FailedSource], total: int, on_failed: str) -> None:
    """Raises SampleError, naming every failed source, under "stop" and where none of `total` is left."""
    if not failed or (on_failed == "reweight" and len(failed) < total):
        return
    reasons = "\n".join(f"  {each.name}: {each.reason}" for each in failed)
    to_do = "Mend them" if len(failed) == total else "Mend them, or leave them out with --on_failed_source reweight"
    raise SampleError("mixture", f"{len(failed)} of {total} sources cannot be used:\n{reasons}\n{to_do}")


def refuse_disagreement(failed: list[list[str]]) -> None:
    """Raises SampleError where processes do without different sources: they would not train on the same mixture.

    Args:
        failed: names of the failed sources, for each process.
    """
    everywhere = set.intersection(*map(set, failed))
    for process, names in enumerate(failed):
        if some := sorted(set(names) - everywhere):
            problem = f"process {process} cannot use {', '.join(some)}, which other processes can: start the run again"
            raise SampleError("mixture", problem)


def other_failures(then: dict[str, str], now: dict[str, str]) -> list[str]:
    """What changed between two runs of a mixture, by name and reason."""
    changed = [f"{name} failed then ({then[name]})" for name in then.keys() - now.keys()]
    return sorted([*changed, *(f"{name} fails now ({now[name]})" for name in now.keys() - then.keys())])
