"""The transfer of samples from workers to the trainer."""

import pickle
from multiprocessing.reduction import ForkingPickler

import pytest
import torch

from smol_hf.data.stream.preparation import ReadySample


@pytest.mark.parametrize(("tiles", "copied"), [(1, True), (100, False)])
def test_a_worker_copies_small_tensors_and_shares_large_ones(tiles, copied):
    ids, pixels = torch.arange(10), torch.randint(0, 256, (tiles, 3, 32, 32), dtype=torch.uint8)
    sample = ReadySample("a", 1, ids, ids[2:7], pixels, "image", "frames", 2)
    sent = ForkingPickler.dumps(sample)
    received = pickle.loads(sent)
    assert vars(received).keys() == vars(sample).keys()
    for name, value in vars(sample).items():
        assert (
            torch.equal(vars(received)[name], value)
            if isinstance(value, torch.Tensor)
            else vars(received)[name] == value
        )
    assert (len(sent) > pixels.nbytes) == copied
    assert len(sent) < pixels.nbytes + 2000
