"""Fixtures of the tests of documents."""

import pytest
from document_files import prose

from smol_hf.text.documents import document, plain_text, records
from smol_hf.text.tokenizer_training import train_text_tokenizer


@pytest.fixture
def little_pieces(monkeypatch):
    """Pieces of seven characters, so that every boundary falls somewhere."""
    for module in (document, plain_text, records):
        monkeypatch.setattr(module, "CHUNK", 7)
    monkeypatch.setattr(records, "BATCH", 500)
    return 7


@pytest.fixture(scope="session")
def tokenizer():
    return train_text_tokenizer([prose(20_000)], vocab_size=400)
