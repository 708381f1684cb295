"""Find data that should not be published: tokens, keys and local paths."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from safetensors import safe_open

from smol_hf.publishing.contents import Contents, PublishError

# Tokens of Hugging Face, GitHub, OpenAI and Anthropic, AWS, Google and Slack; private keys.
SECRET = re.compile(
    r"\b(?:hf_|api_org_)[A-Za-z0-9]{20,}|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{40,}|\bsk-[A-Za-z0-9_-]{32,}"
    r"|\bAKIA[0-9A-Z]{16}\b|\bAIza[0-9A-Za-z_-]{35}|\bxox[abprs]-[0-9A-Za-z-]{20,}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
# A path of at least two levels at the beginning of a word: /home/me, ~/data, file:///home/me, C:\Users.
LOCAL_PATH = re.compile(
    r"(?:file://|(?<![\w.:/\\~<>*^$)}\]%&+-]))(?:~?(?:/[\w.@+-]+){2,}|~/[\w.@+-]+|[A-Za-z]:(?:\\{1,2}[\w.@+-]+)+)"
)
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")


@dataclass(frozen=True)
class Disclosure:
    """`text` in a line (from 1) of a file."""

    name: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.name}:{self.line} ({self.text})"


def read_text(contents: Contents, name: str) -> str:
    try:
        return (contents.folder / name).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PublishError(f"{contents.folder / name} is not UTF-8 (byte {error.start})") from error


def matches(name: str, text: str, pattern: re.Pattern) -> Iterator[Disclosure]:
    for number, line in enumerate(text.splitlines(), 1):
        for match in pattern.finditer(line):
            yield Disclosure(name, number, match[0])


def secrets(contents: Contents) -> list[Disclosure]:
    """Find texts that look like a token or a private key, shortened so that they can be printed."""
    texts = {name: read_text(contents, name) for name in contents.texts}
    for name in contents.files:
        if name.endswith(".safetensors"):
            with safe_open(contents.folder / name, framework="numpy") as file:
                texts[name] = json.dumps(file.metadata() or {})
    found = [each for name, text in texts.items() for each in matches(name, text, SECRET)]
    return [replace(each, text=f"{each.text[:6]}…") for each in found]


def local_paths(contents: Contents) -> list[Disclosure]:
    """Find absolute paths in configurations, card and recipe, not in code and vocabularies."""
    names = [name for name in contents.texts if name.endswith((".json", ".md", ".yaml")) and name not in VOCABULARIES]
    return [each for name in names for each in matches(name, read_text(contents, name), LOCAL_PATH)]


def shorten(text: str) -> str:
    """Replace every absolute path by its last part: /home/me/pages.jsonl → pages.jsonl."""
    return LOCAL_PATH.sub(lambda match: re.split(r"[/\\]", match[0])[-1], text)
