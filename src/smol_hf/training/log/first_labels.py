"""Stop a run whose first steps have no labelled token, since it would learn nothing."""

from __future__ import annotations

import torch

from smol_hf.data.conversation import SampleError
from smol_hf.modeling.label_loss import IGNORE_INDEX

FIRST_STEPS = 3


class FirstLabels:
    """Counts the labelled tokens of the first batches.

    Args:
        steps: optimizer steps of the run.
        batches_per_step: batches of a process in each of them.
    """

    def __init__(self, steps: int, batches_per_step: int):
        self.steps = min(FIRST_STEPS, max(steps, 1))
        self.left = self.steps * batches_per_step

    def check(self, labels: torch.Tensor, labelled: torch.Tensor | int | None) -> None:
        """Count one batch.

        Args:
            labels: of the batch.
            labelled: labelled tokens of the whole step in all processes, if they were counted.

        Raises:
            SampleError: after the last of the first batches, if none had a label.
        """
        if not self.left:
            return
        if labelled is None:
            labelled = (labels != IGNORE_INDEX).sum()
        self.left = 0 if int(labelled) else self.left - 1
        if not int(labelled) and not self.left:
            raise SampleError(
                "data",
                f"the first {self.steps} steps have no token with a label, so nothing would be learned: look at the "
                "labels with smol-hf data preview, and check the chat template and the untrained turns",
            )
