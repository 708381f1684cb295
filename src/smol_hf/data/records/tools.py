"""Tools, tool calls and reasoning of a record, for chat templates."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from smol_hf.data.conversation import SampleError
from smol_hf.data.records.fields import checked_text, list_of_objects
from smol_hf.data.records.turn_keys import (
    REASONING,
    TEMPLATE_TURN,
    TOOL_TURN,
    is_given,
    refuse_unsupported,
    says_something,
)


def tools_of(record: dict, where: str) -> tuple[dict[str, Any], ...]:
    """Return the definitions in the column `tools`, a list or its JSON text. Raises SampleError otherwise."""
    value = record.get("tools")
    return objects_in(value, "tools", where) if says_something(value) else ()


def turn_fields(turn: dict, role: str, number: int, where: str) -> dict[str, Any]:
    """Return the other keys of a turn for the chat template.

    They are `tool_calls` and reasoning of an answer, and `name` and `tool_call_id` of a tool's result.

    Raises:
        SampleError: for a value of the wrong type, and for an unsupported key.
    """
    refuse_unsupported(turn, number, where, TEMPLATE_TURN if role == "assistant" else ())
    if role != "assistant":
        keys = [key for key in TOOL_TURN if role == "tool" and is_given(turn.get(key))]
        return {key: checked_text(turn[key], where, f"message {number}: {key!r}") for key in keys}
    keys = [key for key in REASONING if says_something(turn.get(key))]
    fields = {key: checked_text(turn[key], where, f"message {number}: {key!r}") for key in keys}
    if len(set(fields.values())) > 1:
        named = " and ".join(map(repr, fields))
        raise SampleError(where, f"message {number}: {named} contradict each other: keep one")
    fields: dict[str, Any] = dict(list(fields.items())[:1])
    if says_something(turn.get("tool_calls")):
        calls = objects_in(turn["tool_calls"], f"message {number}: 'tool_calls'", where)
        fields["tool_calls"] = [checked_call(call, number, where) for call in calls]
    return fields


def with_content(turn: dict, key: str = "content") -> dict:
    """Return a turn, with empty text if it has no content, but tool calls or reasoning."""
    if turn.get(key) is None and any(says_something(turn.get(each)) for each in TEMPLATE_TURN):
        return {**turn, key: ""}
    return turn


def objects_in(value: Any, what: str, where: str) -> tuple[dict[str, Any], ...]:
    """Return a list of objects, given as such or as JSON text. In a list, null means missing, as in tables."""
    objects = list_of_objects(value, what, where)
    objects = objects if isinstance(value, str) else without_nulls(objects)
    try:
        json.dumps(objects, ensure_ascii=False).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise SampleError(where, f"{what} cannot be written as JSON: {error}") from error
    return tuple(objects)


def without_nulls(value: Any) -> Any:
    """Return a copy of a nested value without keys that hold null."""
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


def checked_call(call: dict, number: int, where: str) -> dict:
    """Return a tool call whose arguments are an object. Raises SampleError without a name."""
    function = call.get("function", call)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise SampleError(where, f"message {number}: a call in 'tool_calls' has no name of a function: write one")
    arguments = function.get("arguments")
    if isinstance(arguments, str) and not arguments.strip():
        function = {key: value for key, value in function.items() if key != "arguments"}
    elif arguments is not None:
        if isinstance(arguments, str):
            with contextlib.suppress(ValueError, RecursionError):
                arguments = json.loads(arguments)
        if not isinstance(arguments, dict):
            problem = f"'arguments' of {function['name']!r} must be an object, or the JSON text of one"
            raise SampleError(where, f"message {number}: {problem}")
        function = {**function, "arguments": arguments}
    return {**call, "function": function} if "function" in call else function
