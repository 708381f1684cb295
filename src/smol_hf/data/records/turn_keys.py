"""The other keys of a record and its turns: training marks, unsupported keys, misspelt and ignored ones.

A misspelt key of an image or a video would train a sample without it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from smol_hf.data.conversation import Conversation, ImagePart, SampleError, TextPart, VideoPart

# 0 or false: the turn is context and gets no labels; 1 or true: it is trained.
TRAIN_KEYS = ("weight", "train", "training", "trainable", "loss", "loss_mask", "loss_weight")
REASONING = ("reasoning_content", "reasoning", "thinking")  # names of one thing
TEMPLATE_TURN = ("tool_calls", *REASONING)  # of an answer, for the chat template
TOOL_TURN = ("name", "tool_call_id")  # the same of a tool's result
TOOL_ROLES = ("tool", "function", "observation", "ipython")
# They change the meaning of the turn. Only some adapters can use the first ones.
UNSUPPORTED_TURN = (*TEMPLATE_TURN, "function_call", "refusal", "audio", "train_detail", "train_details")
# The same for a record.
UNSUPPORTED_RECORD = ("tools", "functions", "chat_template_kwargs", "tool_choice")
ANSWERING = ("assistant", "gpt", "model")  # names of the role that answers
SYSTEM_KEYS = ("system", "system_prompt")
IDENTIFIERS = (
    "id", "uid", "uuid", "idx", "index", "sample_id", "question_id", "conversation_id", "prompt_id", "image_id",
    "__key__", "__url__", "__index_level_0__",
)  # fmt: skip
MEDIA_KEYS = ("image", "images", "video", "videos")
MARKERS = ("<image>", "<video>")
SIMILAR = 0.75  # share of equal letters
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp")

TOO_DEEP = "has objects or lists that are nested too deeply to be read: flatten them, or remove the record"


def is_given(value: Any) -> bool:
    """Return whether a field is neither null nor empty."""
    return value is not None and not (isinstance(value, (str, bytes, list, dict)) and not value)


def says_something(value: Any) -> bool:
    """Return whether a value, or the JSON in a text, is more than nulls, false, 0 and empty values."""
    if isinstance(value, str):
        try:
            inside = json.loads(value)
        except ValueError:
            return bool(value.strip())
        return says_something(inside) if isinstance(inside, (list, dict)) else inside is not None
    if isinstance(value, dict):
        return any(says_something(each) for each in value.values())
    return bool(value)


def is_trained(turn: dict, role: str, number: int, where: str) -> bool:
    """Return whether the turn's training marks allow labels.

    Raises:
        SampleError: for a value other than 0, 1, true, false and null, and for keys that contradict each other.
    """
    marks = {key: turn[key] for key in TRAIN_KEYS if turn.get(key) is not None}
    if not marks or role != "assistant":
        return True
    for key, value in marks.items():
        if not isinstance(value, (bool, int, float)) or value not in (0, 1):
            raise SampleError(
                where,
                f"message {number}: {key!r} is {value!r}, which cannot be honoured: use 0, 1, true or false, or train "
                f"without it (ignore_fields: [{key}])",
            )
    if len({bool(value) for value in marks.values()}) > 1:
        raise SampleError(where, f"message {number}: {' and '.join(map(repr, marks))} contradict each other: keep one")
    return bool(next(iter(marks.values())))


def refuse_unsupported(turn: dict, number: int, where: str, used: Iterable[str] = ()) -> None:
    """Raise SampleError for a turn with an unsupported key that is not among the `used` ones."""
    for key in UNSUPPORTED_TURN:
        if key not in used and says_something(turn.get(key)):
            raise SampleError(where, f"message {number} has {key!r}, {unsupported(key)}")


def refuse_unsupported_record(record: dict, where: str) -> None:
    """Raise SampleError for a record with an unsupported column."""
    for key in UNSUPPORTED_RECORD:
        if says_something(record.get(key)):
            raise SampleError(where, f"has {key!r}, {unsupported(key)}")


def unsupported(key: str) -> str:
    return f"which cannot be trained on yet: remove it, or train without it (ignore_fields: [{key}])"


def system_text(record: dict, where: str) -> str | None:
    """Return the system prompt in a column. Raises SampleError for two columns and for another type."""
    given = [key for key in SYSTEM_KEYS if is_given(record.get(key))]
    if not given:
        return None
    if len(given) > 1:
        raise SampleError(where, f"has a system prompt under {' and '.join(map(repr, given))}: keep one")
    text = record[given[0]]
    if not isinstance(text, str):
        raise SampleError(where, f"the field {given[0]!r} must be text, not {type(text).__name__}")
    return text


def ignored_turn_keys(turns: Iterable[dict], known: Iterable[str], name: str) -> tuple[str, ...]:
    """Return the names of non-empty keys of turns that are not read, such as `messages[].name`.

    A mark to train a turn of another role than the assistant is one of them.

    Args:
        known: keys that the adapter reads.
        name: the field of the turns.
    """
    known = {*known, *IDENTIFIERS}
    found: dict[str, None] = {}
    for turn in turns:
        role = turn.get("role", turn.get("from"))
        is_answer = role in (None, *ANSWERING)
        used = TEMPLATE_TURN if is_answer else TOOL_TURN if role in TOOL_ROLES else ()
        for key, value in turn.items():
            if key in used:
                continue
            if key in TRAIN_KEYS and key in known and value and not is_answer:
                found[f"{name}[].{key} of other turns than answers"] = None
            if key not in known and is_given(value) and not (key in UNSUPPORTED_TURN and not says_something(value)):
                found[f"{name}[].{key}"] = None
    return tuple(found)


def without_fields(record: Any, names: frozenset[str]) -> Any:
    """Return a copy of a record without the keys of these names, at any depth."""
    if isinstance(record, dict):
        return {key: without_fields(value, names) for key, value in record.items() if key not in names}
    return [without_fields(each, names) for each in record] if isinstance(record, list) else record


def meant(key: str, known: Iterable[str]) -> str | None:
    """Return the known key that `key` misspells, such as `video` for `vidoe` or `Vedio`; None for other words."""
    word = key.casefold()
    found = [
        (1.0 if sorted(word) == sorted(each) else difflib.SequenceMatcher(None, word, each).ratio(), each)
        for each in known
        if abs(len(word) - len(each)) <= 1
    ]
    similar, best = max(found, default=(0.0, ""))
    return best if similar >= SIMILAR else None


def advice(key: str) -> str:
    return f"Rename it, or train without it (ignore_fields: [{key}])"


def refuse_misspelt(unknown: Mapping[Any, Any], record: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Raise SampleError for an unknown key that misspells the key of an image or video that the record lacks.

    Args:
        unknown: the part of the record that its adapter does not read.
        known: the keys that it reads.
    """
    media = [each for each in MEDIA_KEYS if each in known]
    for key, value in unknown.items():
        if not isinstance(value, (str, bytes, list, dict)) or not is_given(value):
            continue
        right = meant(str(key), media)
        if right is not None and not any(is_given(record.get(each)) for each in of_kind(right)):
            raise SampleError(where, f"has the unknown key {key!r}, did you mean {right!r}? {advice(key)}")


def refuse_unseen(unknown: Mapping[Any, Any], conversation: Conversation, known: Iterable[str], where: str) -> None:
    """Raise SampleError for a conversation whose image or video is under a key that nothing reads.

    That is a key of a turn, or a file under any key while a text of the user has a marker.
    """
    for name in conversation.ignored:
        key = name.rpartition(".")[2]
        if name == key or (right := meant(key, MEDIA_KEYS)) is None:
            continue
        kind = ImagePart if right.startswith("image") else VideoPart
        if not any(isinstance(part, kind) for part in conversation.media):
            hint = f"put it into the record as {right!r}" if key == right else f"did you mean {right!r}? {advice(key)}"
            raise SampleError(where, f"has the key {name!r}, which is not read: {hint}")
    if conversation.media or not set(MEDIA_KEYS) & set(known):
        return
    texts = [part.text for turn in conversation.messages if turn.role == "user" for part in turn.parts
             if isinstance(part, TextPart)]  # fmt: skip
    marker = next((each for each in MARKERS if any(each in text for text in texts)), None)
    for key, value in unknown.items() if marker is not None else ():
        if (kind := kind_of(value)) is not None:
            problem = f"has {marker} in its text, and {value!r:.80} under the unknown key {key!r}"
            raise SampleError(where, f"{problem}, did you mean {kind!r}? {advice(key)}")


def of_kind(key: str) -> tuple[str, str]:
    one = key.removesuffix("s")
    return one, f"{one}s"


def kind_of(value: Any) -> str | None:
    """Return `image` or `video` for a file or a list of files, by its suffix; an object with bytes is an image."""
    if isinstance(value, list):
        return kind_of(value[0]) if value else None
    if isinstance(value, dict):
        return kind_of(value.get("path")) or ("image" if isinstance(value.get("bytes"), bytes) else None)
    if isinstance(value, str):
        name = value.lower()
        return "video" if name.endswith(VIDEO_SUFFIXES) else "image" if name.endswith(IMAGE_SUFFIXES) else None
    return None
