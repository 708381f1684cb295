"""Write the model card, README.md of a checkpoint: model, loading, scores and training."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from smol_hf.evaluation.predictions import RESULTS, default_folder, folder_fingerprint
from smol_hf.publishing.loss_plot import FILE_NAME as LOSS_PLOT
from smol_hf.support.formatting import compact, is_number, one_line, percent
from smol_hf.support.resources import resource_path

# The transformers releases with which a checkpoint's code is tested (`make test-transformers`).
TESTED_TRANSFORMERS = ("4.57.6", "5.23.0", "5.24.0")

NO_EVALUATION = re.compile(
    "(?:No|Except for the validation loss, no) evaluation is reported here, so the accuracy is unknown."
)
EVALUATED = "Scores on held-out data are in the model-index of this card's front matter."

_NAMELESS = ("checkpoint", "merged", "adapter")
_PART_NAMES = {"vision": "Vision encoder", "connector": "Connector", "text": "Language model", "total": "**Total**"}
_METRICS = {
    "exact_match": "exact match",
    "blind_exact_match": "exact match with the image removed (blind baseline)",
}
_CREDENTIALS = (
    "token", "hf_token", "hub_token", "push_to_hub_token", "api_key", "access_key", "secret_key", "secret", "password",
)  # fmt: skip
# A longer recipe is collapsed.
_OPEN_RECIPE_LINES = 40
_SMALL_MODEL = 3e9


def render_model_card(
    *,
    model_name: str,
    config: Any,
    parameters: Mapping[str, int],
    metrics: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    versions: Mapping[str, str] | None = None,
    data_description: str | None = None,
    training: Mapping[str, str] | None = None,
    datasets: Sequence[str] | None = None,
    base_models: str | Sequence[str] | None = None,
    license: str | None = None,
    language: str | None = None,
    example_question: str = "What is in this picture?",
    chat: bool = False,
    loss_plot: str | None = None,
) -> str:
    """Return the text of a model card with its YAML front matter. A section without data is left out.

    Args:
        model_name: name of the model; in the example, its path or Hub id.
        config: the model's configuration (or its dictionary); a vision-language model has a `vision_config`.
        parameters: number of parameters by part: any of `vision`, `connector`, `text`, and `total`.
        metrics: `exact_match` (a fraction of 1); optional `blind_exact_match`, `questions`, and `per_kind` (kind → the
            same three).
        recipe: the resolved recipe, shown as YAML without credentials.
        versions: package → version.
        data_description: Markdown about the training data.
        training: facts of the run, label → text.
        datasets: ids of the training data on the Hub, for the front matter.
        base_models: Hub ids or paths of the models the weights come from; ids also go to the front matter.
        license: a licence identifier of the Hub, such as `apache-2.0`.
        language: ISO 639 code.
        example_question: question in the example of a vision-language model.
        chat: the example of a text model uses the chat template.
        loss_plot: file name of a plot of the losses in the card's folder.
    """
    metrics = metrics or {}
    vision = _get(config, "vision_config")
    task = "image-text-to-text" if vision is not None else "text-generation"
    scores = _scores(metrics)
    base_models = [base_models] if isinstance(base_models, str) else list(base_models or [])
    rows = [_score_row(kind, each) for kind, each in scores.items()]
    results = [result for kind, each in scores.items() for result in _eval_results(task, kind, each)]
    data = ModelCardData(
        language=language,
        license=license,
        library_name="transformers",
        pipeline_tag=task,
        tags=["smol_hf", "custom_code"] + (["vision-language-model"] if vision is not None else []),
        datasets=list(datasets) if datasets else None,
        base_model=[model for model in base_models if is_hub_id(model)] or None,
        model_name=model_name if results else None,
        eval_results=results or None,
    )
    shown = without_credentials(recipe)
    recipe_text = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=100).rstrip() if recipe else ""
    total = parameters.get("total")
    card = ModelCard.from_template(
        data,
        template_path=str(resource_path("hub_templates", "model_card.md.jinja")),
        title=_inline(model_name),
        has_vision=vision is not None,
        tested_transformers=f"{', '.join(TESTED_TRANSFORMERS[:-1])} and {TESTED_TRANSFORMERS[-1]}",
        own_code=str(_get(config, "model_type")).startswith("smol_hf"),
        parts=_part_rows(config, parameters),
        total=compact(total) if total is not None else None,
        is_small=total is not None and total < _SMALL_MODEL,
        sources=base_models,
        checkpoint=json.dumps(model_name, ensure_ascii=False),
        question=json.dumps(example_question, ensure_ascii=False),
        chat=chat,
        loss_plot=loss_plot,
        validated="Validation loss" in (training or {}),
        scores=rows,
        has_blind=any(row["blind"] for row in rows),
        questions=f"{metrics['questions']:,}" if is_number(metrics.get("questions")) else None,
        data_description=data_description.strip() if data_description else None,
        training={_inline(label): _inline(text) for label, text in (training or {}).items()},
        recipe=recipe_text,
        # longer than every run of backticks in the recipe
        fence="`" * max([3, *(len(run) + 1 for run in re.findall("`{3,}", recipe_text))]),
        folded=recipe_text.count("\n") >= _OPEN_RECIPE_LINES,
        versions={_inline(name): _inline(version) for name, version in (versions or {}).items()},
    )
    return str(card).rstrip() + "\n"


def write_model_card(folder: str | Path, **card: Any) -> Path:
    """Write `render_model_card(**card)` to README.md in `folder` and return its path.

    By default, `chat` and `loss_plot` follow from the chat template and the plot in the folder.
    """
    folder = Path(folder)
    if (folder / LOSS_PLOT).is_file():
        card.setdefault("loss_plot", LOSS_PLOT)
    card.setdefault("chat", has_chat_template(folder))
    text = render_model_card(**card)
    path = folder / "README.md"
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def _get(config: Any, name: str) -> Any:
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


def _part_rows(config: Any, parameters: Mapping[str, int]) -> list[dict[str, str]]:
    """Return a row for each part in `parameters`: name, description, size."""
    text, is_shuffle = _get(config, "text_config"), _get(config, "connector_type") == "pixel_shuffle"
    tiles = "tiles of {image_size} × {image_size} pixels in patches of {patch_size} × {patch_size}"
    scale = ["scale factor {scale_factor}"] if is_shuffle else []
    layers = ["`{model_type}`", "{num_hidden_layers} layers of width {hidden_size}"]
    descriptions = {
        "vision": _describe(_get(config, "vision_config"), *layers, tiles),
        "connector": _describe(config, "`{connector_type}`", *scale, "{image_seq_len} tokens for a tile"),
        "text": _describe(
            config if text is None else text,
            *layers,
            "vocabulary of {vocab_size:,}",
            "up to {max_position_embeddings:,} positions",
        ),
    }
    return [
        {"name": _PART_NAMES[part], "what": descriptions.get(part, ""), "number": f"{number:,}"}
        for part, number in parameters.items()
    ]


def _describe(config: Any, *pieces: str) -> str:
    """Format the pieces with values of a configuration. A piece with a missing value is left out."""
    found = []
    for piece in pieces:
        values = {name: _get(config, name) for _, name, *_ in Formatter().parse(piece) if name}
        if all(isinstance(value, (int, str)) for value in values.values()):
            found.append(piece.format(**values))
    return ", ".join(found)


def _scores(metrics: Mapping[str, Any]) -> dict[str | None, Mapping[str, Any]]:
    """Return {kind of question: its scores}, with None for all questions; empty without an overall score."""
    if not is_number(metrics.get("exact_match")):
        return {}
    per_kind = metrics.get("per_kind") or {}
    return {None: metrics} | {kind: each for kind, each in per_kind.items() if is_number(each.get("exact_match"))}


def _score_row(kind: str | None, scores: Mapping[str, Any]) -> dict[str, str | None]:
    """Return a row of the table of results."""
    blind, questions = scores.get("blind_exact_match"), scores.get("questions")
    return {
        "name": "**all**" if kind is None else _inline(kind),
        "score": percent(scores["exact_match"]),
        "blind": percent(blind) if blind is not None and is_number(blind) else None,
        "questions": f"{questions:,}" if is_number(questions) else None,
    }


def _eval_results(task: str, kind: str | None, scores: Mapping[str, Any]) -> list[EvalResult]:
    """Return scores for the front matter's model-index, as fractions of 1."""
    return [
        EvalResult(
            task_type=task,
            dataset_type="held-out",
            dataset_name="held-out questions" + (f": {kind}" if kind else ""),
            dataset_config=kind,
            metric_type=metric,
            metric_name=name,
            metric_value=round(float(scores[metric]), 4),
        )
        for metric, name in _METRICS.items()
        if is_number(scores.get(metric))
    ]


def results_next_to(folder: Path) -> tuple[dict[str, Any] | None, str | None]:
    """Return the results of `smol-hf evaluate` in its default folder, or a warning if they are of other files."""
    path = default_folder(folder) / RESULTS
    if not path.is_file():
        return None, None
    results = json.loads(path.read_text(encoding="utf-8"))
    if results["settings"]["model_fingerprint"] == folder_fingerprint(folder):
        return results, None
    return None, f"{path} has scores of other files than those of {folder}: repeat smol-hf evaluate"


def with_scores(text: str, results: Mapping[str, Any], model_name: str) -> str:
    """Return a card with the scores of an evaluation in the model-index of its front matter, by source of the data."""
    card = ModelCard(text, ignore_metadata_errors=True)
    task = str(card.data.get("pipeline_tag") or "text-generation")
    found = [
        EvalResult(
            task_type=task,
            dataset_type="held-out",
            dataset_name=one_line(source),
            metric_type=metric,
            metric_name=metric.replace("_", " "),
            metric_value=round(each["score"], 4),
        )
        for source, figures in results["per_source"].items()
        for metric, each in figures["metrics"].items()
    ]
    others = [each for each in card.data.get("eval_results") or () if each.dataset_name not in results["per_source"]]
    card.data["eval_results"] = [*others, *found]
    card.data["model_name"] = card.data.get("model_name") or model_name
    return NO_EVALUATION.sub(EVALUATED, str(card))


def is_hub_id(model: str) -> bool:
    try:
        validate_repo_id(model)
    except HFValidationError:
        return False
    return not Path(model).exists()


def name_of(model_id: str | Path) -> str:
    """Name a run or repository by the last part of its path or Hub id that is not `checkpoint` or `merged`."""
    parts = Path(model_id).resolve().parts if Path(model_id).is_dir() else str(model_id).split("/")
    return next((part for part in reversed(parts) if part not in _NAMELESS), str(model_id))


def without_credentials(value: Any) -> Any:
    """Return a copy of a recipe without tokens, keys and passwords, also of nested mappings."""
    if isinstance(value, Mapping):
        return {key: without_credentials(each) for key, each in value.items() if key not in _CREDENTIALS}
    return [without_credentials(each) for each in value] if isinstance(value, list) else value


def has_chat_template(folder: Path) -> bool:
    config = folder / "tokenizer_config.json"
    in_config = config.is_file() and bool(json.loads(config.read_text("utf-8")).get("chat_template"))
    return in_config or (folder / "chat_template.jinja").is_file()


def _inline(text: object) -> str:
    """Escape text for a heading or a table cell: one line, no HTML, no cell border."""
    return html.escape(one_line(text), quote=False).replace("|", "\\|")
