"""Reasons why a run of a harness failed, in one sentence, from what it printed."""

from __future__ import annotations

import re
from pathlib import Path

from smol_hf.support.formatting import one_line

# Pattern in the log → message. `{0}` is the first group of the pattern. The first pattern that occurs counts.
KNOWN = (
    (
        r"[Dd]ataset '?([\w./-]+)'? is a gated dataset|Cannot access gated repo.*?datasets/([\w.-]+/[\w.-]+)",
        "the dataset {0} is gated: accept its conditions on huggingface.co/datasets/{0}, and run hf auth login",
    ),
    (
        r"Token is required|LocalTokenNotFoundError",
        "its dataset needs a token of the Hugging Face Hub: run hf auth login",
    ),
    (
        r"ModuleNotFoundError: No module named '([\w.]+)'",
        "the package {0} is missing: install it with {python} -m pip install {0}",
    ),
    (
        r"Name or service not known|name resolution|ConnectionError|MaxRetryError|ConnectTimeout|Couldn't reach"
        r"|LocalEntryNotFoundError|OfflineModeIsEnabled|Network is unreachable",
        "there is no connection to the Hugging Face Hub: connect, or download {dataset} before",
    ),
    (r"CUDA out of memory|OutOfMemoryError", "the memory of the GPU is too small: lower the batch size"),
    (r"Tasks? (?:were )?not found: ([\w., -]+)", "{harness} does not know the task {0}"),
)
EXCEPTION = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt)\b.*$", flags=re.MULTILINE)


def explain(log: str, *, dataset: str, harness: str, python: Path) -> str:
    """Return the reason for a failure. An unknown one is the last exception in the log, or its last line."""
    for pattern, message in KNOWN:
        if (match := re.search(pattern, log)) is not None:
            first = next((group for group in match.groups() if group), "")
            return message.format(first, dataset=dataset or "the dataset", harness=harness, python=python)
    exceptions = EXCEPTION.findall(log)
    lines = [line for line in log.splitlines() if line.strip()]
    return one_line((exceptions or lines or ["it printed nothing"])[-1])
