"""Published benchmarks: their names, and the tasks of lmms-eval and lm-evaluation-harness that measure them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smol_hf.support.formatting import nearest

LMMS_EVAL, LM_EVAL = "lmms-eval", "lm-eval"
COUNTS = "SMOL_HF_BENCHMARK_COUNTS"  # environment variable: the file into which the plug-in writes its counts


@dataclass(frozen=True)
class Benchmark:
    """A benchmark and the tasks that measure it.

    Args:
        title: name in papers.
        harness: `LMMS_EVAL` or `LM_EVAL`.
        task: task or group of the harness; several are separated by commas, and the score is their mean.
        metric: key of the score in the results.
        dataset: Hub id of the data.
        samples: number of questions.
        scale: factor from the harness's metric to the printed score.
        few_shot: number of solved examples in a prompt.
        chat: whether the prompts of lm-eval are chat turns.
        judge: whether an OpenAI model reads the answers, which needs OPENAI_API_KEY.
    """

    title: str
    harness: str
    task: str
    metric: str
    dataset: str = ""
    samples: int | None = None
    scale: float = 100.0
    few_shot: int = 0
    chat: bool = False
    judge: bool = False


def images(title, task, metric, dataset, samples, scale=100.0, judge=False) -> Benchmark:
    return Benchmark(title, LMMS_EVAL, task, metric, dataset, samples, scale, judge=judge)


def text(title, task, metric, dataset, samples, few_shot=0, chat=False) -> Benchmark:
    return Benchmark(title, LM_EVAL, task, metric, dataset, samples, few_shot=few_shot, chat=chat)


BENCHMARKS = {
    "video-mme": images("Video-MME", "videomme", "videomme_perception_score", "lmms-eval/Video-MME", 2_700, 1.0),
    "mlvu": images("MLVU", "mlvu_dev", "mlvu_percetion_score", "sy1998/MLVU_dev", 2_174, 1.0),
    "mvbench": images("MVBench", "mvbench", "mvbench_accuracy", "OpenGVLab/MVBench", 4_000, 1.0),
    "docvqa": images("DocVQA (val)", "docvqa_val", "anls", "lmms-lab-encoder/DocVQA", 5_349),
    "textvqa": images("TextVQA (val)", "textvqa_val", "exact_match", "lmms-lab-encoder/textvqa", 5_000),
    "chartqa": images("ChartQA (test)", "chartqa", "relaxed_overall", "lmms-lab-encoder/ChartQA", 2_500),
    "mmstar": images("MMStar", "mmstar", "average", "Lin-Chen/MMStar", 1_500),
    "mmmu": images("MMMU (val)", "mmmu_val", "mmmu_acc", "lmms-lab-encoder/MMMU", 900),
    "ai2d": images("AI2D", "ai2d", "exact_match", "lmms-lab-encoder/ai2d", 3_088),
    "ocrbench": images("OCRBench", "ocrbench", "ocrbench_accuracy", "echo840/OCRBench", 1_000),
    "scienceqa": images("ScienceQA (images)", "scienceqa_img", "exact_match", "lmms-lab-encoder/ScienceQA", 2_017),
    "mathvista": images(
        "MathVista (testmini)", "mathvista_testmini_format", "llm_as_judge_eval", "AI4Math/MathVista", 1_000, 1.0, True
    ),
    "mme": images("MME (perception)", "mme", "mme_perception_score", "lmms-lab-encoder/MME", 2_374, 1.0),
    "pope": images("POPE", "pope", "pope_accuracy", "lmms-lab-encoder/POPE", 9_000),
    "hellaswag": text("HellaSwag", "hellaswag", "acc_norm", "Rowan/hellaswag", 10_042),
    "arc": text("ARC (average)", "arc_easy,arc_challenge", "acc_norm", "allenai/ai2_arc", 3_548),
    "piqa": text("PIQA", "piqa", "acc_norm", "baber/piqa", 1_838),
    "mmlu": text("MMLU (cloze)", "mmlu_continuation", "acc", "cais/mmlu", 14_042),
    "commonsenseqa": text("CommonsenseQA", "commonsense_qa", "acc", "tau/commonsense_qa", 1_221),
    "triviaqa": text("TriviaQA", "triviaqa", "exact_match", "mandarjoshi/trivia_qa", 17_944),
    "winogrande": text("Winogrande", "winogrande", "acc", "allenai/winogrande", 1_267),
    "openbookqa": text("OpenBookQA", "openbookqa", "acc_norm", "allenai/openbookqa", 500),
    "gsm8k": text("GSM8K (5-shot)", "gsm8k", "exact_match,strict-match", "openai/gsm8k", 1_319, few_shot=5),
    "ifeval": text(
        "IFEval (average)", "ifeval", "prompt_level_strict_acc+inst_level_strict_acc", "google/IFEval", 541, chat=True
    ),
}


def select(names: str | Sequence[str], local: Sequence[str] = ()) -> list[str]:
    """Return the names of benchmarks, without repetitions.

    Args:
        names: list, or names separated by commas.
        local: further names, of the user's own tasks.

    Raises:
        ValueError: for an unknown name, or none.
    """
    words = names.split(",") if isinstance(names, str) else names
    chosen = list(dict.fromkeys(word.strip().lower() for word in words if word.strip()))
    known = [*BENCHMARKS, *local]
    for name in chosen:
        if name not in known:
            raise ValueError(
                f"unknown benchmark {name!r}{nearest(name, known)} (known benchmarks: {', '.join(sorted(known))})"
            )
    if not chosen:
        raise ValueError(f"no benchmark is named: choose from {', '.join(sorted(known))}")
    return chosen
