"""The drawings and formulas in the docstrings of the model code show what the code does."""

import re

import pytest
import torch
from modeling.builders import build_decoder, text_config

from smol_hf.modeling import connector, label_loss, mask
from smol_hf.modeling.configuration_smol_hf import CONNECTOR_TYPES


def drawn_rows(docstring):
    """Rows of single characters in a docstring, split at gaps: the left and the right drawing, line by line."""
    lines = [re.split(r"\s{4,}", line.strip()) for line in docstring.splitlines()]
    return list(
        zip(*(line for line in lines if len(line) == 2 and all(re.fullmatch(r"[x.]( [x.])+", c) for c in line)))
    )


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("drawing, positions", [(0, [0, 1, 2, 3]), (1, [0, 1, 0, 1])], ids=["one sample", "packed"])
@pytest.mark.parametrize("located", [False, True])
def test_the_drawn_mask_is_the_mask(implementation, drawing, positions, located):
    drawn = [[cell == "x" for cell in row.split()] for row in drawn_rows(mask.__doc__)[drawing]]
    config = text_config()
    config._attn_implementation = implementation
    position_ids = torch.tensor([positions])
    bounds = mask.sample_bounds(position_ids) if located else {}
    found = mask.causal_mask(config, torch.zeros(1, 4, 32), None, None, position_ids, torch.arange(4), **bounds)
    if found is None:  # the kernel's own causal mask
        found = torch.ones(1, 1, 4, 4).tril().bool()
    assert found.shape == (1, 1, 4, 4)
    seen = found if found.dtype is torch.bool else found == 0
    assert seen[0, 0].tolist() == drawn
    if implementation == "eager":
        assert (found[~seen] == torch.finfo(found.dtype).min).all()


def test_a_row_of_padding_stays_finite_in_the_equation():
    """The mask has no -inf, so the softmax of a row that sees nothing is not NaN."""
    model = build_decoder(attn_implementation="eager")
    ids = torch.tensor([[0, 0, 7, 8]])
    output = model(input_ids=ids, attention_mask=torch.tensor([[0, 0, 1, 1]]))
    assert output.logits.isfinite().all()


def test_the_drawn_folding_is_pixel_shuffle():
    patches, tokens = [], []
    for line in connector.pixel_shuffle.__doc__.splitlines():
        cells = line.split()
        if len(cells) >= 4 and all(re.fullmatch("[a-p]+", cell) for cell in cells):
            patches += [ord(cell) for cell in cells[:4]]
            tokens += [[ord(letter) for letter in cell] for cell in cells[4:]]
    features = torch.tensor(patches, dtype=torch.float).view(1, 16, 1)
    assert connector.pixel_shuffle(features, 2)[0].tolist() == tokens and len(tokens) == 4


def test_every_connector_of_the_configuration_has_a_class():
    assert tuple(connector.CONNECTORS) == CONNECTOR_TYPES


def test_the_formula_of_the_loss_is_the_loss():
    (formula,) = re.findall(r"^    (F\.cross_entropy\(.*\))$", label_loss.__doc__, re.MULTILINE)
    logits = torch.randn(2, 6, 11)
    labels = torch.randint(0, 11, (2, 6))
    labels[0, :3] = label_loss.IGNORE_INDEX
    expected = eval(formula, {"F": torch.nn.functional, "logits": logits, "labels": labels})
    loss, losses = label_loss.loss_at(logits, labels, 0)
    torch.testing.assert_close(loss, expected)
    assert losses.shape == (2, 6) and not losses[0, :2].any()


def test_samples_begin_where_positions_do_not_go_on():
    """Also at the beginning of a row, whose positions may go on from those of the row before."""
    found = mask.sample_bounds(torch.tensor([[0, 1, 2, 0, 1], [2, 3, 4, 5, 6], [0, 0, 1, 2, 3]]))
    assert found["cu_seq_lens_q"].tolist() == found["cu_seq_lens_k"].tolist() == [0, 3, 5, 10, 11, 15]
    assert found["cu_seq_lens_q"].dtype is torch.int32
    assert found["max_length_q"] == found["max_length_k"] == 5
