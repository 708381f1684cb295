"""Benchmarks with a fake harness: command lines, scores, and failed or partial runs."""

import json
import math
from pathlib import Path

import pytest
from evaluation.benchmarks.fake_harness import FakeHarness
from rich.console import Console

from smol_hf.evaluation.benchmarks.report import describe_benchmarks
from smol_hf.evaluation.benchmarks.run import run_benchmarks
from smol_hf.evaluation.benchmarks.suite import BENCHMARKS

DOCVQA = {"results": {"docvqa_val": {"anls,none": 0.5831, "anls_stderr,none": 0.1}}, "sizes": {"docvqa_val": 40}}
HELLASWAG = {
    "results": {"hellaswag": {"alias": "hellaswag", "acc,none": 0.3, "acc_norm,none": 0.421}},
    "sizes": {"hellaswag": 9},
}


@pytest.fixture
def vlm(tmp_path):
    return folder_of(tmp_path / "vlm", {"model_type": "smol_hf", "vision_config": {}})


@pytest.fixture
def text(tmp_path):
    return folder_of(tmp_path / "text", {"model_type": "smol_hf_text"})


def folder_of(folder, config):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def run(tmp_path, checkpoint, benchmarks, python, **options):
    names = benchmarks.split(",") if isinstance(benchmarks, str) else benchmarks
    harnesses = {BENCHMARKS[name].harness if name in BENCHMARKS else "lmms-eval" for name in names}
    pythons = {f"{harness.replace('-', '_')}_python": str(python) for harness in harnesses}
    return run_benchmarks(checkpoint, benchmarks, output=tmp_path / "out", **{**pythons, **options})


def report(facts):
    console = Console(width=140, file=None)
    with console.capture() as captured:
        for part in describe_benchmarks(facts):
            console.print(part, markup=False, highlight=False)
    return captured.get()


def test_a_score_and_the_published_one(tmp_path, vlm):
    python = FakeHarness(tmp_path, **DOCVQA)
    facts = run(tmp_path, vlm, "DocVQA", python, published="smolvlm2-256m", batch_size=3, device="cpu", seed=5)
    assert facts["benchmarks"]["docvqa"] == {
        "title": "DocVQA (val)", "score": pytest.approx(58.31), "samples": 40, "published": 58.3,
    }  # fmt: skip
    ((words, modules),) = python.calls
    assert words == [
        "-m", "lmms_eval", "--model", "smol_hf", "--model_args", f"pretrained={vlm},dtype=auto",
        "--tasks", "docvqa_val", "--batch_size", "3", "--seed", "5,5,5,5", "--log_samples",
        "--output_path", str(tmp_path / "out" / "docvqa"),
        "--process_docs_parallel", "1", "--device", "cpu",
    ]  # fmt: skip
    assert "smol_hf_benchmarks_" in modules
    printed = report(facts)
    assert "58.3" in printed and "+0.0" in printed and "arXiv 2504.05299" in printed
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == facts


def test_text_benchmarks_run_lm_eval(tmp_path, text):
    python = FakeHarness(tmp_path, **HELLASWAG)
    facts = run(tmp_path, text, ["hellaswag"], python, published="smollm2-135m", trust_remote_code=True)
    assert facts["benchmarks"]["hellaswag"]["score"] == pytest.approx(42.1)
    ((words, _),) = python.calls
    assert words[:5] == ["-m", "smol_hf.evaluation.benchmarks.lm_eval_launch", "run", "--model", "hf"]
    assert f"pretrained={text},dtype=auto,trust_remote_code=True" in words
    assert "--num_fewshot" not in words and "--apply_chat_template" not in words


def test_few_shot_and_chat_of_a_benchmark(tmp_path, text):
    results = {
        "gsm8k": {"exact_match,flexible-extract": 0.5, "exact_match,strict-match": 0.25},
        "ifeval": {"prompt_level_strict_acc,none": 0.2, "inst_level_strict_acc,none": 0.4},
    }
    python = FakeHarness(tmp_path, results=results, sizes={"gsm8k": 4, "ifeval": 5}, filters=2)
    facts = run(tmp_path, text, "gsm8k,ifeval", python)
    assert {name: each["score"] for name, each in facts["benchmarks"].items()} == pytest.approx(
        {"gsm8k": 25.0, "ifeval": 30.0}
    )
    assert [each["samples"] for each in facts["benchmarks"].values()] == [4, 5]
    (gsm8k, _), (ifeval, _) = python.calls
    assert gsm8k[gsm8k.index("--num_fewshot") + 1] == "5" and "--apply_chat_template" not in gsm8k
    assert "--apply_chat_template" in ifeval


def test_several_tasks_and_groups_are_averaged(tmp_path, text, vlm):
    arc = {"arc_easy": {"acc_norm,none": 0.5}, "arc_challenge": {"acc_norm,none": 0.2}}
    python = FakeHarness(tmp_path, results=arc, sizes={"arc_easy": 3, "arc_challenge": 2})
    assert run(tmp_path, text, "arc", python)["benchmarks"]["arc"] == {
        "title": "ARC (average)", "score": pytest.approx(35.0), "samples": 5, "published": None,
    }  # fmt: skip
    mvbench = {"mvbench_a": {"mvbench_accuracy,none": 40.0}, "mvbench_b": {"mvbench_accuracy,none": 20.0}}
    groups = {"mvbench": ["mvbench_a", "mvbench_b"]}
    python = FakeHarness(tmp_path, results=mvbench, groups=groups, sizes={"mvbench_a": 3, "mvbench_b": 2})
    assert run(tmp_path, vlm, "mvbench", python)["benchmarks"]["mvbench"]["score"] == pytest.approx(30.0)


def test_a_group_with_a_score_of_its_own(tmp_path, text):
    results = {"mmlu_continuation": {"acc,none": 0.3}, "stem": {"acc,none": 0.9}, "physics": {"acc,none": 0.9}}
    groups = {"mmlu_continuation": ["stem"], "stem": ["physics"]}
    python = FakeHarness(tmp_path, results=results, groups=groups, sizes={"physics": 7})
    facts = run(tmp_path, text, "mmlu", python)["benchmarks"]["mmlu"]
    assert (facts["score"], facts["samples"]) == (pytest.approx(30.0), 7)


@pytest.mark.parametrize(
    "printed, reason",
    [
        (
            "GatedRepoError\ndatasets.exceptions.DatasetNotFoundError: Dataset 'a/b' is a gated dataset on the Hub. "
            "You must be authenticated to access it.",
            "the dataset a/b is gated: accept its conditions on huggingface.co/datasets/a/b, and run hf auth login",
        ),
        ("ValueError: Token is required (`token=True`), but no token found.", "run hf auth login"),
        ("ModuleNotFoundError: No module named 'cv2'", "the package cv2 is missing: install it with"),
        (
            "requests.exceptions.ConnectionError: Couldn't reach the Hugging Face Hub",
            "there is no connection to the Hugging Face Hub: connect, or download lmms-lab-encoder/DocVQA before",
        ),
        ("torch.OutOfMemoryError: CUDA out of memory.", "lower the batch size"),
        ("some line\nKeyError: 'strange'\nlast line", "KeyError: 'strange'"),
        ("", "it printed nothing"),
    ],
)
@pytest.mark.parametrize("code", [0, 1])
def test_a_failed_run_is_one_sentence(tmp_path, vlm, printed, reason, code):
    """lmms-eval exits with code 0 when it fails."""
    python = FakeHarness(tmp_path, prints=printed, exit=code)
    with pytest.raises(RuntimeError) as error:
        run(tmp_path, vlm, "docvqa", python)
    assert reason in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith("1 of 1 benchmarks failed (docvqa: ")


def test_the_other_benchmarks_run_after_a_failure(tmp_path, vlm, capsys):
    python = FakeHarness(tmp_path, **DOCVQA)
    with pytest.raises(
        RuntimeError, match=r"1 of 2 benchmarks failed \(textvqa: .* task textvqa_val\); the other scores"
    ):
        run(tmp_path, vlm, "textvqa,docvqa", python)
    assert list(json.loads((tmp_path / "out" / "scores.json").read_text())["benchmarks"]) == ["docvqa"]
    assert "docvqa: 58.31 (40 samples)" in capsys.readouterr().err


def test_results_of_an_earlier_run_are_not_read(tmp_path, vlm):
    run(tmp_path, vlm, "docvqa", FakeHarness(tmp_path, **DOCVQA))
    with pytest.raises(RuntimeError, match="it printed nothing"):
        run(tmp_path, vlm, "docvqa", FakeHarness(tmp_path))
    assert not (tmp_path / "out" / "scores.json").exists()


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"answered": {"docvqa_val": 39}}, "docvqa_val has answers for 39 of 40 samples"),
        ({"answered": {"docvqa_val": 0}}, "docvqa_val has answers for 0 of 40 samples"),
        ({"sizes": {}}, "do not state how many samples docvqa_val has"),
        ({"results": {"docvqa_val": {"other,none": 1.0}}}, "the results have no score 'anls'"),
        ({"results": {"docvqa_val": {"anls,none": None}}}, "the results have no score 'anls'"),
        ({"results": {"docvqa_val": {"anls,none": math.nan}}}, "the results have no score 'anls'"),
        ({"results": {}}, "do not contain the task docvqa_val"),
    ],
)
def test_partial_results_are_refused(tmp_path, vlm, change, reason):
    with pytest.raises(RuntimeError, match=reason):
        run(tmp_path, vlm, "docvqa", FakeHarness(tmp_path, **{**DOCVQA, **change}))


def test_a_limit_is_reported(tmp_path, vlm):
    facts = run(tmp_path, vlm, "docvqa", FakeHarness(tmp_path, **DOCVQA), limit=7)
    assert facts["benchmarks"]["docvqa"]["samples"] == 7
    assert "Only the first 7 samples of each task: not comparable with published scores." in report(facts)
    with pytest.raises(RuntimeError, match="answers for 6 of 7 samples"):
        run(tmp_path, vlm, "docvqa", FakeHarness(tmp_path, **DOCVQA, answered={"docvqa_val": 6}), limit=7)


def test_random_choices_and_long_prompts_are_reported(tmp_path, vlm):
    results = {"results": {"mmmu_val": {"mmmu_acc,none": 0.29}}, "sizes": {"mmmu_val": 30}}
    counts = {"answers": 30, "too_long": 2, "random_choices": 11}
    printed = report(run(tmp_path, vlm, "mmmu", FakeHarness(tmp_path, **results, counts=counts)))
    assert "MMMU (val): 11 answers name no choice; lmms-eval drew a random one (seeded)." in printed
    assert "MMMU (val): 2 prompts exceed the context; their answers are empty." in printed


@pytest.mark.parametrize(
    "benchmarks, options, reason",
    [
        ("docvqq", {}, "unknown benchmark 'docvqq': did you mean 'docvqa'"),
        (" , ", {}, "no benchmark is named"),
        ("docvqa", {"published": "smolvlm2-256"}, "did you mean 'smolvlm2-256m'"),
        ("docvqa", {"limit": 0}, "limit is 0: it must be at least 1"),
        ("docvqa", {"seed": -1}, "seed is -1: it must be at least 0"),
        ("docvqa", {"seed": 2**40}, "seed is 1099511627776: it must be at most 4294967295"),
        ("docvqa,hellaswag", {}, "vlm is a vision-language model, but hellaswag needs a text-only model"),
        ("mathvista", {}, "set OPENAI_API_KEY, or leave mathvista out"),
        ("docvqa", {"tasks_folder": "missing"}, "has no YAML file with the key task"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_runs(tmp_path, vlm, monkeypatch, benchmarks, options, reason):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    python = FakeHarness(tmp_path, **DOCVQA)
    with pytest.raises(ValueError, match=reason):
        run(tmp_path, vlm, benchmarks, python, **options)
    assert not python.calls_file.exists()


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, text, monkeypatch):
    python = FakeHarness(tmp_path, **DOCVQA)
    with pytest.raises(ValueError, match="text is a text-only model, but docvqa needs a vision-language model"):
        run(tmp_path, text, "docvqa", python)
    with pytest.raises(ValueError, match="there is no checkpoint folder"):
        run(tmp_path, tmp_path / "nothing", "docvqa", python)
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(ValueError, match="there is no checkpoint folder"):
        run(tmp_path, Path(tmp_path.name) / "nothing", "docvqa", python)
    (tmp_path / "out").write_text("")
    with pytest.raises(ValueError, match="out is a file: choose another --output"):
        run(tmp_path, text, "hellaswag", python)
    (tmp_path / "out").unlink()
    (text / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="is an adapter: merge it"):
        run(tmp_path, text, "hellaswag", python)
    strange = folder_of(tmp_path / "a,b", {"model_type": "smol_hf_text"})
    with pytest.raises(ValueError, match="contains ',' or '='"):
        run(tmp_path, strange, "hellaswag", python)


def test_an_interpreter_without_the_harness_is_refused(tmp_path, vlm):
    python = FakeHarness(tmp_path, missing=True)
    with pytest.raises(ValueError, match=r"does not have lmms-eval: run .* -m pip install lmms-eval==0.7.3"):
        run(tmp_path, vlm, "docvqa", python)
    with pytest.raises(ValueError, match=r"--lmms-eval-python .*nowhere does not run: No such file"):
        run(tmp_path, vlm, "docvqa", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="--lmms-eval-python true is not an interpreter of Python"):
        run(tmp_path, vlm, "docvqa", "true")


def test_own_tasks(tmp_path, vlm):
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "mine.yaml").write_text("task: 'my_task'\ndoc_to_text: !function utils.text\n")
    python = FakeHarness(tmp_path, results={"my_task": {"alias": "x", "exact,none": 0.5}}, sizes={"my_task": 2})
    facts = run(tmp_path, vlm, "my_task", python, tasks_folder=tasks)
    assert facts["benchmarks"]["my_task"]["score"] == 0.5
    ((words, _),) = python.calls
    assert words[words.index("--include_path") + 1] == str(tasks)
    with pytest.raises(ValueError, match="owner/model is not a folder: download the checkpoint first"):
        run(tmp_path, "owner/model", "my_task", python, tasks_folder=tasks)


def test_a_dry_run_starts_nothing(tmp_path, vlm, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    facts = run_benchmarks(
        vlm, "video-mme,mathvista", dry_run=True, published="smolvlm2-500m", output=tmp_path / "out"
    )
    printed = " ".join(report(facts).split())  # long paths of a folder change the ends of lines
    assert "(will be built)" in printed and "lmms-eval==0.7.3" in printed and "OPENAI_API_KEY" in printed
    assert "lmms-eval/Video-MME" in printed and "2,700" in printed and "42.2" in printed
    assert "--tasks videomme" in printed and "puts the plug-in on PYTHONPATH" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vlm"]


def test_a_dry_run_names_a_given_interpreter(tmp_path, text):
    facts = run_benchmarks(text, "hellaswag", dry_run=True, lm_eval_python="/opt/python", output=tmp_path / "out")
    assert facts["environments"] == {"lm-eval": {"python": "/opt/python", "install": []}}
    assert facts["planned"]["hellaswag"]["command"].startswith("/opt/python -m smol_hf")
    with pytest.raises(ValueError, match="--lmms-eval-python has no effect with hellaswag: leave it out"):
        run_benchmarks(text, "hellaswag", dry_run=True, lmms_eval_python="/opt/python", output=tmp_path / "out")
