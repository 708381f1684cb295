import pytest
import torch
from adapter_runs import KINDS, adapter_words
from helpers import build_model, build_processor

from smol_hf import train


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "base"
    torch.manual_seed(0)
    processor = build_processor(longest_edge=32)
    model = build_model(processor)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def trained(base, tmp_path_factory):
    """kind → the folder of its run, trained when it is first asked for."""
    runs = {}

    def run(kind):
        if kind not in runs:
            runs[kind] = tmp_path_factory.mktemp("run") / "run"
            assert train.main(adapter_words(base, runs[kind], **KINDS[kind])) == 0
        return runs[kind]

    return run
