"""The command line: help with real examples, and errors a person can act on."""

import pytest

from smol_hf.cli import main

COMMANDS = ["train", "chat", "generate", "demo", "convert", "compose", "check", "estimate", "publish"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps_with_an_example(command, capsys):
    try:
        code = main([command, "--help"])
    except SystemExit as stopped:
        code = stopped.code
    text = capsys.readouterr().out
    assert code == 0
    assert f"\n  smol-hf {command} " in text, "an example that can be copied"


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    assert all(f"\n    {command} " in text for command in ("train", "chat", "generate", "demo", "convert"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--config", "nowhere.yaml"], "the recipe nowhere.yaml does not exist"),
        (["train", "--data", "nowhere.jsonl", "--output_dir", "{tmp}/x"], "nowhere.jsonl does not exist"),
        (["train", "--lerning_rate", "1", "--output_dir", "{tmp}/x"], "did you mean 'learning_rate'"),
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
        (["demo", "--output", "{tmp}"], "not an earlier demo"),
        (["publish", "{tmp}", "me/digits"], "is no published checkpoint"),
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
