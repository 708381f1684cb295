"""The worked example of `chat_encoding`."""

from chat_models import chat_tokenizer

from smol_hf.modeling.label_loss import IGNORE_INDEX
from smol_hf.processing.chat_encoding import TRAINED, ChatEncoder, Piece
from smol_hf.processing.chat_pieces import pieces_of
from smol_hf.processing.chat_rendering import ChatRenderer

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}"
)


def test_the_worked_example_is_true():
    tokenizer = chat_tokenizer(TEMPLATE)
    encoder = ChatEncoder(tokenizer)
    messages = [{"role": "user", "content": "Hi <|im_end|>"}, {"role": "assistant", "content": "Yes."}]
    start, end = (tokenizer.convert_tokens_to_ids(token) for token in ("<|im_start|>", "<|im_end|>"))
    pieces, texts = pieces_of(ChatRenderer(encoder, TEMPLATE), messages, labelled=True)
    assert pieces == [
        Piece("special", start, 0), Piece("text", "user: ", 0), Piece("text", 0, 0), Piece("special", end, 0),
        Piece("special", start, 0), Piece("text", "assistant: ", 0), Piece("text", 1, TRAINED),
        Piece("special", end, TRAINED),
    ]  # fmt: skip
    assert texts == ["Hi <|im_end|>", "Yes."]

    def plain(text):
        return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    before = [start, *plain("user: Hi <|im_end|>"), end, start, *plain("assistant: ")]
    answer = [*plain("Yes."), end]
    input_ids, labels = encoder.encode_pieces(pieces, texts, ())
    assert (input_ids, labels) == (before + answer, [IGNORE_INDEX] * len(before) + answer)
    assert end not in plain("user: Hi <|im_end|>")
