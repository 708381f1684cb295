"""One thread and one seed for every test of the model code: tiny matrices run fastest so, and always alike."""

import pytest
import torch
import transformers
from modeling.builders import build_processor, build_tokenizer


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seed_and_silence():
    torch.manual_seed(0)
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(verbosity)


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="session")
def processor():
    """Tiles of 32 pixels, four tokens each, in grids of at most 2 by 2."""
    return build_processor()
