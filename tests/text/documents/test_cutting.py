"""Long texts in pieces that have the tokens of the whole."""

import pytest
from document_files import prose
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from smol_hf.text.documents.cutting import pieces
from smol_hf.text.documents.token_cache import Tokens


def metaspace():
    """A tokenizer of SentencePiece's kind: a text is begun by a space, and spaces are part of words."""
    inner = Tokenizer(models.BPE(byte_fallback=False, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    inner.decoder = decoders.Metaspace(prepend_scheme="always")
    inner.train_from_iterator([prose(20_000)], trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "</s>"]))
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("bytes", prose(30_000)), ("bytes", "word" * 5000), ("bytes", "汉字没有空格" * 2000),
        ("bytes", " " * 9000 + "end"), ("metaspace", prose(30_000)),
    ],
)  # fmt: skip
def test_a_text_in_pieces_has_the_tokens_of_the_whole(kind, text, tokenizer):
    tokens = Tokens(tokenizer if kind == "bytes" else metaspace())
    chunks = [text[start : start + 777] for start in range(0, len(text), 777)]
    found = list(pieces(chunks, tokens.encode, size=2000))
    assert "".join(found) == text and max(map(len, found)) <= 2000
    assert [token for piece in found for token in tokens.encode(piece)] == tokens.encode(text)


def test_a_text_that_cannot_be_cut_for_a_tokenizer_is_refused():
    """SentencePiece would put a space before the second piece of a word."""
    with pytest.raises(ValueError, match="merges across every position"):
        list(pieces(["word" * 5000], Tokens(metaspace()).encode, size=2000))
