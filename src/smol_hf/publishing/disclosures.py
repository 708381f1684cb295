"""What a text would tell the world by mistake: tokens and keys, and where things lie on this machine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from safetensors import safe_open

from smol_hf.publishing.contents import Contents, PublishError

# Tokens of Hugging Face, GitHub, OpenAI and Anthropic, AWS, Google and Slack; private keys.
SECRET = re.compile(
    r"\b(?:hf_|api_org_)[A-Za-z0-9]{20,}|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{40,}|\bsk-[A-Za-z0-9_-]{32,}"
    r"|\bAKIA[0-9A-Z]{16}\b|\bAIza[0-9A-Za-z_-]{35}|\bxox[abprs]-[0-9A-Za-z-]{20,}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
# A path with two levels at least, at the beginning of a word: /home/me, ~/data, file:///home/me, C:\Users.
LOCAL_PATH = re.compile(
    r"(?:file://|(?<![\w.:/\\~<>*^$)}\]%&+-]))(?:~?(?:/[\w.@+-]+){2,}|~/[\w.@+-]+|[A-Za-z]:(?:\\{1,2}[\w.@+-]+)+)"
)
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")


@dataclass(frozen=True)
class Found:
    """`text` stands in a line (from 1) of a file."""

    name: str
    line: int
    text: str

    @property
    def where(self) -> str:
        return f"{self.name}:{self.line}"


def read_text(contents: Contents, name: str) -> str:
    try:
        return (contents.folder / name).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PublishError(f"{contents.folder / name} is not UTF-8 (byte {error.start})") from error


def metadata(contents: Contents, name: str) -> str:
    """The texts in the header of a file of weights, on one line."""
    with safe_open(contents.folder / name, framework="numpy") as file:
        return json.dumps(file.metadata() or {})


def matches(name: str, text: str, pattern: re.Pattern) -> Iterator[Found]:
    for number, line in enumerate(text.splitlines(), 1):
        for match in pattern.finditer(line):
            yield Found(name, number, match[0])


def secrets(contents: Contents) -> list[Found]:
    """Everything in the texts that looks like a token or a private key, shortened so that it can be printed."""
    texts = {name: read_text(contents, name) for name in contents.texts}
    texts |= {name: metadata(contents, name) for name in contents.files if name.endswith(".safetensors")}
    found = [each for name, text in texts.items() for each in matches(name, text, SECRET)]
    return [Found(each.name, each.line, f"{each.text[:6]}…") for each in found]


def local_paths(contents: Contents) -> list[Found]:
    """Absolute paths in configurations, card and recipe. Code and vocabularies are not searched."""
    names = [name for name in contents.texts if name.endswith((".json", ".md", ".yaml"))]
    names = [name for name in names if name not in VOCABULARIES]
    return [each for name in names for each in matches(name, read_text(contents, name), LOCAL_PATH)]


def shorten(text: str) -> str:
    """Every absolute path by its last part alone: /home/me/pages.jsonl → pages.jsonl."""
    return LOCAL_PATH.sub(lambda match: re.split(r"[/\\]", match[0])[-1], text)
