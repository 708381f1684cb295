"""`smol-hf generate`: what transformers' `generate` writes, whatever the batch, the cache and the way it is shown."""

import pytest
from inference.answers import answers, generator, texts
from inference.text_checkpoints import STORY, save_text_checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from smol_hf.inference.generation import before_stop
from smol_hf.inference.prompts import Prompt

PROMPTS = ["Once upon", "A", "What is this? Which digit is written here?", "7 and 8"]
HOT = {"temperature": 1.5, "top_k": 200, "top_p": 0.95, "min_p": 0.001, "repetition_penalty": 1.1}


@pytest.fixture(scope="module", params=["llama", "gpt", "native"])
def any_checkpoint(request, tmp_path_factory):
    return save_text_checkpoint(tmp_path_factory.mktemp(request.param), request.param)


def write(stream):
    """(what was streamed, the `Generation` at its end)"""
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as stopped:
            return pieces, stopped.value


# -- equal to transformers --------------------------------------------------------------------------------------------


def by_transformers(checkpoint, prompt, **options):
    """The words of transformers alone."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    inputs = tokenizer(prompt, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=24, **options)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_greedy_equals_transformers(any_checkpoint):
    expected = [by_transformers(any_checkpoint, prompt, do_sample=False) for prompt in PROMPTS]
    assert len(set(expected)) == len(PROMPTS)
    assert texts(any_checkpoint, PROMPTS, max_new_tokens=24) == expected


def test_sampling_with_a_seed_equals_transformers(any_checkpoint):
    expected = []
    for row, prompt in enumerate(PROMPTS):
        set_seed(5 + row)
        expected.append(by_transformers(any_checkpoint, prompt, do_sample=True, **HOT))
    assert texts(any_checkpoint, PROMPTS, batch_size=3, max_new_tokens=24, seed=5, **HOT) == expected
    assert texts(any_checkpoint, PROMPTS, max_new_tokens=24) != expected, "sampled"


@pytest.mark.parametrize("sampling", [{}, {"seed": 3, **HOT}], ids=["greedy", "sampled"])
@pytest.mark.parametrize("cache", ["dynamic", "static", "none"])
def test_neither_batch_nor_cache_changes_an_answer(any_checkpoint, cache, sampling):
    alone = answers(any_checkpoint, PROMPTS, max_new_tokens=24, **sampling)
    batched = answers(any_checkpoint, PROMPTS, batch_size=3, max_new_tokens=24, cache=cache, **sampling)
    assert [(each.text, each.tokens, each.finish_reason) for each in batched] == [
        (each.text, each.tokens, each.finish_reason) for each in alone
    ]


def test_equal_prompts_are_sampled_anew_and_a_run_repeats_with_its_seed(checkpoint):
    first, second = texts(checkpoint, ["A", "A"], batch_size=2, seed=1, max_new_tokens=12, temperature=2.0)
    assert first != second
    assert texts(checkpoint, ["A"], seed=2, max_new_tokens=12, temperature=2.0) == [second], "seed + row"
    assert len({texts(checkpoint, ["A"], max_new_tokens=12, temperature=2.0)[0] for _ in range(4)}) > 1, "no seed"
    assert texts(checkpoint, ["A"], temperature=2.0, top_k=1) == texts(checkpoint, ["A"])


# -- where an answer ends ---------------------------------------------------------------------------------------------


def test_the_end_token_ends_an_answer(storyteller):
    (answer,) = answers(storyteller, ["Once upon a"])
    assert answer.text == STORY.removeprefix("Once upon a")
    assert answer.finish_reason == "end"
    assert answer.tokens == len(AutoTokenizer.from_pretrained(storyteller)(answer.text)["input_ids"]) + 1
    (cut,) = answers(storyteller, ["Once upon a"], max_new_tokens=5)
    assert (cut.finish_reason, cut.tokens) == ("length", 5) and answer.text.startswith(cut.text)


def test_an_answer_ends_before_a_stop_string(storyteller):
    prompts = ["Once upon a", "Once upon a time, far away: “Žluťoučký kůň” met 🦊🦊"]
    for stop, ends in (["kůň” m"], [" time, far away: “Žluťoučký ", STORY.split("🦊🦊")[1]]), (
        ["no such words", "本", "語の"], [" time, far away: “Žluťoučký kůň” met 🦊🦊 and 日", " and 日"]
    ):  # fmt: skip
        batched = answers(storyteller, prompts, batch_size=2, stop=stop)
        assert [each.text for each in batched] == ends
        for prompt, each in zip(prompts, batched):
            (alone,) = answers(storyteller, [prompt], stop=stop)
            assert (alone.text, alone.tokens, alone.finish_reason) == (each.text, each.tokens, each.finish_reason)
            assert write(generator(storyteller, stop=stop).stream(Prompt(prompt)))[1].text == each.text
    assert batched[0].finish_reason == "stop"


def test_the_end_of_a_prompt_is_no_part_of_a_stop_string(storyteller):
    assert texts(storyteller, ["Once upon a"], stop=["on a time"]) == [STORY.removeprefix("Once upon a")]


def test_what_streams_is_the_answer_in_whole_characters(storyteller):
    (expected,) = answers(storyteller, ["Once upon a"])
    pieces, answer = write(generator(storyteller).stream(Prompt("Once upon a")))
    assert "".join(pieces) == answer.text == expected.text
    assert len(pieces) > 5 and not any("\ufffd" in piece for piece in pieces)
    assert (answer.tokens, answer.finish_reason) == (expected.tokens, "end")


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_no_part_of_a_stop_string_is_shown(size):
    text = "a STO b STOP c"
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    assert "".join(before_stop(pieces, ["STOP", "nothing"])) == "a STO b "
    assert "".join(before_stop(pieces, ["nothing", "c!"])) == text
