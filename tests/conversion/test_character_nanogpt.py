"""A character-level nanoGPT: the characters of its meta.pkl become the tokenizer of the converted model."""

import collections
import json
import pickle

import pytest
import torch
from conversion.test_nanogpt import SIZES, checkpoint, nanogpt_logits, state_dict
from transformers import AutoModelForCausalLM, AutoTokenizer

from smol_hf.commands.main import main
from smol_hf.conversion.composition.compose import compose
from smol_hf.conversion.convert import convert
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.conversion.nanogpt_meta import read_characters

CHARACTERS = [chr(32 + number) for number in range(91)] + ["\n", "\t", "\r", "é", "—"]  # without { | } ~
TEXT = "".join(CHARACTERS) + "\r\n  To be,\n\n or\tnot  "


def meta_of(characters):
    """What nanoGPT's data/shakespeare_char/prepare.py writes."""
    ids = {character: number for number, character in enumerate(characters)}
    return {"vocab_size": len(ids), "itos": {number: each for each, number in ids.items()}, "stoi": ids}


def save(folder, meta=None, place="meta.pkl", **changes):
    """A checkpoint of nanoGPT's train.py, with a meta.pkl in one of its places."""
    tensors = state_dict(True)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint(tensors, **changes), folder / "ckpt.pt")
    if meta is not None:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(pickle.dumps(meta))
    return folder / "ckpt.pt", tensors


@torch.no_grad()
def test_every_character_returns_and_the_logits_stay(tmp_path):
    path, tensors = save(tmp_path / "out", meta_of(CHARACTERS))
    facts = convert(str(path), tmp_path / "ours")
    assert facts["notes"] == [f"the tokenizer has the 96 characters of {tmp_path / 'out' / 'meta.pkl'}"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ours")
    ids = tokenizer(TEXT)["input_ids"]
    assert ids == [CHARACTERS.index(each) for each in TEXT] and tokenizer.decode(ids) == TEXT
    assert tokenizer("a~b")["input_ids"][1] == tokenizer.unk_token_id == 96 and tokenizer.eos_token_id == 97
    assert json.loads((tmp_path / "ours" / "tokenizer_config.json").read_text())["padding_side"] == "left"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    logits = model(torch.tensor([ids[:40]])).logits[0]
    torch.testing.assert_close(logits[:, :96], nanogpt_logits(tensors, ids[:40]), rtol=0, atol=1e-5)
    assert model.config.vocab_size == 98 and model.generation_config.suppress_tokens == [96]


@pytest.mark.parametrize("place", ["data/mine/meta.pkl", "../data/mine/meta.pkl"])
def test_it_is_found_where_nanogpt_has_it(place, tmp_path):
    path, _ = save(tmp_path / "out", meta_of(CHARACTERS), place, config={"dataset": "mine"})
    convert(str(path), tmp_path / "ours")
    assert len(AutoTokenizer.from_pretrained(tmp_path / "ours")) == 98


def test_it_is_named_with_tokenizer(tmp_path, capsys):
    path, _ = save(tmp_path / "out", config={"dataset": "../../elsewhere"})
    assert main(["convert", str(path), str(tmp_path / "without")]) == 0
    assert "(of a character-level nanoGPT: the meta.pkl of its data)" in " ".join(capsys.readouterr().out.split())
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(meta_of(CHARACTERS)))
    assert main(["convert", str(path), str(tmp_path / "ours"), "--tokenizer", str(tmp_path / "meta.pkl")]) == 0
    assert len(AutoTokenizer.from_pretrained(tmp_path / "ours")) == 98


def test_vision_is_composed_and_all_new_tokens_are_trained(tmp_path):
    from conversion.native_models import saved
    from conversion.test_compose import build_encoder

    saved(lambda: build_encoder("siglip"), tmp_path / "encoder")
    path, _ = save(tmp_path / "out", meta_of(CHARACTERS))
    convert(str(path), tmp_path / "ours")
    compose(str(tmp_path / "encoder"), str(tmp_path / "ours"), tmp_path / "vlm", longest_edge=24)
    config = json.loads((tmp_path / "vlm" / "config.json").read_text())
    assert config["new_tokens"] == [96, config["text_config"]["vocab_size"]]


class Hostile:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code in a pickle ran')",))


def cyclic():
    value = [1]
    value.append(value)
    return value


GOOD = meta_of(CHARACTERS)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (Hostile(), "refused, it contains builtins.exec"),
        ({**GOOD, "more": Hostile()}, "refused, it contains builtins.exec"),
        ({**GOOD, "more": torch.zeros(1)}, "refused, it contains torch"),
        ({**GOOD, "stoi": collections.OrderedDict(GOOD["stoi"])}, "refused, it contains collections.OrderedDict"),
        ({**GOOD, "more": [{"deep": 1.5}]}, "refused, it contains a float"),
        ({**GOOD, "more": (1,)}, "refused, it contains a tuple"),
        ({**GOOD, "more": [cyclic(), None]}, "refused, it contains a NoneType"),
        (["a", "b"], "there is no 'stoi'"),
        ({"stoi": {"a": 0, "the": 1}}, "the token 'the' is not one character"),
        ({"stoi": {"a": 0, "\ud800": 1}}, "is not one character"),
        ({"stoi": {"a": 0, 1: 1}}, "'stoi' has 1: 1 instead of a character"),
        ({"stoi": {"a": 0, "b": "1"}}, "'stoi' has 'b': '1' instead of a character"),
        ({"stoi": {"a": 0, "b": 2}}, "the 2 ids of 'stoi' are not 0 to 1"),
        ({**GOOD, "itos": ["b"]}, "'itos' and 'stoi' contradict each other"),
        ({**GOOD, "vocab_size": 3}, "vocab_size is 3, but 'stoi' has 96 characters"),
    ],
)
def test_another_pickle_is_refused_by_name_and_not_run(meta, message, tmp_path):
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(meta))
    with pytest.raises(ConversionError, match=message):
        read_characters(tmp_path / "meta.pkl")


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_of_pickle_is_read(protocol, tmp_path):
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({**GOOD, "itos": CHARACTERS}, protocol))
    assert read_characters(tmp_path / "meta.pkl") == CHARACTERS


@pytest.mark.parametrize(
    "content",
    [b"", b"not a pickle", pickle.dumps(GOOD)[:200], b"cos\nsystem\n(S'x'\ntR.", b"\x82\x01.", b"Pabc\n.", b"("],
)
def test_a_damaged_or_hand_written_pickle_is_one_sentence(content, tmp_path):
    (tmp_path / "meta.pkl").write_bytes(content)
    with pytest.raises(ConversionError, match=r"meta\.pkl"):
        read_characters(tmp_path / "meta.pkl")


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04}r" + (0x20000000).to_bytes(4, "little") + b".",  # a place in the memo: gigabytes
        pickle.dumps({"stoi": {"a": 0}, "vocab_size": 10**5000}),
    ],
)
def test_a_number_that_no_list_of_characters_needs_is_refused(content, tmp_path):
    (tmp_path / "meta.pkl").write_bytes(content)
    with pytest.raises(ConversionError, match=r"meta\.pkl: refused, .* has a number that no list of characters needs"):
        read_characters(tmp_path / "meta.pkl")


def test_the_meta_of_another_model_is_refused_and_nothing_written(tmp_path):
    path, _ = save(tmp_path / "out", meta_of(CHARACTERS[:-1]))
    with pytest.raises(ConversionError, match=f"has 95 characters, but the model of .* {SIZES['vocab_size']} tokens"):
        convert(str(path), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()
