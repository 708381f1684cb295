"""Entries of the log in words. A run and `smol-hf runs show --follow` print the same lines. It imports no library."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from smol_hf.support.formatting import compact, counted, duration

SOURCES_SHOWN = 12
SAMPLES_SHOWN = 3
IN_THE_LINE = tuple(f"eval_{name}" for name in ("loss", "perplexity", "bits_per_byte", "tokens", "seconds", "answers"))


def lines_of(entry: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of an entry of the log: of a step, and of a validation."""
    if "loss" in entry:
        yield progress(entry)
    if "eval_loss" in entry:
        yield validated(entry)


def progress(entry: dict[str, Any]) -> str:
    """Return the line of a step. `max_steps` and `seconds_left` are missing in entries of a run before it resumed."""
    steps = entry.get("max_steps")
    step = f"step {entry.get('step', 0):>{len(str(steps))}}/{steps}" if steps else f"step {entry.get('step', 0)}"
    parts = [step, f"loss {number(entry['loss'])}", *margins(entry)]
    rates = [f"{part} {entry[key]:.1e}" for part in ("vision", "connector", "text") if (key := rate_of(part)) in entry]
    if not rates and "learning_rate" in entry:
        rates = [f"{entry['learning_rate']:.1e}"]
    parts += [f"lr {'  '.join(rates)}"] if rates else []
    if "tokens_per_second" in entry:
        trained = entry.get("trained_token_fraction")
        share = "" if trained is None else f" ({trained:.0%} trained)"
        parts.append(f"{compact(round(entry['tokens_per_second']))} tokens/s{share}")
    if "samples_per_second" in entry:
        parts.append(f"{entry['samples_per_second']:.1f} samples/s")
    if "seconds_left" in entry:
        parts.append(f"{duration(entry['seconds_left'])} left")
    if spikes := entry.get("total_spikes"):
        parts.append(counted(spikes, "spike"))
    for noun in ("step", "sample"):
        if skipped := entry.get(f"total_skipped_{noun}s"):
            parts.append(f"{counted(skipped, noun)} skipped")
    return "  ".join(parts) + losses_in_words(entry) + given_up_in_words(entry)


def rate_of(part: str) -> str:
    return f"learning_rate_{part}"


def margins(entry: dict[str, Any], prefix: str = "") -> list[str]:
    """Return how far apart preferred and rejected answers are, if the entry is of such a run."""
    if (margin := entry.get(f"{prefix}rewards/margins")) is None:
        return []
    return [f"margin {margin:.4f}", f"chosen preferred {entry[f'{prefix}rewards/accuracies']:.0%}"]


def validated(entry: dict[str, Any]) -> str:
    """Return the line of a validation, and the values of its sources."""
    line = f"step {entry.get('step', 0)}  validation loss {number(entry['eval_loss'])}"
    if apart := margins(entry, "eval_"):
        return "  ".join([line, *apart])
    scores = {name[5:]: value for name, value in entry.items() if name.startswith("eval_") and name not in IN_THE_LINE}
    parts = [line]
    if "eval_perplexity" in entry:
        parts.append(f"perplexity {number(entry['eval_perplexity'], 2)}")
    if "eval_bits_per_byte" in entry:
        parts.append(f"{number(entry['eval_bits_per_byte'])} bits per byte")
    if "eval_tokens" in entry:
        parts.append(f"({entry['eval_tokens']:,} tokens in {duration(entry['eval_seconds'])})")
    if "eval_answers" in entry:
        parts += [f"{name} {number(value)}" for name, value in scores.items() if "/" not in name]
        parts.append(f"({entry['eval_answers']:,} answers)")
    sources: dict[str, list[str]] = {}
    for name, value in scores.items():
        metric, slash, source = name.partition("/")
        if slash:
            sources.setdefault(source, []).append(f"{metric} {number(value)}")
    of_sources = "".join(f"\n  {source}: {', '.join(values)}" for source, values in sources.items())
    return "  ".join(parts) + of_sources


def number(value: float | None, digits: int = 4) -> str:
    """Format a number of the log, in which null is a number that is not finite."""
    return "nan" if value is None else f"{value:.{digits}f}"


def losses_in_words(entry: dict[str, Any]) -> str:
    """Return a line with the loss of each source of a mixture; of more than 12 sources, that of each modality."""
    for kind, most in (("loss/", SOURCES_SHOWN), ("loss_by_modality/", math.inf)):
        found = {key.removeprefix(kind): loss for key, loss in entry.items() if key.startswith(kind)}
        if 0 < len(found) <= most:
            return "\n  loss of " + ", ".join(f"{name} {number(loss)}" for name, loss in found.items())
    return ""


def given_up_in_words(entry: dict[str, Any]) -> str:
    names = [key.removeprefix("given_up/") for key in entry if key.startswith("given_up/")]
    return f"\n  given up, since nothing in it was usable: {', '.join(names)}" if names else ""


def listed_step(entry: dict[str, Any]) -> str:
    """Return the line of an entry of `skipped_steps.jsonl`."""
    kind = "skipped" if entry.get("skipped", True) else "spike"
    reason = entry.get("reason") or f"loss {entry.get('loss')}, gradient norm {entry.get('grad_norm')}"
    names = entry.get("samples") or []
    rest = f" and {len(names) - SAMPLES_SHOWN} more" if len(names) > SAMPLES_SHOWN else ""
    return f"step {entry.get('step')}  {kind}: {reason}; samples: {'; '.join(names[:SAMPLES_SHOWN])}{rest}"
