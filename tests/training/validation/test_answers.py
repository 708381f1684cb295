"""Answers that are generated in a validation: the right prompts, the answers of inference, the right scores."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers import build_model, build_processor, memorise, plan_for
from talks import records
from tiny_runs import train_here

from smol_hf.data.collator import SmolCollator
from smol_hf.data.conversation import DOCUMENT, Conversation, Message, TextPart
from smol_hf.data.digits import build_clips, build_pages
from smol_hf.data.media.images import load_image
from smol_hf.inference.answering import prompt_inputs
from smol_hf.inference.generation import generate
from smol_hf.inference.sampling import Sampling
from smol_hf.training.validation.answers import Answers, before_end, last_answer
from smol_hf.training.validation.measure import Seen


def process(rank=0, count=1):
    return SimpleNamespace(
        device=torch.device("cpu"), num_processes=count, process_index=rank, unwrap_model=lambda model: model,
        reduce=lambda values, reduction: values,
    )  # fmt: skip


def answers_of(conversations, processor, number=100, metrics=("exact_match", "contains"), tokens=8):
    plan = plan_for(conversations, processor, rounds=1, lanes=1)
    return Answers(plan, number, metrics, tokens, processor)


@pytest.fixture(scope="module")
def pages():
    """Pages of two questions each, of which the second asks about the page too."""
    return [page.conversation for page in build_pages(6, seed=0, split="train", turns=2)]


@pytest.fixture(scope="module")
def processor():
    return build_processor(longest_edge=32)


@pytest.fixture(scope="module")
def model(pages, processor):
    """It knows some of the answers by heart."""
    torch.manual_seed(0)
    plan = plan_for(pages[:3], processor)
    samples = [plan.work.encode(0, plan.work.prepare(0, each.sample_id, each)) for each in pages[:3]]
    return memorise(build_model(processor), 80, **SmolCollator(processor)(samples)).eval()


def messages_of(conversation):
    """The chat messages up to the last answer, and this answer."""
    messages = []
    for message in conversation.messages:
        content = [
            {"type": "text", "text": part.text}
            if isinstance(part, TextPart)
            else {"type": "image", "image": load_image(part, conversation.sample_id)}
            for part in message.parts
        ]
        messages.append({"role": message.role, "content": content})
    return messages[:-1], messages[-1]["content"][0]["text"]


def test_the_answers_are_those_of_inference(pages, processor, model):
    answers = answers_of(pages, processor)
    chosen = answers.choose(Seen())
    questions = [answers.question(*unit, Seen()) for unit in chosen]
    found = answers.generate(model, questions, torch.device("cpu"))
    by_name = {page.sample_id: messages_of(page) for page in pages}
    expected = []
    for (_, unit), question in zip(chosen, questions):
        messages, reference = by_name[unit.conversation.sample_id]
        assert question.reference == reference
        inputs = prompt_inputs(processor, [messages], torch.device("cpu"))
        [answer] = generate(model, processor.tokenizer, inputs, Sampling(), max_new_tokens=8, chat=True)
        expected.append(answer.text.strip())
    assert found == expected and len(set(found)) > 1
    right = sum(answer == question.reference for answer, question in zip(found, questions))
    assert 3 <= right < 6
    with torch.no_grad():
        scores = answers.score(model, process(), 2, Seen())
    assert scores == {"answers": 6, "exact_match": right / 6, "contains": pytest.approx(right / 6, abs=0.4)}


def test_the_chosen_samples_are_the_same_for_any_seed_of_the_run_and_number_of_processes(pages, processor):
    answers = answers_of(pages, processor, number=4)
    names = [unit.conversation.sample_id for _, unit in answers.choose(Seen())]
    assert len(names) == 4 == len(set(names))
    fewer = [unit.conversation.sample_id for _, unit in replace(answers, number=2).choose(Seen())]
    assert names[:2] == fewer
    shares = [answers.choose(Seen())[rank::3] for rank in range(3)]
    assert sorted(unit.conversation.sample_id for share in shares for _, unit in share) == sorted(names)


def test_the_frames_of_a_video_are_all_before_the_answer(processor, model):
    clips = [clip.conversation for clip in build_clips(2, seed=0, split="train")]
    answers = answers_of(clips, processor)
    for unit in answers.choose(Seen()):
        question = answers.question(*unit, Seen())
        shown = int((question.input_ids == processor.image_token_id).sum())
        assert len(question.tiles) * processor.image_seq_len == shown > processor.image_seq_len
        assert len(answers.generate(model, [question], torch.device("cpu"))) == 1


def test_a_last_turn_with_an_image_after_the_answer_is_not_shown(pages, processor):
    page = pages[0]
    asked, image = page.messages[0], page.images[0]
    later = Conversation(
        page.sample_id, (Message("user", (TextPart("Hello?"),)), page.messages[1], replace(asked, parts=(image,)))
    )
    answers = answers_of([later], processor)
    [unit] = answers.choose(Seen())
    question = answers.question(*unit, Seen())
    assert len(question.tiles) == 0 and processor.image_token_id not in question.input_ids


def test_plain_texts_are_not_asked(pages, processor):
    plain = Conversation("a:1", (Message(DOCUMENT, (TextPart("Once there was a king."),)),))
    seen = Seen()
    chosen = answers_of([plain, *pages[:2]], processor).choose(seen)
    assert {unit.conversation.sample_id for _, unit in chosen} == {each.sample_id for each in pages[:2]}
    assert not seen.skipped


def test_the_last_run_of_labels_is_the_last_answer():
    assert last_answer(torch.tensor([-100, -100, 5, 6])) == (2, 4)
    assert last_answer(torch.tensor([-100, 7, -100, -100, 5, 6, -100])) == (4, 6)
    assert last_answer(torch.tensor([-100, 9])) == (1, 2)
    assert before_end([4, 5, 2, 0, 0], [2, 3]) == [4, 5] and before_end([4, 5], [2]) == [4, 5]


def test_a_language_model_that_learned_its_answers_scores_1(tmp_path):
    talks = [[("user", "Sky?"), ("assistant", "Blue.")], [("user", "Sea?"), ("assistant", "Green and deep.")]]
    (tmp_path / "my.jsonl").write_text(records(*talks))
    keys = {
        "vision_config": None, "text_config": None, "preset": "tiny-text", "chat_template": "chatml",
        "data": str(tmp_path / "my.jsonl"), "eval_data": str(tmp_path / "my.jsonl"), "max_steps": 60,
        "eval_generate_samples": 2, "eval_metric": ["exact_match"], "eval_strategy": "steps", "eval_steps": 60,
        "logging_steps": 60, "eval_on_start": True, "save_strategy": "no", "context_length": 64,
    }  # fmt: skip
    trainer = train_here(tmp_path / "run", **keys)
    scores = [entry["eval_exact_match"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert scores == [0.0, 1.0]
