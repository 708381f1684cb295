"""Plain English (CONTRIBUTING.md, Style): rejected words, long sentences; pages, help, docstrings and messages."""

import argparse
import ast
import json
import re
from pathlib import Path

import pytest
from doc_pages import ROOT

from smol_hf.commands.main import build_parser

PACKAGE = ROOT / "src" / "smol_hf"

# Rejected pattern → advice.
REJECTED = {
    r"stands?|stood|standing": "is; write the verb",
    r"alone": "only, or text-only",
    r"beside": "next to, or in addition to",
    r"so many": "as many, or the number",
    r"of which": "start another sentence",
    r"there (?:is|are) not": "is missing, does not exist",
    r"(?<!there )is no(?! longer)": "is not a",
    r"(?:whole|there) or not at all|whole or not there": "appears only when it is complete",
    r"pictures?": "image",
    r"(?<!IP )address(?:es)?(?! bar)": "URL",
    r"strangers?": "anyone, or untrusted",
    r"houses?|ledgers?|books|doors?|rooms?|nights?": "no metaphors",
    r"nobody|whoever": "no one, or the user",
    r"as (?:they|it) sounds?": "say what it does",
}
QUESTION = re.compile(r"(?:What|Which|Whether|How|Who|Where|When|Why)\b")
LONGEST = 25  # words of a sentence

# Documents that are generated from code, or written by other areas, are checked there.
GENERATED = {"walkthrough.md", "recipe_keys.md"}
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if path.name not in GENERATED),
]
# Modules of src/smol_hf whose docstrings are checked. The docstring of `estimate` names its output key `pictures`.
CLEAN = sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / "estimate" / "estimate.py"})


def rejected_words(text):
    """Each rejected word with its advice."""
    for pattern, advice in REJECTED.items():
        for found in re.finditer(rf"\b(?:{pattern})\b", text, flags=re.IGNORECASE):
            yield f"{found[0]!r}: {advice}: …{text[max(0, found.start() - 30) : found.end() + 30]!r}"


def prose(text):
    """The text of a page without code and link targets. A term in code becomes `code`."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^:::.*(?:\n    .*)*", "", text, flags=re.MULTILINE)
    return re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]+`", "`code`", text))


def sentences(text):
    """The sentences of a page, outside headings and tables."""
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*|#]|\d+\.) )", prose(text)):
        if not block.lstrip().startswith(("#", "|", "!")):
            yield from re.split(r"(?<=[.!?:])\s+", " ".join(block.split()))


def docstrings(path):
    """(line, docstring) of a module, its classes and its functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            yield getattr(node, "lineno", 1), text


def faults_of_module(path):
    for line, text in docstrings(path):
        first = text.partition("\n")[0]
        if QUESTION.match(first):
            yield f"{line}: the first line starts with a question word: {first}"
        yield from (f"{line}: {fault}" for fault in rejected_words(text))


PRINTING = {"error", "warning", "warn", "info", "print", "write", "say", "print_parts"}  # functions that show a text


def text_of(node):
    """The text of a string, with `code` for each value of an f-string; None for other expressions."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join("code" if isinstance(each, ast.FormattedValue) else each.value for each in values)


def messages(path):
    """(line, text) of strings in errors that are raised, in calls that print, and in yielded lines of output."""
    inside = []  # of an f-string that is shown: its constants are not texts of their own
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        shows = isinstance(node, ast.Raise) or (isinstance(node, ast.Yield) and path.parent.name == "commands")
        if isinstance(node, ast.Call):
            shows = getattr(node.func, "attr", getattr(node.func, "id", "")) in PRINTING
        for each in ast.walk(node) if shows else ():
            if each not in inside and (text := text_of(each)) is not None:
                inside += ast.walk(each)
                yield each.lineno, text


def faults_of_messages(path):
    for line, text in messages(path):
        yield from (f"{line}: {fault}" for fault in rejected_words(text))
        for sentence in re.split(r"(?<=[.!?:;])\s+", text):
            if len(sentence.split()) > LONGEST:
                yield f"{line}: {len(sentence.split())} words: {sentence}"


def comments_of_recipe(path):
    """The lines of comments, without commands and without names of datasets in records."""
    lines = [line.partition("#")[2] for line in path.read_text("utf-8").splitlines() if not line.startswith("- {")]
    return "\n".join(line for line in lines if not line.strip().startswith(("smol-hf ", "accelerate ")))


def help_texts(parser):
    yield from filter(None, (parser.description, parser.epilog))
    for action in parser._actions:
        if isinstance(action.help, str) and action.help != argparse.SUPPRESS:
            yield action.help


def parsers(parser):
    """The parsers of all commands, and of the commands inside them."""
    yield parser
    for command in parser.commands.values():
        yield from parsers(command)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_has_no_rejected_word(path):
    text = path.read_text(encoding="utf-8")
    if path.name == "CONTRIBUTING.md":  # names the word that it advises against
        text = text.replace('"address"', "")
    assert list(rejected_words(prose(text))) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_has_no_long_sentence(path):
    text = path.read_text(encoding="utf-8")
    assert [each for each in sentences(text) if len(each.split()) > LONGEST] == []


@pytest.mark.parametrize(
    "path",
    CLEAN,
    ids=lambda path: path.relative_to(PACKAGE).as_posix(),
)
def test_the_docstrings_of_a_clean_module_have_no_rejected_word(path):
    assert list(faults_of_module(path)) == []


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("*.yaml")), ids=lambda path: path.stem)
def test_the_comments_of_a_recipe_have_no_rejected_word(path):
    assert list(rejected_words(comments_of_recipe(path))) == []


TEMPLATES = sorted(path for path in (ROOT / "hub_templates").rglob("*") if path.suffix in (".jinja", ".css", ".py"))


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_a_template_has_no_rejected_word(path):
    assert list(rejected_words(path.read_text(encoding="utf-8"))) == []


def test_messages_have_no_rejected_word_and_no_long_sentence():
    assert [f"{path.relative_to(PACKAGE)}:{fault}" for path in CLEAN for fault in faults_of_messages(path)] == []


def test_the_help_of_the_commands_has_no_rejected_word():
    found = [
        (parser.prog, list(rejected_words(text))) for parser in parsers(build_parser()) for text in help_texts(parser)
    ]
    assert len(found) > 100 and [each for each in found if each[1]] == []


def test_the_help_of_recipe_keys_has_no_rejected_word():
    text = json.loads((PACKAGE / "training" / "recipe" / "recipe_keys.json").read_text(encoding="utf-8"))
    assert list(rejected_words(json.dumps(text, ensure_ascii=False))) == []


def test_each_rejected_word_is_found():
    for text in ("It stands here.", "text alone", "one of which", "Pictures", "an address", "This is no folder."):
        assert len(list(rejected_words(text))) == 1, text
    assert list(rejected_words("an IP address, a standard, the bookshelf, no longer")) == []


def test_a_question_word_and_a_rejected_word_in_a_docstring_are_found(tmp_path):
    module = Path(tmp_path / "module.py")
    module.write_text('"""What it does."""\n\n\ndef f():\n    """Return the\n\n    house.\n    """\n')
    assert [fault.partition(":")[0] for fault in faults_of_module(module)] == ["1", "4"]


def test_a_rejected_word_and_a_long_sentence_in_a_message_are_found(tmp_path):
    module = Path(tmp_path / "module.py")
    long = "word " * 26
    module.write_text(f"name = 'picture'\nraise ValueError(f'{{name}} is no image')\nprint('{long}')\nlen('house')\n")
    assert [fault.partition(":")[0] for fault in faults_of_messages(module)] == ["2", "3"]
