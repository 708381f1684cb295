"""The demo's score is that of `smol-hf evaluate` on the rows that the demo writes."""

from dataclasses import replace

import pytest
import torch
from evaluation.held_out import evaluated, lines_of
from helpers import build_model, build_processor
from modeling.builders import randomise

from smol_hf.data.digits import evaluation_clips, evaluation_questions
from smol_hf.demo.asking import answer
from smol_hf.demo.held_out import write_held_out
from smol_hf.demo.report import score
from smol_hf.publishing.checkpoint import publish_checkpoint


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """A checkpoint whose answers depend on what it sees, and the demo's answers to pages and clips."""
    torch.manual_seed(0)
    processor = build_processor(longest_edge=32)
    model = randomise(build_model(processor), scale=0.3)
    folder = publish_checkpoint(tmp_path_factory.mktemp("same") / "checkpoint", model, processor)
    return folder, answer(folder, [*evaluation_questions(10, seed=1), *evaluation_clips(4, seed=1)])


def with_truth(answered, text):
    first, *others = answered.page.turns
    page = replace(answered.page, turns=(replace(first, answer=text), *others))
    return replace(answered, page=page)


@pytest.mark.parametrize("chosen", [slice(0, 10), slice(10, 14)], ids=["pages", "clips"])
def test_the_scores_are_equal(answered, tmp_path, chosen):
    checkpoint, everything = answered
    # Some answers become right: the random model knows none.
    known = [with_truth(each, each.answer) if number % 2 else each for number, each in enumerate(everything[chosen])]
    known[2] = with_truth(known[2], known[2].blind)
    expected = score(known)
    rows = write_held_out(tmp_path, [each.page for each in known])
    options = {"metric": ["exact_match"], "baselines": ["blind"], "max_new_tokens": 16, "batch_size": 3}
    results = evaluated(checkpoint, rows, tmp_path / "out", **options)
    for view, name in (("asked", "answer"), ("blind", "blind")):
        texts = [each["prediction"] for each in lines_of(tmp_path / "out") if each["view"] == view]
        assert texts == [getattr(each, name) for each in known]
    assert len(set(texts)) > 1 and expected["exact_match"] == 0.5 and expected["blind_exact_match"] > 0

    def as_in_the_demo(figures):
        found = figures["metrics"]["exact_match"]
        blind = found["baselines"]["blind"]["score"]
        return {"exact_match": found["score"], "blind_exact_match": blind, "questions": found["questions"]}

    ours = {key: value for key, value in expected.items() if key not in ("per_kind", "single_exact_match")}
    assert as_in_the_demo(results) == ours
    for kind, figures in expected["per_kind"].items():
        figures.pop("single_exact_match", None)
        assert as_in_the_demo(results["per_kind"][kind]) == figures
