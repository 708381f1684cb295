"""Rows of documents, stacked by the collator."""

import pytest
import torch

from smol_hf import SmolHFForCausalLM, SmolHFTextConfig
from smol_hf.data.collator import SmolCollator
from smol_hf.data.stream.preparation import ReadySample
from smol_hf.modeling.label_loss import IGNORE_INDEX
from smol_hf.training.model.presets import TEXT


def samples(*lengths):
    generator = torch.Generator().manual_seed(0)
    made = []
    for number, length in enumerate(lengths):
        ids = torch.randint(5, 400, (length,), generator=generator)
        labels = ids.clone()
        labels[0] = IGNORE_INDEX
        made.append(ReadySample(f"sample {number}", 0, ids, labels, torch.empty(0, dtype=torch.uint8)))
    return made


@pytest.mark.parametrize("style", ["rotary", "learned"])
def test_stacked_rows_train_as_one_row_does(style):
    """What fills a row is neither seen nor learned from, and documents of a row do not see each other."""
    tokenizer = AutoTokenizerStandIn()
    torch.manual_seed(0)
    config = SmolHFTextConfig(**{**TEXT["tiny-text"], "position_embedding_type": style})
    model = SmolHFForCausalLM(config).train()
    batch = samples(20, 12, 32, 7, 9)

    def gradients(collator, given):
        model.zero_grad()
        inputs = collator(given)
        loss = model(**inputs, use_cache=False).loss
        loss.backward()
        return inputs, loss.item(), torch.cat([weight.grad.flatten() for weight in model.parameters()])

    stacked, loss, found = gradients(SmolCollator(tokenizer, packing=True, row_length=32), batch)
    assert stacked["input_ids"].shape == (3, 32) and stacked["position_ids"][2].tolist() == [*range(7), *range(25)]
    assert stacked["labels"][2, 16:].eq(IGNORE_INDEX).all() and "attention_mask" not in stacked
    for other in (SmolCollator(tokenizer, packing=True), SmolCollator(tokenizer)):
        _, expected_loss, expected = gradients(other, batch)
        assert loss == pytest.approx(expected_loss, abs=1e-5)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    alone = sum(gradients(SmolCollator(tokenizer), [each])[1] * (len(each.input_ids) - 1) for each in batch) / 75
    assert loss == pytest.approx(alone, abs=1e-5), "each document as if it were alone"


class AutoTokenizerStandIn:
    pad_token_id = None
    eos_token_id = 2
