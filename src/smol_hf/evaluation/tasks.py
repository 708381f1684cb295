"""Rows of held-out data → questions with references and metrics. Records have any shape that training reads."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from smol_hf.data.conversation import Conversation, LeftOutError, Message, SampleError, TextPart
from smol_hf.data.media.images import image_size
from smol_hf.data.media.videos import ListedVideo, files_of
from smol_hf.data.mixture.entry_keys import refuse_shares
from smol_hf.data.mixture.mixture import Data, open_mixture
from smol_hf.data.records.dialogue import ROLE_NAMES
from smol_hf.data.records.fields import checked_text
from smol_hf.data.report.skipped import SkippedSamples
from smol_hf.data.sources.fingerprints import are_read_whole, digests_of_files
from smol_hf.metrics.scores import find_metric
from smol_hf.support.formatting import nearest

MIXTURE_KEYS = ("mixture", "data_root")  # of a file of sources
# Keys of a question → the keys of its answer.
ANSWER_KEYS = {"question": ("answer",), "prompt": ("completion",), "instruction": ("output", "response")}
TURNS = {"messages": ("role", "content", "assistant"), "conversations": ("from", "value", "gpt")}
NO_REFERENCE = "has no reference: end the conversation with the right answer, or give answers"
PLAIN_TEXT = "is a plain text without a question: remove the row, or measure its loss in a run (eval_data)"
ANNOTATORS = 10  # VQA's; a row with as many answers is scored as there


@dataclass(frozen=True)
class Question:
    """A row of the data.

    Args:
        where: its name, such as `file:row`.
        conversation: all messages before the last answer; earlier answers are those of the data.
        references: right answers; the first one gives loss and bits per byte.
        metrics: names, the first one decides whether an answer is right.
        kind: the row's key `kind`, or "".
    """

    where: str
    source: str
    conversation: Conversation
    references: tuple[str, ...]
    metrics: tuple[str, ...] = ()
    kind: str = ""

    @property
    def text(self) -> str:
        """The text of the last message of the user."""
        asked = [each for each in self.conversation.messages if each.role == "user"]
        return text_of(asked[-1]).strip() if asked else ""


def text_of(message: Message) -> str:
    return "".join(part.text for part in message.parts if isinstance(part, TextPart))


def open_sources(
    data: str | None, config: str | None, metrics: Sequence[str], *, adapter: str | None, image_folder: str | None
) -> tuple[Data, list[tuple[str, ...]]]:
    """Open the data, and return it with the metrics of each source; () if none is named.

    Args:
        data: as in training: a file, a folder, a pattern, or a Hub dataset.
        config: instead, a YAML file with `mixture`, whose entries may have `metric`, and `data_root`.
        metrics: of all sources without their own.
        adapter, image_folder: of `data`, as in training.

    Raises:
        ValueError: for an unknown key or metric, and without data.
    """
    if (data is None) == (config is None):
        raise ValueError("name the held-out data with either --data or --config, or benchmarks with --benchmarks")
    for name in metrics:
        find_metric(name)
    if config is None:
        given = {"data": data, "adapter": adapter, "image_folder": image_folder}
        keys: dict[str, Any] = {"mixture": [{key: value for key, value in given.items() if value is not None}]}
    else:
        if adapter or image_folder:
            raise ValueError(f"write adapter and image_folder into the entries of {config}")
        keys = read_config(Path(config))
        refuse_shares(keys["mixture"], config)
    entries, of_source = [], []
    for number, entry in enumerate(keys["mixture"], start=1):
        own = entry.get("metric") if isinstance(entry, dict) else None
        try:
            of_source.append(names_of_metrics(own) or tuple(metrics))
        except ValueError as error:
            raise ValueError(f"{config}, entry {number}: {error}") from error
        entries.append({k: v for k, v in entry.items() if k != "metric"} if isinstance(entry, dict) else entry)
    return open_mixture(entries, "all_exhausted", data_root=keys.get("data_root")), of_source


def read_config(path: Path) -> dict[str, Any]:
    try:
        keys = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): name a YAML file") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: name a YAML file") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(keys, dict) or not isinstance(keys.get("mixture"), list):
        raise ValueError(f"{path} lacks the key mixture, a list of sources")
    if unknown := [str(key) for key in keys if key not in MIXTURE_KEYS]:
        raise ValueError(f"{path}: unknown key {unknown[0]!r}{nearest(unknown[0], MIXTURE_KEYS)}")
    return keys


def names_of_metrics(value: Any) -> tuple[str, ...]:
    """Return the names in a value of `metric` or `metrics`: a name or a list. Raises ValueError for others."""
    names = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"metric is {value!r}: it must be the name of a metric, or a list of names")
    return tuple(find_metric(name).name for name in dict.fromkeys(names))


def read_questions(
    data: Data,
    of_source: Sequence[tuple[str, ...]],
    skipped: SkippedSamples,
    *,
    limit: int | None = None,
    text_only: bool = False,
    say: Callable[[str], Any] = lambda text: None,
) -> list[Question]:
    """Read the questions in the order of the files.

    Args:
        of_source: metrics of each source, see `open_sources`.
        skipped: takes the rows that cannot be used.
        limit: only the first rows of each source.
        text_only: refuse images and videos.
        say: takes a line about each metric that is chosen.

    Raises:
        SampleError: see `SkippedSamples.settle`; and for data without a row.
    """
    questions, sizes = [], Counter()
    for index, source in enumerate(data.sources):
        found = []
        for where, record in itertools.islice(source.all_rows(), limit):
            if record is None:
                continue
            sizes[source.name] += 1
            try:
                if isinstance(record, SampleError):
                    raise record
                question = question_of(where, record, data.readers[index], source.name)
                check_media(question, text_only)
                found.append(question)
            except SampleError as fault:
                fault.source = source.name
                (skipped.left_out if isinstance(fault, LeftOutError) else skipped.faults).append(fault)
        default = of_source[index]
        if not default and any(not each.metrics for each in found):
            default, reason = default_metrics([each for each in found if not each.metrics])
            say(f"{source.name}: metric {', '.join(default)}, since {reason}; choose others with --metric")
        questions += [each if each.metrics else replace(each, metrics=default) for each in found]
    if not sizes:
        raise SampleError("data", "the data holds no row")
    skipped.settle(sizes)
    return questions


def question_of(where: str, record: Any, reader: Callable[[str, Any], Conversation], source: str) -> Question:
    """Read a row. Raises SampleError for a row that cannot be used, or has no reference."""
    answers: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    kind = ""
    if isinstance(record, dict):
        record = dict(record)
        try:
            metrics = names_of_metrics(record.pop("metrics", None)) + names_of_metrics(record.pop("metric", None))
        except ValueError as error:
            raise SampleError(where, str(error)) from error
        kind = "" if record.get("kind") is None else checked_text(str(record["kind"]), where, "kind")
        record.pop("kind", None)
        answers = answers_in(record.pop("answers", None), where)
        record = with_answer(record, answers, where)
    try:
        conversation = reader(where, record)
    except SampleError as error:
        if unanswered(record):
            raise SampleError(where, NO_REFERENCE) from error
        raise
    if conversation.document is not None:
        raise SampleError(where, PLAIN_TEXT)
    *asked, last = conversation.messages
    if last.role != "assistant":
        raise SampleError(where, NO_REFERENCE)
    if not any(each.role == "user" for each in asked):
        raise SampleError(where, "has no question before the answer: add a message of the user")
    if conversation.tools:
        raise SampleError(where, "has definitions of tools, which cannot be evaluated: remove the row")
    references = answers or (text_of(last).strip(),)
    return Question(where, source, replace(conversation, messages=tuple(asked)), references, metrics, kind)


def answers_in(value: Any, where: str) -> tuple[str, ...]:
    """Return the texts in `answers`: a text, a list of texts or numbers, or VQA's list of {"answer": text}."""
    if value is None:
        return ()
    answers = [
        each.get("answer") if isinstance(each, dict) else each
        for each in (value if isinstance(value, list) else [value])
    ]
    if not answers or not all(isinstance(each, (str, int, float)) for each in answers):
        raise SampleError(where, "answers must be a list of texts, and not be empty")
    return tuple(checked_text(str(each), where, "answers").strip() for each in answers)


def with_answer(record: dict[str, Any], answers: Sequence[str], where: str) -> dict[str, Any]:
    """Return a record that ends with the first of `answers`, if it has no answer. Raises SampleError without any."""
    for key, (role, content, name) in TURNS.items():
        turns = record.get(key)
        if isinstance(turns, list) and turns and isinstance(turns[-1], dict):
            role, content, name = (role, content, name) if role in turns[-1] else TURNS["messages"]
            if ROLE_NAMES.get(str(turns[-1].get(role))) == "user":
                if not answers:
                    raise SampleError(where, NO_REFERENCE)
                record[key] = [*turns, {role: name, content: answers[0]}]
            return record
    for key in unanswered(record)[:1] if answers else ():
        record[ANSWER_KEYS[key][0]] = answers[0]
    return record


def unanswered(record: Any) -> list[str]:
    """Return the keys of a record's questions without an answer."""
    if not isinstance(record, dict):
        return []
    given = {key for key, value in record.items() if value is not None}
    return [key for key, answers in ANSWER_KEYS.items() if key in given and not given.intersection(answers)]


def check_media(question: Question, text_only: bool) -> None:
    """Read the headers of images and videos. Raises SampleError for a missing one, and for a text-only model."""
    conversation = question.conversation
    if conversation.media and text_only:
        medium = "an image" if conversation.images else "a video"
        raise SampleError(question.where, f"has {medium}, but the model is text-only: use a vision-language model")
    for image in conversation.images:
        image_size(image, question.where)
    for video in conversation.videos:
        ListedVideo(video, question.where)


def default_metrics(questions: Sequence[Question]) -> tuple[tuple[str, ...], str]:
    """Choose metrics by the references of a source. Returns them and the reason."""
    references = [each.references for each in questions]
    words = {text.lower().strip(".") for each in references for text in each}
    if words <= {"yes", "no"}:
        return ("yes_no",), "all answers are yes or no"
    if all(len(word) == 1 and word.isalpha() for word in words):
        return ("multiple_choice",), "all answers are letters"
    if all(len(each) >= ANNOTATORS for each in references):
        return ("vqa_accuracy",), f"each row has {ANNOTATORS} or more answers"
    return ("exact_match",), "the references are texts"


def data_fingerprint(data: Data, questions: Sequence[Question]) -> str:
    """Hash the sources, and the files of images and videos that the questions show."""
    media = [part.path for each in questions for part in each.conversation.media if part.path is not None]
    files = [Path(file) for path in dict.fromkeys(media) for file in files_of(path) if os.path.isfile(file)]
    digests = digests_of_files(files, whole=are_read_whole(files))
    facts: Mapping[str, Any] = {
        "sources": [[each.name, each.fingerprint] for each in data.sources],
        "rows": [each.where for each in questions],
        "media": list(zip((each.name for each in files), digests)),
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
