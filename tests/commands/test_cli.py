"""The command line: quick help with real examples, one way to set keys, and errors a person can act on."""

import json
import os
import subprocess
import sys

import pytest

from smol_hf import __version__
from smol_hf.commands.conversion import describe_check
from smol_hf.commands.main import COMMANDS, build_parser, main
from smol_hf.commands.parser import Group
from smol_hf.commands.printing import print_parts
from smol_hf.training.recipe.key_help import known_keys
from smol_hf.training.recipe.recipes import known_keys as keys_of_classes

CALLS = [
    words
    for name, command in COMMANDS.items()
    for words in ([[name, each] for each in command.commands] if isinstance(command, Group) else [[name]])
]
HEAVY = ("torch", "transformers", "numpy", "rich", "peft", "trl", "bitsandbytes", "matplotlib", "gradio", "yaml")
OPTIONAL = ("peft", "trl", "bitsandbytes", "matplotlib", "gradio", "datasets")  # not needed to chat or convert
HELP = f"""
import contextlib, io, json, sys
import smol_hf
imported = {{"import smol_hf": len(sys.modules)}}
from smol_hf.commands.main import main
for words in {[[], *([name] for name, command in COMMANDS.items() if isinstance(command, Group)), *CALLS]!r}:
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        main([*words, "--help"])
    assert shown.getvalue().startswith("usage: smol-hf"), words
    found = [name for name in {HEAVY!r} if name in sys.modules]
    assert not found, (words, found)
imported["help"] = len(sys.modules)
from transformers import AutoConfig
imported["transformers"] = len(sys.modules)
with contextlib.suppress(ValueError):
    AutoConfig.for_model("smol_hf")
    raise AssertionError("registered before a public name was used")
smol_hf.SmolHFTextConfig
assert isinstance(AutoConfig.for_model("smol_hf"), smol_hf.SmolHFConfig)
from smol_hf.conversion.convert import convert
from smol_hf.inference.answering import load_checkpoint
from smol_hf.publishing.plan import plan
found = [name for name in {OPTIONAL!r} if name in sys.modules]
assert not found, found
assert all(getattr(smol_hf, name).__name__ for name in smol_hf.__all__)
print(json.dumps(imported))
"""


@pytest.mark.slow
def test_help_and_the_package_import_no_library():
    """Counts modules instead of seconds, which a busy machine stretches."""
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    imported = json.loads(done.stdout)
    assert imported["import smol_hf"] < 100 and imported["help"] < 250 < imported["transformers"] / 4, imported


@pytest.mark.parametrize("words", CALLS, ids=" ".join)
def test_every_command_helps_with_an_example(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--help"])
    assert stopped.value.code == 0
    assert f"\n  smol-hf {' '.join(words)}" in capsys.readouterr().out, "an example that can be copied"


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    assert all(f"\n    {command}" in text for command in COMMANDS)


def test_the_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"smol_hf {__version__}\n"


def test_the_help_knows_every_key():
    assert set(known_keys("train")) == set(keys_of_classes())


def parsed(*words):
    return vars(build_parser().parse_args(list(words)))


def test_hyphens_and_underscores_are_the_same_in_every_command():
    for words in CALLS:
        parser = build_parser()
        for word in words:
            parser = parser.commands[word]
        options = [each for each in parser._option_string_actions if "-" in each.lstrip("-")]
        known, keys = parser.split([f"--{option[2:].replace('-', '_')}" for option in options])
        assert known == options and keys == []


@pytest.mark.parametrize("key", ["--learning_rate", "--learning-rate"])
@pytest.mark.parametrize("command", [["train"], ["dpo"], ["data", "stats", "my.jsonl"], ["demo"]])
def test_recipe_keys_are_set_in_one_way(command, key):
    for value in ([key, "-1"], [f"{key}=-1"]):
        assert parsed(*command, *value, "--bf16", "--seed=3")["recipe_words"][: len(value)] == value


def test_a_key_with_a_value_takes_no_argument_of_the_command():
    facts = parsed("data", "stats", "--filters.max_turns", "3", "my.jsonl", "--number", "2")
    assert (facts["data"], facts["number"], facts["recipe_words"]) == ("my.jsonl", 2, ["--filters.max_turns", "3"])


MISSPELT = [
    (["trian"], "usage: smol-hf [-h]", "unknown command 'trian': did you mean 'train'?"),
    (["data", "stat"], "usage: smol-hf data [-h]", "unknown command 'stat': did you mean 'stats'?"),
    (["zzz"], "usage: smol-hf [-h]", "unknown command 'zzz': smol-hf --help lists them"),
    (["chat", "x", "--temperatur", "1"], "usage: smol-hf chat", None),  # an abbreviation
    (["chat", "x", "--tempreature", "1"], "usage: smol-hf chat", "--tempreature: did you mean '--temperature'?"),
    (["chat", "x", "y"], "usage: smol-hf chat", "unexpected argument 'y'"),
    (["chat", "x", "--top-k", "many"], "usage: smol-hf chat", "invalid int value: 'many'"),
    (["train", "--lerning_rate", "1"], "usage: smol-hf train", "--lerning_rate: did you mean '--learning_rate'?"),
    (["train", "digits"], "usage: smol-hf train", "unexpected argument 'digits': write --key value"),
    (["train", "--key", "1"], "usage: smol-hf train [--config RECIPE.yaml | --stages RECIPE.yaml …]", "option --key"),
    (["train", "--config", "a", "--config", "b"], "usage: smol-hf train", "--config is given twice"),
    (["pretrain", "--stpes", "1"], "usage: smol-hf pretrain", "--stpes: did you mean '--steps'?"),
    (["data", "stats", "x", "--filtres.max_turns=1"], "usage: smol-hf data stats", "did you mean '--filters'?"),
    (["demo", "--questoins", "1"], "usage: smol-hf demo", "did you mean '--questions'?"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "usage", "message"), MISSPELT, ids=lambda each: " ".join(each or ["-"])[-40:])
def test_a_misspelt_word_shows_the_usage_of_its_command_and_a_hint(words, usage, message, capsys):
    if message is None:
        assert parsed(*words)["temperature"] == 1
        return
    with pytest.raises(SystemExit) as stopped:
        main(words)
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.startswith(usage) and message in error.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--max_steps"], "--max_steps needs a value"),
        (["train", "--config", "wrong.yaml"], "unknown key 'lerning_rate': did you mean 'learning_rate'?"),
        (["dpo", "--model", "--beta", "0.1"], "--model needs a value"),
        (["pretrain", "--data", "x.txt", "--output", "out", "--max_steps"], "--max_steps needs a value"),
        (["demo", "--output", "out", "--learning_rate"], "--learning_rate needs a value"),
        (["data", "stats", "x.jsonl", "--model", "m", "--set", "colour=red"], "unknown key 'colour'"),
        (["data", "preview", "x.jsonl", "--filters.max_turns", "1", "--max_steps"], "--max_steps needs a value"),
    ],
    ids=lambda each: "".join(each)[:40],
)
def test_a_mistake_found_after_parsing_shows_the_usage_of_its_command(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.yaml").write_text("lerning_rate: 1\n")
    assert main(words) == 1
    error = capsys.readouterr().err
    command = " ".join(words[: 2 if words[0] == "data" else 1])
    assert error.startswith(f"usage: smol-hf {command} ") and message in error.splitlines()[-1]


def test_the_old_spelling_serves_a_page_with_a_hint(monkeypatch, capsys):
    served = []
    monkeypatch.setattr(
        "smol_hf.publishing.space.local_app.serve_locally", lambda *args, **keys: served.append((args, keys))
    )
    for command in ("serve", "demo"):
        assert main([command, "runs/x", "--port", "7861", "--trust_remote_code"]) == 0
        hint = capsys.readouterr().err
        assert ("hint: smol-hf demo CHECKPOINT is now smol-hf serve CHECKPOINT" in hint) == (command == "demo")
    assert served[0] == served[1] and served[0][0] == ("runs/x",)
    assert served[0][1]["port"] == 7861 and served[0][1]["trust_remote_code"] is True


def test_the_help_says_that_recipe_keys_can_be_set(capsys):
    for command in (["pretrain"], ["demo"], ["data", "prepare"], ["data", "list"]):
        with pytest.raises(SystemExit):
            main([*command, "--help"])
        assert "Set any other recipe key as --key value" in capsys.readouterr().out


def test_a_check_shows_only_code_that_differs(capsys):
    code = [("decoder.py", "12 as installed here"), ("mine.py", "34 not as installed here")]
    findings = [{"name": name, "value": value, "good": None} for name, value in code]
    print_parts(describe_check({"checkpoint": "x", "findings": findings}))
    shown = capsys.readouterr().out
    assert "mine.py" in shown and "decoder.py" not in shown


def completions(line):
    """The words that a shell offers at the end of a line."""
    argcomplete = pytest.importorskip("argcomplete")
    code = f"import sys; sys.path[:0] = {[os.path.dirname(os.path.dirname(argcomplete.__file__))]!r}\n"
    code += "from smol_hf.commands.main import main; main()"
    environment = {
        **os.environ, "_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": "/dev/stdout",
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    return {word.strip() for word in done.stdout.splitlines()}


def test_a_shell_completes_commands_options_and_recipe_keys():
    assert completions("smol-hf pre") == {"pretrain"}
    assert completions("smol-hf data pre") == {"preview", "prepare"}
    assert completions("smol-hf train --learning_r") == {"--learning_rate"}
    assert {"--max-new-tokens"} == completions("smol-hf chat x --max-n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--config", "nowhere.yaml"], "the recipe nowhere.yaml does not exist"),
        (["train", "--data", "nowhere.jsonl", "--output_dir", "{tmp}/x"], "nowhere.jsonl does not exist"),
        (["train", "--seed", "1"], "output_dir is missing"),
        (["chat", "{tmp}", "--prompt", "hi"], "error:"),
        (["chat", "{tmp}", "--prompt", "hi", "--temperature", "-1"], "temperature is -1"),
        (["chat", "{tmp}", "--prompt", "hi", "--top-p", "2"], "top_p is 2"),
        (["chat", "{tmp}", "--prompt", "hi", "--top-k", "0"], "top_k is 0"),
        (["chat", "{tmp}", "--prompt", "hi", "--repetition-penalty", "0"], "repetition_penalty is 0"),
        (["chat", "{tmp}", "--prompt", "hi", "--temperature", "nan"], "temperature is nan"),
        (["chat", "{tmp}", "--prompt", "hi", "--top-k", "3"], "give a temperature above 0"),
        (["chat", "{tmp}/nope", "--prompt", "hi"], "there is no checkpoint folder"),
        (["train", "--data", "digits", "--output_dir", "{tmp}/a-file"], "is a file"),
        (["demo", "--output", "{tmp}"], "other than an earlier demo"),
        (["publish", "{tmp}", "me/digits"], "is not a published checkpoint"),
        (["convert", "{tmp}", "{tmp}-out"], "config.json: there is no such file"),
        (["chat", "{tmp}", "--prompt", "hi", "--max-new-tokens", "0"], "max_new_tokens is 0"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(arguments, message, tmp_path, capsys):
    (tmp_path / "a-file").touch()
    (tmp_path / "recipe.yaml").write_text("of a run that is no demo")
    code = main([argument.replace("{tmp}", str(tmp_path)) for argument in arguments])
    error = capsys.readouterr().err
    assert code == 1
    assert error.startswith("error: ") and message in error
    assert "Traceback" not in error
