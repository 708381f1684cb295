"""Look at the first batches of a run: print samples with their trained tokens, and refuse a run without labels."""

from __future__ import annotations

from itertools import groupby

import torch
from rich.console import Console
from rich.text import Text

from smol_hf.data.conversation import SampleError
from smol_hf.modeling.label_loss import IGNORE_INDEX
from smol_hf.support.tokenizer_of import tokenizer_of, unknown_token_id

FIRST_STEPS = 3
SHOWN_SAMPLES = 3
SHOWN_TOKENS = 400


class FirstBatches:
    """Prints the first batch, and counts the labelled tokens of the first steps.

    Args:
        steps: optimizer steps of the run.
        batches_per_step: batches of a process in each of them.
        prints: False in processes other than the first.
        max_unknown: largest share of the labels that the tokenizer does not know; None if the survey has judged it.
    """

    def __init__(self, steps: int, batches_per_step: int, prints: bool, max_unknown: float | None = None):
        self.steps = min(FIRST_STEPS, max(steps, 1))
        self.unlabelled_left = self.steps * batches_per_step
        self.prints = prints
        self.max_unknown = max_unknown
        self.unjudged = 0 if max_unknown is None else self.unlabelled_left
        self.labels = self.unknown = 0

    def look(self, processor, batch: dict, sample_ids: list[str], labelled: torch.Tensor | int | None) -> None:
        """Look at one batch.

        Args:
            labelled: labelled tokens of the whole step in all processes, if they were counted.

        Raises:
            SampleError: after the last of the first batches, if none had a label, or the tokenizer knows too few.
        """
        if self.unjudged:
            self.judge_unknown(unknown_token_id(tokenizer_of(processor)), batch["labels"])
        if self.prints:
            print_label_preview(processor, batch, sample_ids)
        self.prints = False
        if not self.unlabelled_left:
            return
        number = int((batch["labels"] != IGNORE_INDEX).sum() if labelled is None else labelled)
        self.unlabelled_left = 0 if number else self.unlabelled_left - 1
        if not number and not self.unlabelled_left:
            raise SampleError(
                "data",
                f"the first {self.steps} steps have no token with a label, so nothing would be learned: look at the "
                "labels with smol-hf data preview, and check the chat template and the untrained turns",
            )

    def judge_unknown(self, unknown_id: int | None, labels: torch.Tensor) -> None:
        """Count labels that the tokenizer does not know, in data without a survey. Raises SampleError for too many."""
        self.unjudged = 0 if unknown_id is None else self.unjudged - 1
        if unknown_id is None:
            return
        self.labels += int((labels != IGNORE_INDEX).sum())
        self.unknown += int((labels == unknown_id).sum())
        found = (
            f"{self.unknown:,} of the first {self.labels:,} labelled tokens are unknown to the tokenizer: the model "
            "would learn to write the unknown token instead; choose another tokenizer"
        )
        if self.prints and self.unknown:
            Console(highlight=False, markup=False).print(f"warning: {found}", soft_wrap=True)
        if not self.unjudged and self.unknown > (self.max_unknown or 0) * self.labels:
            raise SampleError("data", f"{found}\nThis is more than max_unknown_fraction {self.max_unknown}")


def print_label_preview(processor, batch: dict, sample_ids: list[str]) -> None:
    """Print the first samples of a batch, decoded, with trained text underlined and image tokens counted."""
    console = Console()
    shown = "underlined" if console.is_terminal else "between ⟦ and ⟧"
    console.print(f"First batch (trained text is {shown}):", style="bold")
    for sample_id, input_ids, labels in zip(sample_ids[:SHOWN_SAMPLES], *rows_of(batch)):
        text = preview(processor, input_ids, labels, marks=not console.is_terminal)
        console.print(Text(f"  {sample_id}: ", style="dim") + text, soft_wrap=True)
    console.print()


def rows_of(batch: dict) -> tuple[list[list[int]], list[list[int]]]:
    """Return the input_ids and the labels of each sample of a padded or packed batch."""
    if "attention_mask" in batch:
        lengths = batch["attention_mask"].sum(1).tolist()
        places = [(row, 0, length) for row, length in enumerate(lengths)]
        rows = {name: batch[name].tolist() for name in ("input_ids", "labels")}
    else:
        positions = batch["position_ids"].flatten().tolist()
        starts = [index for index, position in enumerate(positions) if position == 0]
        places = [(0, start, stop) for start, stop in zip(starts, [*starts[1:], len(positions)])]
        rows = {name: [batch[name].flatten().tolist()] for name in ("input_ids", "labels")}
    input_ids, labels = ([rows[name][row][start:stop] for row, start, stop in places] for name in rows)
    return input_ids, labels


def preview(processor, input_ids: list[int], labels: list[int], marks: bool = False) -> Text:
    """Return the text of a sample with image and padding tokens counted and trained text underlined.

    With `marks`, trained text is also between ⟦ and ⟧, for a log file.
    """
    text = Text()
    tokens = list(zip(input_ids[:SHOWN_TOKENS], labels))
    tokenizer, image_token_id = tokenizer_of(processor), getattr(processor, "image_token_id", None)

    def kind(token):
        token_id, label = token
        trained = label != IGNORE_INDEX  # then it ends a text, even if the same token pads
        padding = tokenizer.pad_token if token_id == tokenizer.pad_token_id and not trained else None
        return "<image>" if token_id == image_token_id else padding, trained

    for (name, trained), group in groupby(tokens, kind):
        ids = [token_id for token_id, _ in group]
        if name and not trained and (len(ids) > 1 or ids[0] == image_token_id):
            text.append(f"{name}×{len(ids)}", style="dim")
        else:
            decoded = str(tokenizer.decode(ids)).replace("\n", "↵")
            decoded = f"⟦{decoded}⟧" if trained and marks else decoded
            text.append(decoded, style="bold underline" if trained else "")
    if len(input_ids) > SHOWN_TOKENS:
        text.append(f" … and {len(input_ids) - SHOWN_TOKENS} more tokens", style="dim")
    return text
