"""The samples of the first batch, as a run prints them."""

from chat_models import base_tokenizer
from helpers import build_processor

from smol_hf.modeling.label_loss import IGNORE_INDEX
from smol_hf.training.log.first_batches import preview


def test_runs_of_image_and_padding_tokens_are_counted():
    processor = build_processor()
    tokenizer = processor.tokenizer
    words = tokenizer("Hi", add_special_tokens=False)["input_ids"]
    input_ids = [processor.image_token_id] * 3 + words + [tokenizer.pad_token_id] * 5
    labels = [IGNORE_INDEX] * 3 + words + [IGNORE_INDEX] * 5
    shown = str(preview(processor, input_ids, labels, marks=True))
    assert shown == f"<image>×3⟦Hi⟧{tokenizer.pad_token}×5"


def test_a_trained_token_that_ends_a_text_is_no_padding():
    tokenizer = base_tokenizer()
    assert tokenizer.pad_token == tokenizer.eos_token == "<|endoftext|>"
    words = tokenizer("A king.", add_special_tokens=False)["input_ids"]
    end, hidden = tokenizer.eos_token_id, IGNORE_INDEX
    shown = preview(tokenizer, [end, *words, end, end, end], [hidden, *words, end, hidden, hidden], marks=True)
    assert str(shown) == "<|endoftext|>⟦A king.<|endoftext|>⟧<|endoftext|>×2"
