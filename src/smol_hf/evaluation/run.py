"""`smol-hf evaluate`: read the questions, answer them in each view, and write results, predictions and report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from smol_hf.conversion.checkpoint_files import is_adapter
from smol_hf.conversion.merge import locate_base, read_adapter_config
from smol_hf.data.report.skipped import SkippedSamples
from smol_hf.evaluation.answering import Answer, Answerer, Job
from smol_hf.evaluation.baselines import ASKED, MAJORITY, SHUFFLED, chosen_baselines, conversations_of
from smol_hf.evaluation.predictions import (
    FILE_NAME,
    RESULTS,
    Predictions,
    default_folder,
    folder_fingerprint,
    read_predictions,
    scores_of,
    short_hash,
)
from smol_hf.evaluation.prompts import prompt_text
from smol_hf.evaluation.report.results_page import write_report
from smol_hf.evaluation.scoring import comparison, confusion, figures, groups_of, rows_of
from smol_hf.evaluation.tasks import Question, data_fingerprint, open_sources, read_questions
from smol_hf.inference.answering import is_missing, load_checkpoint
from smol_hf.support.atomic import atomic_file
from smol_hf.support.formatting import counted
from smol_hf.support.tokenizer_of import is_language_model
from smol_hf.training.log.run_record import hardware, versions

REPORT, SKIPPED, OTHERS = "report.html", "skipped.jsonl", "against"
PROCESSOR_FACTS = (
    "tile_size", "longest_edge", "image_seq_len", "video_fps", "video_max_frames", "video_frame_size", "video_style",
)  # fmt: skip
FACTS_OF_PARTS = ("size", "max_image_size", "do_image_splitting", "num_frames", "fps")  # of transformers' processors
Progress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]


@dataclass(frozen=True)
class Options:
    """The options of an evaluation, as those of the command."""

    checkpoint: str
    data: str | None = None
    config: str | None = None
    output: str | None = None
    metric: Sequence[str] = ()
    baselines: Sequence[str] = ("all",)
    against: Sequence[str] = ()
    adapter: str | None = None
    image_folder: str | None = None
    limit: int | None = None
    on_bad_sample: str = "stop"
    max_skipped_fraction: float = 0.01
    batch_size: int = 8
    max_new_tokens: int = 64
    seed: int = 0
    device: str | None = None
    dtype: str = "auto"
    trust_remote_code: bool = False

    @property
    def folder(self) -> Path:
        """The output folder."""
        return default_folder(self.checkpoint) if self.output is None else Path(self.output)


def evaluate(options: Options, *, progress: Progress, say: Callable[[str], Any]) -> dict[str, Any]:
    """Evaluate a checkpoint, write the output folder, and return the content of `results.json`.

    Args:
        progress: (words, total) → a context that gives a function which adds a number of steps.
        say: takes lines of information.

    Raises:
        ValueError, OSError: for a mistake in the options, unusable data, and a file that cannot be read or written.
    """
    check(options)
    started = time.perf_counter()
    baselines = chosen_baselines(options.baselines)
    data, of_source = open_sources(
        options.data, options.config, options.metric, adapter=options.adapter, image_folder=options.image_folder
    )
    model, processor = load(options, options.checkpoint)
    folder = options.folder
    skipped = SkippedSamples(options.on_bad_sample, options.max_skipped_fraction)
    text_only = is_language_model(processor)
    questions = read_questions(data, of_source, skipped, limit=options.limit, text_only=text_only, say=say)
    fingerprint = data_fingerprint(data, questions)
    settings = settings_of(options, model, processor, questions, fingerprint)
    with Predictions(folder, settings) as predictions:
        skipped.path = folder / SKIPPED  # not before: a refused folder keeps its own list
        skipped.write()
        answerer = Answerer(model, processor, max_new_tokens=options.max_new_tokens, batch_size=options.batch_size)
        views = [ASKED, *(name for name in baselines if name != MAJORITY)]
        answer_all(answerer, questions, views, options.seed, predictions, skipped, progress, say)
        predictions.sort(questions)
        rows = rows_of(questions, predictions.entries, baselines)
        if not rows:
            raise ValueError("no row could be answered: see skipped.jsonl")
        del answerer, model
        others = [other_answers(each, options, folder, progress, say) for each in options.against]
        results = {
            "checkpoint": options.checkpoint,
            "data": options.data or options.config,
            **figures(rows, baselines, options.seed),
            **groups_of(rows, baselines, options.seed),
            "against": [comparison(rows, name, entries, options.seed) for name, entries in others],
            "confusion": confusion(rows),
            "skipped": len(skipped),
            "prompt": prompt_text(processor, rows[0].question.conversation),
            "settings": settings,
            "batch_size": options.batch_size,
            "versions": versions(),
            "hardware": hardware(),
            "seconds": round(time.perf_counter() - started, 1),
        }
        write_json(folder / RESULTS, results)
        write_report(folder / REPORT, results, rows)
    return results


def check(options: Options) -> None:
    """Raise ValueError for an option out of range."""
    for name, least in (("batch_size", 1), ("max_new_tokens", 1), ("limit", 1), ("seed", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}: it must be at least {least}")
    if not 0 <= options.max_skipped_fraction <= 1:
        raise ValueError(f"max_skipped_fraction is {options.max_skipped_fraction}: it must be from 0 to 1")
    if options.folder.exists() and not options.folder.is_dir():
        raise ValueError(f"{options.folder} is a file: choose another --output")
    for name in options.against:
        if Path(name).is_file():
            read_predictions(Path(name))
        elif is_missing(name):
            raise ValueError(f"--against {name}: there is no such file, and no such folder of a checkpoint")


def load(options: Options, checkpoint: str):
    return load_checkpoint(
        checkpoint, trust_remote_code=options.trust_remote_code, device=options.device, dtype=options.dtype
    )


def settings_of(options: Options, model, processor, questions: Sequence[Question], fingerprint: str) -> dict[str, Any]:
    """Return what the answers depend on."""
    path = Path(options.checkpoint)
    base = Path(locate_base(read_adapter_config(path), None, {})) if is_adapter(path) else path
    return {
        "checkpoint": options.checkpoint,
        "model_fingerprint": folder_fingerprint(path) if path.is_dir() else str(model.config._commit_hash),
        **({"base_fingerprint": folder_fingerprint(base)} if base != path and base.is_dir() else {}),
        "data_fingerprint": fingerprint,
        "metrics": sorted({name for each in questions for name in each.metrics}),
        "max_new_tokens": options.max_new_tokens,
        "decoding": "greedy",
        "dtype": str(model.dtype).removeprefix("torch."),
        "seed": options.seed,
        "processor": processor_facts(processor),
    }


def processor_facts(processor) -> dict[str, Any]:
    """Return the settings of images and videos: of smol_hf's processor, or of the parts of another one."""
    names = ("image_processor", "video_processor")
    parts = {name: part for name in names if (part := getattr(processor, name, None)) not in (None, processor)}
    inner = {f"{name}.{key}": part.to_dict().get(key) for name, part in parts.items() for key in FACTS_OF_PARTS}
    own = {name: getattr(processor, name) for name in PROCESSOR_FACTS if hasattr(processor, name)}
    return {name: value for name, value in {**own, **inner}.items() if value is not None}


def answer_all(
    answerer: Answerer,
    questions: Sequence[Question],
    views: Sequence[str],
    seed: int,
    predictions: Predictions,
    skipped: SkippedSamples,
    progress: Progress,
    say: Callable[[str], Any],
) -> None:
    """Answer the questions of each view that have no answer yet. A row that fails is left out of later views."""
    known = {each.where: each for each in questions}
    for view in views:
        shown = zip(known.values(), conversations_of(view, list(known.values()), seed))
        jobs = [
            Job(view, each.where, conversation, each.references[0] if view == ASKED else None)
            for each, conversation in shown
            if conversation is not None
        ]
        if view == SHUFFLED and (missing := sum(bool(each.conversation.media) for each in known.values()) - len(jobs)):
            say(f"shuffled: {counted(missing, 'row')} left out, since no other row has as many images or videos")
        waiting = [job for job in jobs if (view, job.where) not in predictions.entries]
        if len(waiting) < len(jobs):
            say(f"{view}: {counted(len(jobs) - len(waiting), 'answer')} of an earlier start kept")
        with progress(f"answering ({view})", len(waiting)) as advance:
            for answered, faults in answerer.answers(waiting):
                if answered:
                    predictions.add([entry_of(job, known[job.where], answer) for job, answer in answered])
                for fault in faults:
                    fault.source = known.pop(fault.where).source
                skipped.note(len(answered), faults)
                advance(len(answered) + len(faults))


def entry_of(job: Job, question: Question, answer: Answer) -> dict[str, Any]:
    """Return the line of an answer in the file of predictions."""
    return {
        "sample": job.where,
        "source": question.source,
        "view": job.view,
        "kind": question.kind,
        "question": question.text,
        "references": list(question.references),
        "prediction": answer.text,
        "scores": scores_of(answer.text, question),
        **{key: value for key, value in asdict(answer).items() if key != "text"},
    }


def other_answers(
    name: str, options: Options, folder: Path, progress: Progress, say: Callable[[str], Any]
) -> tuple[str, dict[str, dict[str, Any]]]:
    """Return (name, entries by row) of a file of predictions, a folder of an evaluation, or a checkpoint.

    A checkpoint answers the same questions first, into `against/` in the output folder.
    """
    path = Path(name)
    path = path / FILE_NAME if (path / FILE_NAME).is_file() else path
    if not path.is_file():
        path = folder / OTHERS / short_hash(str(path.resolve()) if path.exists() else name)
        changes = {"checkpoint": name, "output": str(path), "baselines": ("none",), "against": ()}
        evaluate(Options(**{**asdict(options), **changes}), progress=progress, say=say)
        path = path / FILE_NAME
    return name, {each["sample"]: each for each in read_predictions(path) if each["view"] == ASKED}


def write_json(path: Path, facts: dict[str, Any]) -> None:
    with atomic_file(path) as file:
        file.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
