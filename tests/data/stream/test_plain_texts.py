"""Plain texts among conversations: the ids and labels of pretraining, with and without images in the same row."""

import json

import pytest
import torch
from chat_models import base_tokenizer
from document_files import cache_of, documents_of, prose
from helpers import build_model, build_processor
from records import assistant, user

from smol_hf.data.collator import SmolCollator
from smol_hf.data.conversation import DOCUMENT, Conversation, Message, SampleError, TextPart, TooLongError
from smol_hf.data.digits import build_pages
from smol_hf.data.records.filters import Filters, RecordReader
from smol_hf.data.stream.preparation import SampleWork
from smol_hf.modeling.label_loss import IGNORE_INDEX
from smol_hf.processing.processing_smol_hf import SmolHFProcessor
from smol_hf.text.character_tokenizer import build_character_tokenizer
from smol_hf.text.chat import TextChat, TextChatWork
from smol_hf.text.tokenizer_training import train_text_tokenizer
from smol_hf.training.model.chat_template import CHATML, prepare_tokenizer
from smol_hf.training.model.composition import extend_tokenizer
from smol_hf.training.recipe.model_arguments import ModelArguments

TEXT = "Once there was a king.\n\n<|endoftext|> is <image> no token.  The end"
TOKENIZERS = {
    "byte-level": lambda: train_text_tokenizer([prose(20_000)], vocab_size=400),
    "characters": lambda: build_character_tokenizer(sorted(set(TEXT) - {"k"})),
    "like GPT-2": lambda: base_tokenizer(),
}


def pretrained(tokenizer, folder):
    """The ids of the text in a run over documents."""
    folder.mkdir()
    (folder / "texts.jsonl").write_text(json.dumps({"text": TEXT}) + "\n", encoding="utf-8")
    (ids,) = documents_of(cache_of(folder / "texts.jsonl", tokenizer, folder / "caches"))
    return ids


def plain_text(text=TEXT, name="a.jsonl:1"):
    return RecordReader(None, None, Filters())(name, {"text": text})


def chat_work(tokenizer, tmp_path):
    prepare_tokenizer(tokenizer, ModelArguments(model="base", chat_template="chatml"), chat=True)
    return TextChatWork(TextChat(tokenizer), 512, [None])


def vision_work(tokenizer, tmp_path, **options):
    extend_tokenizer(tokenizer, 2, **options)
    return SampleWork(SmolHFProcessor(tokenizer, 32, 4), 512, [None])


def composed_work(tokenizer, tmp_path):
    work = vision_work(tokenizer, tmp_path, keeps_tokens=True)
    work.processor.save_pretrained(tmp_path / "saved")
    return SampleWork(SmolHFProcessor.from_pretrained(tmp_path / "saved"), 512, [None])


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
@pytest.mark.parametrize("work_of", [chat_work, vision_work, composed_work])
def test_ids_and_labels_are_those_of_pretraining(work_of, tokenizer, tmp_path):
    expected = pretrained(tokenizer(), tmp_path / "before")
    work = work_of(tokenizer(), tmp_path)
    sample = work.prepare(0, "", plain_text())
    assert sample.input_ids == expected and sample.labels == [IGNORE_INDEX, *expected[1:]]
    assert work.encode(0, sample).modality == "text"


def test_the_tokens_of_a_document_outlive_a_chat_template(tmp_path):
    tokenizer = base_tokenizer()
    expected = pretrained(tokenizer, tmp_path / "before")
    prepare_tokenizer(tokenizer, ModelArguments(model="base", chat_template="chatml"), chat=True)
    assert tokenizer.eos_token == "<|im_end|>"
    tokenizer.save_pretrained(tmp_path / "saved")
    again = type(tokenizer).from_pretrained(tmp_path / "saved")
    assert again.eos_token == "<|im_end|>" and pretrained(again, tmp_path / "after") == expected


def test_a_packed_row_holds_them_beside_images():
    processor = build_processor(longest_edge=32)
    (page,) = build_pages(1, seed=0, split="train")
    samples = [plain_text(), page.conversation, Conversation("b:1", (user("Hi"), assistant("Hello.")))]
    work = SampleWork(processor, 512, [None])
    ready = [work.encode(0, work.prepare(0, "", each)) for each in samples]
    assert [each.modality for each in ready] == ["text", "image", "text"]
    model = build_model(processor).eval()

    def losses(packing, chosen):
        batch = SmolCollator(processor, packing=packing)(chosen)
        batch = {key: value for key, value in batch.items() if isinstance(value, torch.Tensor)}
        number = int((batch["labels"] != IGNORE_INDEX).sum())
        return float(model(**batch, use_cache=False).loss) * number

    with torch.no_grad():
        assert losses(True, ready) == pytest.approx(sum(losses(False, [each]) for each in ready), rel=1e-4)


@pytest.mark.parametrize("losses", [(), ("tiles", "frames", "pages", "turns")])
def test_a_text_that_is_too_long_is_left_out_and_never_cut(losses):
    work = SampleWork(build_processor(), 10, [None], too_long=losses)
    with pytest.raises(TooLongError, match=r"a\.jsonl:1: \d+ tokens, more than context_length 10"):
        work.prepare(0, "", plain_text())


def test_a_tokenizer_without_an_end_of_text_is_named():
    tokenizer = base_tokenizer()
    tokenizer.chat_template, tokenizer.eos_token = CHATML, None
    with pytest.raises(SampleError, match=r"a\.jsonl:1: the tokenizer has no eos_token"):
        TextChatWork(TextChat(tokenizer), 512, [None]).prepare(0, "", plain_text())


@pytest.mark.parametrize(
    "messages",
    [
        (Message(DOCUMENT, (TextPart("a"),)), assistant("b")),
        (Message(DOCUMENT, (TextPart("a"), TextPart("b"))),),
        (Message(DOCUMENT, ()),),
    ],
)
def test_a_document_is_one_text_alone(messages):
    with pytest.raises(ValueError, match="a message of the role 'document' has one text"):
        assert Conversation("a:1", messages).document
