"""Logits only where there is a label: the same loss and the same gradients as with all logits."""

import pytest
import torch
from modeling.builders import (
    VOCAB_SIZE,
    build_decoder,
    build_vlm,
    gradients,
    image_prompt,
    largest_difference,
    random_text,
    random_tiles,
)
from torch.nn import functional as F

from smol_hf.modeling import label_loss as label_loss_module
from smol_hf.modeling.label_loss import IGNORE_INDEX, label_loss, labelled_positions, token_losses

DECODERS = ["rotary", "gpt"]
VLMS = ["rotary", "gpt2", "gemma2", "llama"]


def several_rows():
    """Three rows of 14 tokens whose labels stand at different places: positions 3–7, 5–6 and 11–12 predict one."""
    ids = torch.tensor([random_text(14, seed) for seed in range(3)])
    labels = torch.full_like(ids, IGNORE_INDEX)
    for row, (first, last) in enumerate([(4, 8), (6, 7), (12, 13)]):
        labels[row, first : last + 1] = ids[row, first : last + 1]
    return {"input_ids": ids}, labels, [3, 4, 5, 6, 7, 11, 12]


def several_images(config):
    """Two rows with one tile each; what follows the image in the first row, and the end of the second, is labelled."""
    ids = torch.tensor([image_prompt(config, images=1, seed=seed) + random_text(5, seed + 9) for seed in range(2)])
    labels = torch.full_like(ids, IGNORE_INDEX)
    end = ids.shape[1]
    labels[0, end - 6 : end - 3] = ids[0, end - 6 : end - 3]
    labels[1, end - 2 :] = ids[1, end - 2 :]
    return {"input_ids": ids, "pixel_values": random_tiles(2)}, labels, [end - n for n in (7, 6, 5, 3, 2)]


def reference_loss(logits, labels, count=None):
    """The textbook: all logits, shifted by one, the mean over the labelled tokens."""
    total = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")
    return total / ((labels[:, 1:] != -100).sum() if count is None else count)


def cases():
    for style in DECODERS:
        yield pytest.param(lambda style=style: (build_decoder(style), *several_rows()), id=f"decoder-{style}")
    for decoder in VLMS:

        def build(decoder=decoder):
            model = build_vlm(decoder=decoder)
            return model, *several_images(model.config)

        yield pytest.param(build, id=f"vlm-{decoder}")


@pytest.mark.parametrize("count", [None, 31])
@pytest.mark.parametrize("build", cases())
def test_loss_and_gradients_equal_those_of_all_logits(build, count):
    model, inputs, labels, positions = build()
    all_logits = model(**inputs).logits
    assert all_logits.shape == (*inputs["input_ids"].shape, VOCAB_SIZE)
    expected = reference_loss(all_logits, labels, count)
    expected.backward()
    expected_gradients = gradients(model)
    model.zero_grad()

    number = None if count is None else torch.tensor(count)  # trainers give a tensor
    outputs = model.train()(**inputs, labels=labels, num_items_in_batch=number)
    outputs.loss.backward()

    assert abs(outputs.loss - expected) < 1e-6
    assert max(gradient.abs().max() for gradient in expected_gradients.values()) > 1e-3
    assert largest_difference(gradients(model), expected_gradients) < 1e-6
    torch.testing.assert_close(outputs.logits, all_logits[:, positions], rtol=0, atol=1e-6)


@pytest.mark.parametrize("build", cases())
def test_unlabelled_positions_make_no_logits(build):
    model, inputs, labels, positions = build()
    seen = []
    model.get_output_embeddings().register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].shape[1]))
    outputs = model.train()(**inputs, labels=labels)
    assert outputs.logits.shape == (len(labels), len(positions), VOCAB_SIZE)
    assert seen == [len(positions)], "the head must run once, and see the positions that predict a label only"


@pytest.mark.parametrize("build", cases())
@torch.no_grad()
def test_outside_training_all_positions_make_logits(build):
    """`compute_metrics` of transformers' Trainer reads them next to the labels."""
    model, inputs, labels, positions = build()
    outputs = model(**inputs, labels=labels)
    torch.testing.assert_close(outputs.logits, model(**inputs).logits, rtol=0, atol=1e-6)
    assert outputs.token_losses.shape == labels.shape
    few = model(**inputs, labels=labels, logits_to_keep=torch.tensor(positions))
    assert few.logits.shape[1] == len(positions)
    torch.testing.assert_close(few.loss, outputs.loss, rtol=1e-6, atol=0)


@pytest.mark.parametrize("build", cases())
def test_a_batch_without_labels_gives_zero_that_is_connected_to_the_graph(build):
    model, inputs, labels, _ = build()
    outputs = model.train()(**inputs, labels=torch.full_like(labels, IGNORE_INDEX))
    assert outputs.loss == 0 and outputs.loss.requires_grad
    outputs.loss.backward()
    found = gradients(model)
    assert found.keys() == dict(model.named_parameters()).keys()
    assert all((gradient == 0).all() for gradient in found.values())


@pytest.mark.parametrize("keep", [0, 1, 6, torch.tensor([2, 5, 11])])
@pytest.mark.parametrize("build", [cases_of for cases_of in cases() if cases_of.id in ("decoder-rotary", "vlm-gpt2")])
def test_positions_can_be_asked_for(build, keep):
    """`logits_to_keep` alone, and with labels, when the loss is that of the labels these positions predict."""
    model, inputs, labels, _ = build()
    with torch.no_grad():
        all_logits = model(**inputs).logits
        length = all_logits.shape[1]
        positions = keep if isinstance(keep, torch.Tensor) else torch.arange(length)[-keep:]
        outputs = model(**inputs, logits_to_keep=keep)
        torch.testing.assert_close(outputs.logits, all_logits[:, positions], rtol=0, atol=1e-6)

        kept = torch.full_like(labels, IGNORE_INDEX)
        predicting = positions[positions < length - 1]
        kept[:, predicting + 1] = labels[:, predicting + 1]
        expected = reference_loss(all_logits, kept, max(1, int((kept[:, 1:] != IGNORE_INDEX).sum())))
        loss = model(**inputs, labels=labels, logits_to_keep=keep).loss
    assert abs(loss - expected) < 1e-6


def test_the_last_position_predicts_nothing_in_the_batch():
    model = build_decoder()
    inputs, labels, _ = several_rows()
    with torch.no_grad():
        without = model(**inputs, labels=labels, logits_to_keep=torch.tensor([3, 11]))
        with_last = model(**inputs, labels=labels, logits_to_keep=torch.tensor([3, 11, 13]))
    assert with_last.logits.shape[1] == 3 and abs(with_last.loss - without.loss) < 1e-6


def test_micro_batches_add_up():
    """Divided by the step's number of labels they sum to the loss of one large batch; a mean of means does not."""
    model = build_decoder()
    inputs, labels, _ = several_rows()
    rows = [{"input_ids": inputs["input_ids"][row : row + 1], "labels": labels[row : row + 1]} for row in range(3)]
    whole = model(**inputs, labels=labels).loss
    count = (labels != IGNORE_INDEX).sum()
    assert abs(sum(model(**row, num_items_in_batch=count).loss for row in rows) - whole) < 1e-6
    assert abs(sum(model(**row).loss for row in rows) / 3 - whole) > 1e-3


def test_labelled_positions_are_a_union_in_order():
    labels = torch.tensor([[7, -100, -100, 3, -100], [-100, -100, 4, -100, 5]])
    assert labelled_positions(labels).tolist() == [1, 2, 3]  # the label at 0 has nothing before it to predict it
    assert labelled_positions(torch.full((2, 5), -100)).tolist() == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_logits_are_taken_in_parts(dtype, monkeypatch):
    """The same losses, to the bit, and gradients; and autograd holds on to one tensor of their size, not three."""
    torch.manual_seed(0)
    targets = torch.randint(0, 50, (2, 7))
    targets[0, 2:4] = IGNORE_INDEX
    given = torch.randn(2, 7, 50).to(dtype)

    def run(at_once):
        monkeypatch.setattr(label_loss_module, "LOGITS_AT_ONCE", at_once)
        logits, saved = given.clone().requires_grad_(), []
        with torch.autograd.graph.saved_tensors_hooks(lambda held: saved.append(held) or held, lambda held: held):
            losses = token_losses(logits, targets)
        label_loss(losses, targets).backward()
        return losses.detach(), logits.grad, {held.data_ptr() for held in saved if held.numel() == given.numel()}

    losses, gradient, _ = run(at_once=given.numel())
    for at_once in (given.numel() - 1, 4 * 50, 1):
        losses_of_parts, gradient_of_parts, held = run(at_once)
        assert torch.equal(losses_of_parts, losses) and len(held) == 1
        torch.testing.assert_close(gradient_of_parts, gradient, rtol=1e-5, atol=1e-7)
    assert (gradient_of_parts[0, 2:4] == 0).all() and gradient_of_parts[1].abs().sum() > 0.1
