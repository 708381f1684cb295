"""The tiny tokenizer: any text comes back, special tokens are where they should be, digits stay single."""

from __future__ import annotations

import random
import time

import pytest
from helpers import build_processor
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from smol_hf.data.digits import build_pages
from smol_hf.text.tiny_tokenizer import MINIMUM_VOCAB_SIZE, SPECIAL_TOKENS, build_tiny_tokenizer


def page_texts():
    pages = build_pages(400, seed=0, split="train", turns=5)
    return [text for page in pages for turn in page.turns for text in (turn.question, turn.answer)]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tiny_tokenizer(page_texts())


def random_texts():
    source = random.Random(0)
    for _ in range(200):
        yield "".join(chr(source.choice([source.randrange(1, 256), source.randrange(0xD800)])) for _ in range(30))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Which digit is larger?",
        "  two  spaces , and \t a tab\r\nand a line ",
        "don't it's 1234567890 3.14",
        "naïve café 漢字 🙂👩‍👩‍👧 \u200b\x00\x7f",
        "a literal <image> and <|im_start|> and <row_1_col_1> and <end_of_utterance>",
    ],
)
def test_text_comes_back_unchanged(tokenizer, text):
    ids = tokenizer(text, split_special_tokens=True, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(tokenizer.all_special_ids)


def test_random_text_comes_back_unchanged(tokenizer):
    for text in random_texts():
        assert tokenizer.decode(tokenizer(text, split_special_tokens=True)["input_ids"]) == text


def test_the_same_texts_give_the_same_tokenizer(tokenizer):
    again = build_tiny_tokenizer(iter(page_texts()))
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert build_tiny_tokenizer(["other words"]).get_vocab() != tokenizer.get_vocab()


def test_special_tokens_come_first_and_are_special(tokenizer):
    assert len(SPECIAL_TOKENS) == 7 + 36
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(43))
    assert set(tokenizer.all_special_tokens) == set(SPECIAL_TOKENS)
    assert [tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token] == [
        "<|im_start|>",
        "<end_of_utterance>",
        "<|im_end|>",
    ]
    assert all(tokenizer.added_tokens_decoder[token_id].special for token_id in range(43))
    ids = tokenizer("<image>7<row_6_col_6><end_of_utterance>")["input_ids"]
    assert len(ids) == 4 and tokenizer.decode(ids, skip_special_tokens=True) == "7"


def test_digits_stay_single_and_words_become_short(tokenizer):
    assert tokenizer.tokenize("1234") == list("1234")
    assert len(tokenizer.tokenize("Which digit is written here?")) == 6


def test_vocabulary_is_limited():
    assert MINIMUM_VOCAB_SIZE == 300
    assert len(build_tiny_tokenizer([], vocab_size=500)) == 300
    assert len(build_tiny_tokenizer(page_texts(), vocab_size=320)) == 320
    with pytest.raises(ValueError, match=r"vocab_size must be at least 300.*got 299"):
        build_tiny_tokenizer([], vocab_size=299)


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    build_tiny_tokenizer(page_texts(), model_max_length=123).save_pretrained(tmp_path)
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert loaded.model_max_length == 123
    assert loaded.model_input_names == ["input_ids", "attention_mask"]
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert set(loaded.all_special_tokens) == set(SPECIAL_TOKENS)
    text = "How many digits do you see? <image> 42 é"
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.decode(loaded("a , b")["input_ids"]) == "a , b"


@pytest.mark.parametrize("letters", ["a", "abcdefghijklmnopqrstuvwxyz", " ", "漢字"])
def test_a_word_of_any_length_is_learned_from_in_a_moment(letters):
    source = random.Random(0)
    word = "".join(source.choice(letters) for _ in range(400_000))
    started = time.perf_counter()
    tokenizer = build_tiny_tokenizer([word, "hello there"])
    assert time.perf_counter() - started < 60, "some seconds; minutes where the word is not cut"
    short = word[:2_000]
    assert tokenizer.decode(tokenizer(short, split_special_tokens=True)["input_ids"]) == short
    assert "256" not in tokenizer.backend_tokenizer.to_str().partition('"model"')[0], "the cuts are not saved"


def test_words_of_usual_length_give_the_tokenizer_that_they_gave_before():
    texts = page_texts()
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    plain.train_from_iterator(texts, trainer)
    expected = plain.get_vocab()
    assert build_tiny_tokenizer(texts).get_vocab() == {**expected, "ĊĊ": len(expected)}


@pytest.mark.parametrize("vocab_size", [MINIMUM_VOCAB_SIZE, 320, 2000])
@pytest.mark.parametrize("texts", [[], page_texts(), ["One\n\nTwo\n\n"] * 5])
def test_a_double_line_break_is_one_token(texts, vocab_size, tmp_path):
    """llama.cpp looks it up where it writes an image in tiles."""
    built = build_tiny_tokenizer(texts, vocab_size=vocab_size)
    built.save_pretrained(tmp_path)
    for tokenizer in (built, PreTrainedTokenizerFast.from_pretrained(tmp_path)):
        assert len(tokenizer("\n\n")["input_ids"]) == 1 and len(tokenizer) <= vocab_size
        assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
        text = "One\n\nTwo \n\n\n Three"
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_block_of_an_image_in_tiles_holds_it():
    processor = build_processor()
    block = processor.image_block_ids(64, 64)
    two_line_breaks, one = (processor.tokenizer(text)["input_ids"] for text in ("\n\n", "\n"))
    assert len(one) == 1 and block.count(two_line_breaks[0]) == 1 and block.count(one[0]) == 1
