"""Metrics: the outputs of the benchmarks' own programs (lmms-eval 0.7.3) on 177 cases, and clean variants."""

import csv
import json
from pathlib import Path

import pytest
from doc_pages import read_page

from smol_hf.metrics import scores as metrics
from smol_hf.metrics.scores import METRICS, find_metric, last_letter, levenshtein, option_in, yes_or_no

VIDEO_MME = "_task_utils.mcq_extract.extract_mcq_answer (Video-MME, MLVU, MMStar)"
# Program → what of ours must give its output.
OURS = {
    "lmms_eval.api.metrics.anls": metrics.anls,
    "textvqa_process_results": metrics.vqa_accuracy,
    "vqav2_process_results": metrics.vqa_accuracy,
    "chartqa.relaxed_correctness": lambda answer, reference: metrics.relaxed_accuracy(answer, [reference]),
    "mvbench.mcq_acc": lambda answer, reference: metrics.multiple_choice_mvbench(answer, [reference]),
    VIDEO_MME: lambda answer, _: last_letter(answer),
    "ocrbench_process_results dataset=x": metrics.contains,
    "ocrbench_process_results dataset=HME100k": metrics.contains_formula,
    "sqa_process_results": lambda answer, number: metrics.multiple_choice_scienceqa(answer, ["ABCDE"[number]]),
    "mme.parse_pred_ans": lambda answer, _: yes_or_no(answer),
    "mmmu parse_mmmu_multi_choice_response": lambda answer, _: option_in(answer),
}
NO_OPEN = "MMMU's search for numbers and phrases in open answers is not offered: lmms-eval scores MMMU"
# Case → the reason for another result.
DIFFERENT = {
    163: "the clean metric reads 'The answer is (B) not (A)' as B, MMMU's as the last bracket",
    165: "MMMU draws a random letter when it finds none; ours is wrong then",
    166: "MMMU searches the texts of the options in long answers; ours needs the text among the references",
    167: "as case 165",
    168: "MMMU finds the option B inside the word PUB",
    **dict.fromkeys(range(169, 178), NO_OPEN),
}


def read_cases():
    with Path(__file__).with_name("metric_cases.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


CASES = read_cases()


@pytest.mark.parametrize("case", [each for each in CASES if int(each["case"]) < 169], ids=lambda case: case["case"])
def test_a_metric_gives_the_output_of_the_official_program(case):
    answer, reference, output = (json.loads(case[f"{key}_json"]) for key in ("prediction", "reference", "output"))
    ours = OURS[case["official_function (lmms-eval 0.7.3)"]](answer, reference)
    equal = ours == (pytest.approx(float(output)) if not isinstance(output, str) else output)
    assert equal != (int(case["case"]) in DIFFERENT), (answer, reference, ours, output)


def test_every_case_is_compared_or_has_a_reason():
    assert [int(each["case"]) for each in CASES] == list(range(1, 178))
    assert {int(each["case"]) for each in CASES if each["official_function (lmms-eval 0.7.3)"] not in OURS} <= set(
        DIFFERENT
    )


@pytest.mark.parametrize(
    "name, answer, references, score",
    [
        ("exact_match", " 42\n", ["42"], 1),
        ("exact_match", "yes", ["Yes"], 0),
        ("vqa_match", "A dog.", ["dog"], 1),
        ("vqa_match", "two dogs", ["cat", "2 dogs"], 1),
        ("vqa_match", "twenty", ["20"], 0),
        ("multiple_choice", "A dog is in B", ["B"], 1),
        ("multiple_choice", "A dog", ["A"], 0),
        ("multiple_choice", "a dog", ["A"], 0),
        ("multiple_choice", "The correct option is B, not A", ["B"], 1),
        ("multiple_choice", "I would choose option C because A is wrong", ["C"], 1),
        ("multiple_choice", "I think it is (C).", ["C"], 1),
        ("multiple_choice", "b", ["B"], 1),
        ("multiple_choice", "(b)", ["B"], 1),
        ("multiple_choice", "b. text", ["B"], 1),
        ("multiple_choice", "B) dog", ["(B)"], 1),
        ("multiple_choice", "**B**", ["B"], 1),
        ("multiple_choice", "答案是B", ["B"], 1),
        ("multiple_choice", r"\boxed{C}", ["C"], 1),
        ("multiple_choice", "B or C", ["B"], 0),
        ("multiple_choice", "Blue", ["B", "blue"], 1),
        ("multiple_choice", "PUB ", ["B"], 0),
        ("multiple_choice", "", ["A"], 0),
        ("yes_no", "Yes, it is.", ["yes"], 1),
        ("yes_no", "**No**", ["no"], 1),
        ("yes_no", "North", ["no"], 0),
        ("yes_no", "Not sure", ["no"], 0),
        ("word_error_rate", "the cat sat", ["the cat sat"], 0),
        ("word_error_rate", "the hat sat down", ["the cat sat"], 2 / 3),
        ("word_error_rate", "a b", ["x y", "a c"], 1 / 2),
        ("word_error_rate", "", ["two words"], 1),
        ("word_error_rate", "one two three", ["one"], 2),
        ("character_error_rate", "kitten", ["sitting"], 3 / 7),
        ("multiple_choice_video_mme", "A cat is on B", ["B"], 0),
        ("multiple_choice", "no letter here", [""], 0),
        ("yes_no_mme", "North", ["no"], 1),
    ],
)
def test_clean_metrics_and_error_rates(name, answer, references, score):
    assert METRICS[name].score(answer, references) == pytest.approx(score)


@pytest.mark.parametrize("first, second, distance", [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("flaw", "lawn", 2)])
def test_levenshtein(first, second, distance):
    assert levenshtein(first, second) == distance


def test_only_error_rates_are_better_when_lower_and_each_metric_has_a_summary():
    lower = {name for name, each in METRICS.items() if not each.higher_is_better}
    assert lower == {"word_error_rate", "character_error_rate"}
    assert all(each.summary.endswith(".") for each in METRICS.values())
    assert METRICS["anls"].is_right(0.5) and not METRICS["word_error_rate"].is_right(0.5)


def test_an_unknown_metric_suggests_the_nearest():
    with pytest.raises(ValueError, match="unknown metric 'anlz': did you mean 'anls'"):
        find_metric("anlz")


def test_the_guide_lists_every_metric():
    page = read_page("evaluation")
    assert [name for name in METRICS if f"`{name}`" not in page] == []
