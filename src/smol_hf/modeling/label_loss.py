"""The language-modelling loss: -mean(log p(token at t+1 | tokens up to t)) over the tokens that have a label.

    F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)

This module computes the same number in less memory. The logits (positions × vocabulary) would be the largest tensor
of a step. But most positions of a vision-language batch are image or prompt tokens, which have no label. So training
makes logits only at `labelled_positions`. If they are still many, `CrossEntropyInParts` keeps one tensor of their size
for the backward pass instead of three.
"""

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

IGNORE_INDEX = -100  # the label of a token that is not trained
LOGITS_AT_ONCE = 2**22  # numbers that are taken together: 16 MiB in float32, about the size of a processor's cache


def loss_at(logits, labels, logits_to_keep, num_items_in_batch=None):
    """Return the loss, and the detached loss of each position, (batch, positions).

    Args:
        logits: (batch, positions, vocabulary), made at `logits_to_keep`: a tensor of positions, the last n, 0 for all.
        labels: (batch, sequence), -100 for no label.
        num_items_in_batch: see `label_loss`.
    """
    targets = next_tokens(labels, logits_to_keep)
    losses = token_losses(logits, targets)
    return label_loss(losses, targets, num_items_in_batch), losses.detach()


def label_loss(losses, targets, num_items_in_batch=None):
    """Divide the sum of `losses` (see `token_losses`) by the number of labelled tokens.

    Args:
        num_items_in_batch: labelled tokens of the whole step (all micro-batches, all processes), if the trainer
            knows it; otherwise those of this batch. Division by the count of each micro-batch would give more
            weight to tokens of short answers.

    A batch without any label gives zero, connected to the graph, so that every process still runs its backward.
    """
    if num_items_in_batch is None:
        num_items_in_batch = (targets != IGNORE_INDEX).sum()
    return losses.sum() / torch.as_tensor(num_items_in_batch, device=losses.device).clamp(min=1)


def next_tokens(labels, logits_to_keep):
    """Return the target token of each kept position, (batch, positions).

    `logits_to_keep` is a tensor of positions, or the last n (0: all). The last position of a row predicts a token that
    the row does not contain: -100.
    """
    return at_positions(F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX), logits_to_keep)


# -- less memory: logits only at positions that predict a label -------------------------------------------------------


def labelled_positions(labels):
    """Find the positions t at which some row predicts a label, `labels[:, t + 1] != -100`: (positions,), ascending.

    For several rows this is the union, since a causal model of transformers keeps the same positions of each row.
    """
    return (labels[:, 1:] != IGNORE_INDEX).any(dim=0).nonzero().squeeze(-1)


def positions_to_keep(logits_to_keep, labels, training):
    """Choose the positions of logits: as requested, else those with labels in training, else all (0)."""
    if logits_to_keep is not None:
        return logits_to_keep
    return labelled_positions(labels) if training and labels is not None else 0


def at_positions(values, logits_to_keep):
    """Select `values` (batch, sequence, …) at a tensor of positions, or at the last n (0: all)."""
    if isinstance(logits_to_keep, torch.Tensor):
        return values.index_select(1, logits_to_keep)
    return values[:, -logits_to_keep:]


# -- less memory: many logits in parts --------------------------------------------------------------------------------


def token_losses(logits, targets):
    """Compute the cross entropy of each kept position in float32, (batch, positions); 0 without a label.

    Args:
        logits: (batch, positions, vocabulary).
        targets: (batch, positions), -100 for no label.
    """
    logits, flat = logits.flatten(0, 1), targets.flatten().to(logits.device)
    if logits.numel() <= LOGITS_AT_ONCE or torch.compiler.is_compiling():  # a compiler joins the steps by itself
        losses = cross_entropy(logits, flat)
    else:
        losses = CrossEntropyInParts.apply(logits, flat, max(1, LOGITS_AT_ONCE // logits.shape[-1]))
    return losses.view(targets.shape)


def cross_entropy(logits, targets):
    """-log p(target), (rows,), from logits (rows, vocabulary); 0 for the target -100."""
    return F.cross_entropy(logits.float(), targets, ignore_index=IGNORE_INDEX, reduction="none")


class CrossEntropyInParts(torch.autograd.Function):
    """`cross_entropy` in groups of rows. It keeps no tensor of the logits' size except their gradient.

    Autograd would keep three more, in float32: the logits themselves, their log-softmax and the gradient of that. With
    a large vocabulary they take most of the memory of a training step, and writing them takes much of its time.
    """

    @staticmethod
    def forward(ctx, logits, targets, rows):
        ctx.save_for_backward(logits, targets)
        ctx.rows = rows
        return torch.cat([cross_entropy(*part) for part in zip(logits.split(rows), targets.split(rows))])

    @staticmethod
    @once_differentiable
    def backward(ctx, weights):
        """d loss / d logits = softmax(logits) - one_hot(target), for each row times the gradient of its loss."""
        logits, targets = ctx.saved_tensors
        weights = weights.masked_fill(targets == IGNORE_INDEX, 0).unsqueeze(-1)
        targets = targets.clamp(min=0).unsqueeze(-1)
        gradient = torch.empty_like(logits)
        parts = (tensor.split(ctx.rows) for tensor in (gradient, logits, targets, weights))
        for part, some_logits, target, weight in zip(*parts):
            difference = some_logits.softmax(-1, dtype=torch.float32)
            difference.scatter_add_(-1, target, torch.full_like(weight, -1.0))
            torch.mul(difference, weight, out=part)
        return gradient, None, None
