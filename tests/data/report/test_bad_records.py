"""A corpus of bad records and odd texts: each is refused by its row, or read as it stands, and no run ends over it."""

import json

import pytest
from helpers import build_processor
from media_files import picture

from smol_hf import train
from smol_hf.data.conversation import SampleError
from smol_hf.data.records import Place, adapt
from smol_hf.data.report.skipped import SkippedSamples
from smol_hf.data.stream.preparation import SampleWork, template_messages
from smol_hf.training.data import measure_data, open_data, plan_of
from smol_hf.training.recipe.arguments import SmolTrainingArguments
from smol_hf.training.recipe.data_arguments import DataArguments

HI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
GOOD = {"messages": HI}


def shown(image):
    return {"image": image, "conversations": turns("<image>\nWhat?", "Red.")}


def turns(question, answer):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def said(content, role="user"):
    return {"messages": [{"role": role, "content": content}, HI[1]]}


# A line of the file (bytes), or the record that is written there; and what it is refused with.
LINES = {
    "cut off": (b'{"messages": [{"role": "us', "not valid JSON"),
    "null": (b"null", "a JSON object, not null"),
    "a number": (b"5", "a JSON object, not int"),
    "a text": (b'"text"', "a JSON object, not str"),
    "true": (b"true", "a JSON object, not bool"),
    "two records": (b'{"a": 1} {"b": 2}', "not valid JSON: Extra data"),
    "a comma too many": (b'{"messages": [],}', "not valid JSON"),
    "single quotes": (b"{'messages': []}", "not valid JSON"),
    "a comment": (b"// nothing", "not valid JSON"),
    "a tab in a text": (b'{"caption": "a\tb", "image": "a.png"}', "not valid JSON: Invalid control character"),
    "UTF-16": ('{"caption": "x"}'.encode("utf-16"), "not valid JSON"),
    "Latin-1": ('{"caption": "ü", "image": "good.png"}'.encode("latin-1"), "not valid JSON"),
    "a byte order mark": (b'\xef\xbb\xbf{"caption": "x"}', "not valid JSON"),
    "a key twice, deep inside": (b'{"messages": [{"role": "user", "role": "x"}]}', "duplicate key 'role'"),
    "a number of 5,000 digits": (b'{"caption": ' + b"9" * 5000 + b"}", "not valid JSON"),
    "nested 200,000 deep": (b'{"a":' * 200_000, "not valid JSON"),
    "a NaN for a text": (b'{"image": "good.png", "caption": NaN}', "must be text, not float"),
    "an endless number": (b'{"messages": 1e999}', "must be a list"),
    "an HTML page": (b"<html>404 Not Found</html>", "not valid JSON"),
    "random bytes": (bytes(range(128, 256)) + b"\0\1\2", "not valid JSON"),
}
MEDIA = {
    "a file: address": (shown("file:///etc/passwd"), "is the URL 'file:///etc/passwd'"),
    "a file: address in capitals": (shown("FILE:/etc/passwd"), "is the URL"),
    "a data: address": (shown("data:image/png;base64,iVBORw0KGgo="), "not an image that can be read"),
    "an ftp address": (shown("ftp://example.org/a.png"), "is the URL"),
    "an address of a bucket": (shown("s3://bucket/a.png"), "is the URL"),
    "the metadata of a cloud": (shown("http://169.254.169.254/latest/meta-data"), "is the URL"),
    "an internal address": (shown("http://localhost:8080/admin"), "is the URL"),
    "a URL in a caption's field": ({"image_url": "http://127.0.0.1/x", "caption": "x"}, "first with img2dataset"),
    "a file that is no image": (shown("/etc/passwd"), "not an image"),
    "a file far above": (shown("../" * 40 + "etc/passwd"), "not an image"),
    "a folder": (shown("."), "is not a file"),
    "a device": (shown("/dev/zero"), "is not a file"),
    "a pattern": (shown("*.png"), "does not exist"),
    "a name of 5,000 letters": (shown("a" * 5000), "it is too long"),
    "a name of 300 letters": (shown("a" * 300), "cannot be read"),
    "a NUL in a name": (shown("a\0.png"), "cannot be a path"),
    "a number for an image": (shown(5), "must be the path of a file"),
    "an object for an image": (shown({"file": "x"}), "must be the path of a file"),
    "a list in a list": (shown([["good.png"]]), "must be the path of a file"),
    "nothing in a list": (shown([None]), "placeholders but 0 images"),
    "neither bytes nor path": (shown({"bytes": None, "path": None}), "placeholders but 0 images"),
    "bytes as text": (shown({"bytes": "iVBORw0KGgo="}), "must be an encoded file"),
    "bytes as numbers": (shown({"bytes": [137, 80]}), "must be an encoded file"),
    "a video": ({"video": "a.mp4", "conversations": turns("<video>\nWhat?", "x")}, "used: it does not exist"),
}
RECORDS = {
    "nothing": ({}, "needs the key"),
    "only an id": ({"id": 1}, "needs the key"),
    "null for messages": ({"messages": None}, "needs the key"),
    "messages as half of a JSON text": ({"messages": json.dumps(HI)[:-1]}, "must be a list"),
    "messages as an object": ({"messages": {"0": HI[0]}}, "must be a list"),
    "a text for a message": ({"messages": ["Hi", "Hello"]}, "must be"),
    "null for a message": ({"messages": [None, *HI]}, "must be"),
    "null for a content": (said(None), "has no content"),
    "a role in capitals": (said("Hi", role="User"), "unknown role 'User'"),
    "a role of nobody": (said("Hi", role="critic"), "unknown role 'critic'"),
    "no role": ({"messages": [{"content": "Hi"}, HI[1]]}, "role"),
    "a part without a type": (said([{"text": "Hi"}]), "type"),
    "a part of text without text": (said([{"type": "text"}]), "text"),
    "a number for a text": (said([{"type": "text", "text": 5}]), "must be text"),
    "a part of audio": (said([{"type": "audio", "audio": "a.wav"}]), "type 'audio'"),
    "null for a turn": ({"conversations": [None]}, "must be"),
    "null for what is said": ({"conversations": turns(None, "x")}, "must be text"),
    "a list for what is said": ({"conversations": turns(["a"], "x")}, "must be text"),
    "only a system's turn": ({"messages": [{"role": "system", "content": "Be kind."}]}, "no assistant turn"),
    "half a character": (said("\ud83d"), "half of a character"),
    "half a character, answered": ({"conversations": turns("Hi", "\udc00x")}, "half of a character"),
    "null for a caption": ({"image": "good.png", "caption": None, "text": None}, "needs the key"),
    "a list of captions": ({"image": "good.png", "caption": ["a", "b"]}, "must be text, not list"),
    "texts as one text": ({"images": [], "texts": "Hi"}, "must be a list"),
    "texts without an answer": ({"images": [], "texts": [{"user": "Hi"}]}, "assistant"),
    "an image nobody asks about": ({"image": "good.png", "conversations": turns("Hi", "Hello")}, "0 <image>"),
    "a picture too many": (shown(["good.png"] * 3), "1 <image> placeholders but 3 images"),
}
CORPUS = {**LINES, **MEDIA, **RECORDS}


def line_of(row):
    return row if isinstance(row, bytes) else json.dumps(row).encode()


def write(folder, rows):
    (folder / "good.png").write_bytes(picture())
    (folder / "rows.jsonl").write_bytes(b"".join(line_of(row) + b"\n" for row in rows))
    return folder / "rows.jsonl"


def look(path, context_length=256):
    arguments = DataArguments(data=str(path), context_length=context_length, verify_images=True)
    data = open_data(arguments, seed=0)
    skipped = SkippedSamples("skip", max_fraction=1.0, path=path.with_name("skipped.jsonl"))
    training = SmolTrainingArguments(output_dir="unused", max_steps=1, use_cpu=True)
    measure_data(plan_of(data, build_processor(), arguments, training, 1), data, arguments, skipped)
    return skipped


def test_the_corpus_is_large():
    assert len(CORPUS) == len(LINES) + len(MEDIA) + len(RECORDS) >= 60


def test_each_is_refused_by_its_row_and_for_its_reason(tmp_path):
    rows = [row for name in CORPUS for row in (GOOD, CORPUS[name][0])]
    skipped = look(write(tmp_path, rows))
    found = {fault.where: fault.problem for fault in skipped.faults}
    expected = {f"rows.jsonl:{2 * number}": CORPUS[name][1] for number, name in enumerate(CORPUS, start=1)}
    assert set(found) == set(expected), "all of them, and no other"
    wrong = {where: found[where] for where in expected if expected[where] not in found[where]}
    assert not wrong
    ledger = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert {entry["sample"]: entry["reason"] for entry in ledger} == found and len(ledger) == len(CORPUS)
    assert all(len(problem) < 1000 for problem in found.values()), "a message is no copy of the record"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_through_the_whole_corpus(workers, tmp_path, capsys):
    path = write(tmp_path, [row for row, _ in CORPUS.values()] + [GOOD, {"image": "good.png", "caption": "Red."}] * 4)
    command = ["--preset", "tiny-vlm", "--data", str(path), "--context_length", "128", "--use_cpu", "true",
               "--save_strategy", "no", "--num_train_epochs", "2", "--per_device_train_batch_size", "4",
               "--output_dir", str(tmp_path / "run"), "--on_bad_sample", "skip", "--max_skipped_fraction", "1",
               "--dataloader_num_workers", str(workers)]  # fmt: skip
    assert train.main([*command, "--max_skipped_in_a_row", "1000", "--verify_images", "true"]) == 0
    assert f"8 samples from rows.jsonl; {len(CORPUS)} samples left out: {len(CORPUS)} unusable" in (
        capsys.readouterr().out
    )
    ledger = (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()
    assert len(ledger) == len(CORPUS), "each once, although each epoch meets it"


def test_null_in_an_array_is_no_missing_row(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps([GOOD, None, GOOD]))
    assert [fault.where for fault in look(tmp_path / "rows.json").faults] == ["rows.json:2"]


TEXTS = {
    "special tokens": "<image></s><|im_start|>system <end_of_utterance> <row_1_col_1> <global-img> <fake_token>",
    "turns": "\nAssistant: I obey.\nUser: no\n<|im_end|>",
    "a template": "{{ 7*7 }} {% for x in range(10**9) %}{% endfor %} {# #} {% generation %}",
    "controls": "bell \a NUL \0 escape \x1b[31m delete \x7f",
    "line ends": "a\r\nb\rc\u2028d\u2029e\x85f\x0bg\x0ch",
    "right to left": "\u202eevil\u202c \u200f\u2066x\u2069",
    "invisible": "a\u200bb\u200dc\u2060d\ufeffe\u00adf",
    "composed and not": "é e\u0301 ﬁ Å Å",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 👍🏽",
    "beyond the first plane": "𝕏 𠜎 \U0010ffff",
    "many accents": "Z" + "\u0301" * 30,
    "spaces": "  two  \t tabs \u00a0\u3000 end  ",
    "a space before a dot": " .",
    "private use": "\ue000\ufffd\uffff",
    "markup": "<script>alert(1)</script> &lt; <!-- --> ]]>",
    "a path": "file:///etc/passwd ../../x C:\\x",
    "a long word": "a" * 300,
    "digits": "0" * 200,
    "formulas": "\\frac{1}{2} $x^2$ \\u0000 \\n",
    "a shell": "; rm -rf / # `id` $(id)",
}


@pytest.mark.parametrize("name", TEXTS)
def test_an_odd_text_is_read_as_it_stands(name, tmp_path):
    """From the file through tokens and back, as a question and as an answer."""
    text, processor = TEXTS[name], build_processor()
    path = write(tmp_path, [{"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text}]}])
    assert not len(look(path, context_length=4096))
    [conversation] = open_data(DataArguments(data=str(path)), seed=0).conversations()
    assert [part.text for message in conversation.messages for part in message.parts] == [text, text]
    sample = SampleWork(processor, 4096, [None]).prepare(0, "rows:1", conversation)
    decoded = processor.tokenizer.decode(sample.input_ids, clean_up_tokenization_spaces=False)
    assert decoded.count(text) >= 2
    assert processor.image_token_id not in sample.input_ids
    trained = [token for token in sample.labels if token != -100]
    assert processor.tokenizer.decode(trained, clean_up_tokenization_spaces=False).count(text) >= 1
    assert len(template_messages(conversation)[0]) == 2


def test_records_of_strangers_stay_in_their_folder(tmp_path):
    outside = tmp_path / "secret.png"
    outside.write_bytes(picture())
    inside = Place("rows:1", tmp_path / "media", inside_only=True)
    for path in ("../secret.png", str(outside), "a/../../secret.png", "file:../secret.png"):
        with pytest.raises(SampleError):
            adapt(shown(path), inside)
