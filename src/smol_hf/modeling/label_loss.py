"""The language-modelling loss, where there is something to learn.

-mean(log p(token at t+1 | tokens up to t)) over the labelled tokens only. In a vision-language batch most positions
are image or prompt tokens without a label; their logits (positions × vocabulary) would be the largest tensor of the
step and contribute nothing. So logits are made only at `labelled_positions`.
"""

import torch
from torch.nn import functional as F

IGNORE_INDEX = -100


def labelled_positions(labels):
    """Positions t at which some row predicts a label, `labels[:, t + 1] != -100`: (positions,), ascending.

    For several rows this is the union, since a causal model of transformers keeps the same positions of each row.
    """
    return (labels[:, 1:] != IGNORE_INDEX).any(dim=0).nonzero().squeeze(-1)


def next_tokens(labels, positions=None):
    """What each kept position must predict: (batch, positions). `positions` None means all but the last, which
    predicts a token that the batch does not hold: -100 where it is asked for by number."""
    following = labels[:, 1:]
    return following if positions is None else F.pad(following, (0, 1), value=IGNORE_INDEX).index_select(1, positions)


def label_loss(logits, targets, num_items_in_batch=None):
    """Cross entropy in float32, summed and divided by the number of labelled tokens.

    Args:
        logits: (batch, positions, vocabulary).
        targets: (batch, positions), -100 where there is none.
        num_items_in_batch: labelled tokens of the whole step (all micro-batches, all processes), when the trainer
            knows it; otherwise those of this batch. Dividing by the count of each micro-batch instead would weigh
            tokens of short answers more.

    A batch without any label gives zero, connected to the graph, so that every process still runs its backward.
    """
    total = F.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten().to(logits.device), ignore_index=IGNORE_INDEX, reduction="sum"
    )
    if num_items_in_batch is None:
        num_items_in_batch = (targets != IGNORE_INDEX).sum()
    return total / torch.as_tensor(num_items_in_batch, device=total.device).clamp(min=1)
