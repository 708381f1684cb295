"""smol-hf publish against a Hub of our own, with the real client."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from processes import fork_command
from publishing.writable_hub import TOKEN

from smol_hf import SmolHFForConditionalGeneration, SmolHFProcessor
from smol_hf.commands.main import main

WITHOUT_US = 'import sys\nsys.modules["smol_hf"] = None\n'
QUESTION = """
from PIL import Image
content = [{"type": "image", "image": Image.new("RGB", (32, 32), "red")}, {"type": "text", "text": "What is this?"}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": content}],
    add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
logits = model.eval()(**inputs).logits[0, -1].tolist()
print(logits)
"""


def publish(*arguments):
    return main(["publish", *map(str, arguments)])


def large(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}


def environment(hub, tmp_path, **more):
    return {
        **os.environ, "HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home"), **more
    }  # fmt: skip


def test_a_dry_run_shows_what_would_be_sent_and_sends_nothing(hub, checkpoint, capsys):
    before = {path: path.read_bytes() for path in checkpoint.rglob("*")}
    assert publish(checkpoint, "me/digits", "--private", "--branch", "v1") == 0
    text = capsys.readouterr().out
    assert hub.requests == [] and hub.repositories == {}
    assert {path: path.read_bytes() for path in checkpoint.rglob("*")} == before
    assert f"{checkpoint} → me/digits\n" in text and re.search(r"│ README.md +│ +[\d,]+ │ changed", text)
    for name in ("config.json", "modeling_smol_hf.py", "recipe.yaml", "tokenizer.json"):
        assert re.search(rf"│ {name} +│ +{(checkpoint / name).stat().st_size:,} │ +│", text)
    assert len(re.findall(r"model-\d+-of-00003.safetensors │ +[\d,]+ │ LFS", text)) == 3
    assert "to branch v1, private; licence: mit" in text and "--yes" in text
    assert '+checkpoint = "me/digits"' in text and "+# " not in text


def test_what_was_published_loads_in_an_isolated_process(hub, checkpoint, tmp_path, capsys):
    """With the five lines that the command prints, in a process without this package, from a branch."""
    assert publish(checkpoint, "me/digits", "--branch", "trial/1", "--message", "the first", "--yes") == 0
    text = capsys.readouterr().out
    assert f"{hub.address}/me/digits/tree/trial/1 (public)\n" in text
    lines = text[text.index("from transformers") :]
    assert len(lines.split("\n\n")) == 2 and 'revision="trial/1"' in lines

    repository = hub.repositories["me/digits"]
    assert repository.messages == ["initial commit", "the first"] and not repository.private
    assert set(repository.tree("main")) == {".gitattributes"}
    tree = repository.tree("trial/1")
    assert {name for name in tree if name != ".gitattributes"} == {path.name for path in checkpoint.iterdir()}
    assert all(tree[path.name] == path.read_bytes() for path in checkpoint.iterdir())

    command = [sys.executable, "-I", "-c", WITHOUT_US + lines + QUESTION]
    loaded = subprocess.run(
        command, env=environment(hub, tmp_path), cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert loaded.returncode == 0, loaded.stderr
    here = {
        "processor": SmolHFProcessor.from_pretrained(checkpoint),
        "model": SmolHFForConditionalGeneration.from_pretrained(checkpoint),
    }
    exec(QUESTION, here)
    assert json.loads(loaded.stdout.splitlines()[-1]) == pytest.approx(here["logits"], abs=1e-5)


def test_an_upload_that_was_killed_goes_on(hub, checkpoint, tmp_path, capsys):
    hashes = large(checkpoint)
    last = max(hashes)
    hub.held.add(hashes[last])
    child = fork_command(["publish", checkpoint, "me/digits", "--yes"], tmp_path / "printed.txt")
    deadline = time.monotonic() + 100
    while len(hub.objects) < len(hashes) - 1 or hashes[last] not in hub.sent:
        assert time.monotonic() < deadline and child.process.is_alive()
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait()[0] == -signal.SIGKILL
    assert set(hub.repositories["me/digits"].tree("main")) == {".gitattributes"}, "no half of a checkpoint"

    hub.held.clear()
    hub.objects.pop(hashes[last], None)
    assert publish(checkpoint, "me/digits", "--yes") == 0
    assert sorted(hub.sent) == sorted([*hashes.values(), hashes[last]])
    assert large_on(hub) == hashes


def large_on(hub, branch="main"):
    tree = hub.repositories["me/digits"].tree(branch)
    return {name: hashlib.sha256(tree[name]).hexdigest() for name in tree if name.endswith(".safetensors")}


def test_what_was_not_stored_is_sent_again_and_nothing_else(hub, checkpoint, capsys):
    hashes = large(checkpoint)
    refused = hashes[max(hashes)]
    hub.refused.add(refused)
    assert publish(checkpoint, "me/digits", "--yes") == 1
    error = capsys.readouterr().err
    assert all(words in error for words in ("was interrupted", max(hashes), "Run the command again"))
    assert "Traceback" not in error

    hub.refused.clear()
    assert publish(checkpoint, "me/digits", "--yes") == 0
    assert sorted(hub.sent) == sorted([*hashes.values(), refused])

    hub.sent.clear()
    assert publish(checkpoint, "me/digits", "--yes") == 0
    assert "nothing to change" in capsys.readouterr().out
    assert hub.sent == [] and len(hub.repositories["me/digits"].messages) == 2


def test_a_dropped_connection_is_taken_up_again(hub, checkpoint):
    hashes = large(checkpoint)
    hub.dropped.add(hashes[min(hashes)])
    assert publish(checkpoint, "me/digits", "--yes") == 0
    assert sorted(hub.sent) == sorted([*hashes.values(), hashes[min(hashes)]])
    assert large_on(hub) == hashes


def test_a_private_repository_is_private(hub, checkpoint, capsys):
    assert publish(checkpoint, "me/secret", "--private", "--yes") == 0
    assert hub.repositories["me/secret"].private
    hub.add("me/open")
    assert publish(checkpoint, "me/open", "--private", "--yes") == 1
    assert "me/open exists and is public" in capsys.readouterr().err
    assert set(hub.repositories["me/open"].tree("main")) == {".gitattributes"}


def test_a_pull_request_leaves_the_branch(hub, checkpoint, capsys):
    hub.add("me/digits")
    assert publish(checkpoint, "me/digits", "--create-pr", "--yes") == 0
    text = capsys.readouterr().out
    assert f"{hub.address}/me/digits/discussions/1 (public)\n" in text and 'revision="refs/pr/1"' in text
    assert set(hub.repositories["me/digits"].tree("main")) == {".gitattributes"}
    assert "config.json" in hub.repositories["me/digits"].tree("refs/pr/1")
    assert not any("/repos/create" in path for _, path in hub.requests)


def test_other_weights_are_replaced_only_when_asked(hub, checkpoint, capsys):
    """transformers loads model.safetensors before shards: the old one would be what everyone gets."""
    hub.add("me/digits", tree={"model.safetensors": b"old", "notes.md": b"kept"})
    assert publish(checkpoint, "me/digits", "--yes") == 1
    assert "has other weights" in (error := capsys.readouterr().err) and "model.safetensors" in error
    assert hub.sent == []
    assert publish(checkpoint, "me/digits", "--yes", "--replace-weights") == 0
    assert "the repository also holds notes.md" in capsys.readouterr().out
    assert large_on(hub) == large(checkpoint)


@pytest.mark.parametrize(
    ("token", "repository", "message"),
    [
        ("hf_other", "me/digits", "answered 401 (Invalid username or password): log in with `hf auth login`"),
        (TOKEN, "them/digits", "answered 403 (You don't have the rights to create a model under them): this login"),
    ],
)
def test_who_may_not_write_is_told_so_in_a_line(hub, checkpoint, capsys, token, repository, message):
    assert publish(checkpoint, repository, "--yes", "--token", token) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert hub.repositories == {} and hub.sent == []


def test_a_branch_that_changed_meanwhile_is_a_line(hub, checkpoint, capsys):
    repository = hub.add("me/digits")
    hub.conflicts = True
    assert publish(checkpoint, "me/digits", "--yes") == 1
    error = capsys.readouterr().err
    assert "answered 409" in (line := error.splitlines()[-1]) and "run the command again" in line
    assert "Traceback" not in error
    assert len(repository.messages) == 1


def test_what_arrives_changed_is_named(hub, checkpoint, capsys):
    hub.damaged.add("config.json")
    assert publish(checkpoint, "me/digits", "--yes") == 1
    assert "differs from what was sent: config.json" in capsys.readouterr().err


def test_a_hub_that_is_not_there_is_a_line(checkpoint, capsys, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    assert publish(checkpoint, "me/digits", "--yes", "--token", TOKEN) == 1
    error = capsys.readouterr().err
    assert "http://127.0.0.1:9 does not answer" in error and error.count("\n") == 1


def test_pretrain_uploads_its_result_to_a_branch(hub, tmp_path, monkeypatch, capsys):
    """From text to a repository that loads anywhere, in one command that still ends with its line of JSON."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "story.txt").write_text("A short story, told again and again by the fire.\n" * 60)
    words = ["pretrain", "--data", "story.txt", "--preset", "tiny-text", "--steps", "2", "--output", "runs/story"]
    words += [
        "--context-length",
        "32",
        "--batch-size",
        "2",
        "--documents_cache",
        str(tmp_path / "caches"),
        "--use_cpu",
    ]
    words += ["--push-to-hub", "me/story", "--branch", "first", "--private", "--license", "mit"]
    assert main([*words, "--token", TOKEN]) == 0
    text = capsys.readouterr().out
    assert json.loads(text.strip().splitlines()[-1])["steps"] == 2 and "me/story/tree/first (private)" in text
    repository = hub.repositories["me/story"]
    tree = repository.tree("first")
    assert {"config.json", "model.safetensors", "tokenizer.json", "loss.png", "modeling_smol_hf_text.py"} <= set(tree)
    assert b"license: mit" in tree["README.md"] and str(tmp_path).encode() not in b"".join(tree.values())
    lines = text[text.index("from transformers") : text.rindex("\n{")]
    program = (
        WITHOUT_US + lines + "\nprint(model.generate(tokenizer('A', return_tensors='pt').input_ids, max_length=4))"
    )
    command = [sys.executable, "-I", "-c", program]
    loaded = subprocess.run(
        command, env=environment(hub, tmp_path), cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert loaded.returncode == 0 and "tensor" in loaded.stdout, loaded.stderr
