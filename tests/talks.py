"""Files of conversations."""

import json


def records(*talks):
    """Lines of JSON; a talk is a list of (role, text)."""
    messages = [[{"role": role, "content": text} for role, text in talk] for talk in talks]
    return "".join(json.dumps({"messages": each}) + "\n" for each in messages)


def write_questions(path, number=40, first=0):
    """Write conversations of one question each, and return the path as text."""
    talks = [[("user", f"What is {n}?"), ("assistant", f"It is {n}.")] for n in range(first, first + number)]
    path.write_text(records(*talks))
    return str(path)
