"""Published scores of known models, with their sources."""

from __future__ import annotations

from smol_hf.support.formatting import nearest

PAPER = "SmolVLM paper, table 1 (arXiv 2504.05299); MVBench: model card of SmolVLM2"
SMOLVLM_CARD = "model card of HuggingFaceTB/SmolVLM-256M-Instruct"
LIGHTEVAL = "model card of HuggingFaceTB/{}. Run with lighteval, zero-shot except GSM8K"

VISION_ORDER = (
    "ocrbench", "ai2d", "chartqa", "textvqa", "docvqa", "scienceqa", "mmmu", "mathvista", "mmstar",
    "video-mme", "mlvu", "mvbench",
)  # fmt: skip
TEXT_ORDER = (
    "hellaswag", "arc", "piqa", "mmlu", "commonsenseqa", "triviaqa", "winogrande", "openbookqa", "gsm8k",
)  # fmt: skip
INSTRUCT_ORDER = ("ifeval", "hellaswag", "arc", "piqa", "mmlu", "gsm8k")


def scores(order: tuple[str, ...], *values: float) -> dict[str, float]:
    return dict(zip(order, values, strict=True))


# Model → (source, benchmark → score).
PUBLISHED: dict[str, tuple[str, dict[str, float]]] = {
    "smolvlm2-256m": (
        PAPER,
        scores(VISION_ORDER, 52.6, 46.4, 55.6, 50.2, 58.3, 73.8, 29.0, 35.9, 34.6, 33.7, 40.6, 32.7),
    ),
    "smolvlm2-500m": (
        PAPER,
        scores(VISION_ORDER, 61.0, 59.2, 62.8, 60.2, 70.5, 80.0, 33.7, 40.1, 38.3, 42.2, 47.3, 39.73),
    ),
    "smolvlm2-2.2b": (
        PAPER,
        scores(VISION_ORDER, 72.9, 70.0, 68.7, 73.0, 80.0, 89.6, 42.0, 51.5, 46.0, 52.1, 55.2, 46.27),
    ),
    "smolvlm-256m": (SMOLVLM_CARD, scores(VISION_ORDER[:9], 52.6, 47.0, 55.8, 49.9, 58.3, 73.6, 28.3, 35.9, 34.6)),
    "smolvlm-500m": (SMOLVLM_CARD, scores(VISION_ORDER[:9], 61.0, 59.5, 63.2, 60.5, 70.5, 79.7, 33.7, 40.1, 38.3)),
    "smolvlm-2.2b": (SMOLVLM_CARD, scores(VISION_ORDER[:9], 65.5, 64.0, 71.6, 72.1, 79.7, 84.5, 38.3, 43.9, 41.8)),
    "smollm2-135m": (
        LIGHTEVAL.format("SmolLM2-135M"),
        scores(TEXT_ORDER, 42.1, 43.9, 68.4, 31.5, 33.9, 4.1, 51.3, 34.6, 1.4),
    ),
    "smollm2-360m": (
        LIGHTEVAL.format("SmolLM2-360M"),
        scores(TEXT_ORDER, 54.5, 53.0, 71.7, 35.8, 38.0, 16.9, 52.5, 37.4, 3.2),
    ),
    "smollm2-135m-instruct": (
        LIGHTEVAL.format("SmolLM2-135M-Instruct"),
        scores(INSTRUCT_ORDER, 29.9, 40.9, 37.3, 66.3, 29.3, 1.4),
    ),
    "smollm2-360m-instruct": (
        LIGHTEVAL.format("SmolLM2-360M-Instruct"),
        scores(INSTRUCT_ORDER, 41.0, 52.1, 43.7, 70.8, 32.8, 7.43),
    ),
}


def published_scores(model: str) -> tuple[str, dict[str, float]]:
    """Return (source, benchmark → score) of a model. Raise ValueError for an unknown one."""
    key = model.strip().lower()
    if key not in PUBLISHED:
        raise ValueError(
            f"no published scores of {model!r} are known{nearest(key, [*PUBLISHED])} "
            f"(known models: {', '.join(PUBLISHED)})"
        )
    return PUBLISHED[key]
