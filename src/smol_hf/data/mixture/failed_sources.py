"""Sources of a mixture that cannot be used. They are reported together, by name."""

from __future__ import annotations

from dataclasses import dataclass

from smol_hf.data.conversation import SampleError

ON_FAILED = ("stop", "reweight")


@dataclass(frozen=True)
class FailedSource:
    """A source that cannot be used. `records`: its planned records per round, if known."""

    name: str
    reason: str
    modality: str | None = None
    records: float | None = None


def refuse_failed(failed: list[FailedSource], total: int, on_failed: str) -> None:
    """Raise SampleError with every failed source, for "stop" and if none of `total` is left."""
    if not failed or (on_failed == "reweight" and len(failed) < total):
        return
    reasons = "\n".join(f"  {each.name}: {each.reason}" for each in failed)
    to_do = "Mend them" if len(failed) == total else "Mend them, or leave them out with --on_failed_source reweight"
    raise SampleError("mixture", f"{len(failed)} of {total} sources cannot be used:\n{reasons}\n{to_do}")


def refuse_disagreement(failed: list[list[str]]) -> None:
    """Raise SampleError if processes failed to open different sources: their mixtures would differ.

    Args:
        failed: names of the failed sources, for each process.
    """
    everywhere = set.intersection(*map(set, failed))
    for process, names in enumerate(failed):
        if some := sorted(set(names) - everywhere):
            problem = f"process {process} cannot use {', '.join(some)}, which other processes can: start the run again"
            raise SampleError("mixture", problem)


def other_failures(then: dict[str, str], now: dict[str, str]) -> list[str]:
    """List the changed failures between two runs of a mixture, by name and reason."""
    changed = [f"{name} failed then ({then[name]})" for name in then.keys() - now.keys()]
    return sorted([*changed, *(f"{name} fails now ({now[name]})" for name in now.keys() - then.keys())])
