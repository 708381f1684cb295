"""Two processes (gloo) train the demo's recipe on rows of which some have no image, like one process does."""

import json
import os

import pytest
from processes import call, fork_ranks

from smol_hf.commands.main import main
from smol_hf.data.digits import build_pages
from smol_hf.support.resources import resource_path
from smol_hf.training.log.console import read_log

STEPS, UNFREEZE = 6, 3


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """32 records; 8 in a row have no image, so that a whole batch of one process is blind while the other's is not."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for index, page in enumerate(build_pages(32, seed=0, split="train")):
        name = None if index % 2 == 0 else f"{index}.png"
        if name is not None:
            (folder / name).write_bytes(page.conversation.images[0].content)
        question = page.question if name is None else f"<image>\n{page.question}"
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": page.answer}]
        rows.append({"image": name, "conversations": turns})
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def launch(processes, words, folder, code=0):
    """Run the command in one process or in several. Returns what was printed by all of them."""
    if processes == 1:
        done = [(result.returncode, result.stdout + result.stderr) for result in [call(words)]]
    else:
        done = [rank.wait() for rank in fork_ranks(processes, words, folder)]
    printed = "".join(said for _, said in done)
    assert [status for status, _ in done] == [code] * processes, printed
    return printed


def train_words(data, output, batch_size, key, *more):
    return [
        "train", "--config", resource_path("recipes", "quickstart", "digits.yaml"),
        f"--{key}", data, "--output_dir", output, "--per_device_train_batch_size", batch_size,
        "--max_steps", STEPS, "--unfreeze_vision_at_step", UNFREEZE, "--logging_steps", "1",
        "--save_steps", STEPS, "--warmup_steps", "0", "--use_cpu", "true", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def mixture(data):
    """The same records, and once more those without an image as a source of their own."""
    rows = [line for line in data.read_text().splitlines() if json.loads(line)["image"] is None]
    words = data.parent / "words.jsonl"
    words.write_text("".join(f"{row}\n" for row in rows))
    entries = [{"data": str(data), "name": "pages"}, {"data": str(words), "samples": 20, "modality": "text"}]
    path = data.parent / "mixture.yaml"
    path.write_text(json.dumps(entries))  # which is YAML too
    return path


@pytest.mark.parametrize(("batch_size", "key"), [(1, "data"), (2, "mixture")])
def test_two_processes_train_like_one(batch_size, key, data, mixture, tmp_path):
    source = data if key == "data" else mixture
    launch(1, train_words(source, tmp_path / "one", 2 * batch_size, key), tmp_path)
    output = launch(2, train_words(source, tmp_path / "two", batch_size, key), tmp_path)
    one, two = ([entry for entry in read_log(tmp_path / name) if "loss" in entry] for name in ("one", "two"))
    assert [entry["loss"] for entry in two] == pytest.approx([entry["loss"] for entry in one], abs=2e-5)
    for name in ("total_tokens", "total_trained_tokens", "total_samples", "total_tiles"):
        assert [entry[name] for entry in two] == [entry[name] for entry in one], name
    by_source = [name for name in one[-1] if "/" in name]
    assert bool(by_source) == (key == "mixture")
    for entry, other in zip(one, two):
        assert [other.get(name) for name in by_source] == pytest.approx(
            [entry.get(name) for name in by_source], abs=2e-5
        )
    shares = [json.loads((tmp_path / name / "mixture.json").read_text()) for name in ("one", "two")]
    assert shares[0] == shares[1]
    assert output.count("First batch") == 1, "one process speaks"
    assert (tmp_path / "two" / "checkpoint" / "model.safetensors").is_file()
    assert (tmp_path / "two" / f"checkpoint-{STEPS}" / "manifest.json").is_file()
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {
        path.name for path in (tmp_path / "two" / f"checkpoint-{STEPS}").iterdir()
    }


def test_two_processes_count_together_what_cannot_be_used(data, tmp_path):
    """Each alone would stay below the limit, and each would write its own ledger."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    lines = data.read_text().splitlines()
    for path in data.parent.glob("*.png"):
        content = path.read_bytes()
        (folder / path.name).write_bytes(content[:90] if int(path.stem) % 4 == 1 else content)
    (folder / "rows.jsonl").write_text("\n".join(lines))
    policy = ("--on_bad_sample", "skip", "--max_skipped_fraction", "0.2")
    said = launch(2, train_words(folder / "rows.jsonl", tmp_path / "run", 4, "data", *policy), tmp_path, code=1)
    assert "7 of 32 samples of rows.jsonl cannot be used, more than max_skipped_fraction 0.2" in said
    names = [json.loads(line)["sample"] for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert len(names) == len(set(names)) >= 7


def test_two_processes_read_documents_like_one(tmp_path):
    """One makes the cache, both read it; each validates its part."""
    text = "".join(f"Line {number} of a text, in which {number % 7} birds sing.\n" for number in range(400))
    (tmp_path / "text.txt").write_text(text)
    recipe = str(resource_path("recipes", "text", "pretrain.yaml"))
    logs = {}
    for processes in (1, 2):
        output = tmp_path / str(processes)
        words = ["train", "--config", recipe, "--documents", tmp_path / "text.txt", "--preset", "tiny-text"]
        words += ["--context_length", "64", "--per_device_train_batch_size", str(4 // processes), "--max_steps", "4"]
        words += ["--documents_cache", output / "caches", "--logging_steps", "1", "--use_cpu", "true"]
        words += ["--per_device_eval_batch_size", "3", "--save_strategy", "no", "--num_checkpoints", "null"]
        printed = launch(processes, [*words, "--output_dir", output], tmp_path)
        assert len([line for line in printed.splitlines() if line.startswith('{"validation_loss"')]) == 1
        logs[processes] = read_log(output)
    for name in ("loss", "total_tokens", "total_trained_tokens", "eval_loss", "eval_tokens", "eval_bits_per_byte"):
        one, two = ([entry[name] for entry in logs[each] if name in entry] for each in (1, 2))
        assert one and two == pytest.approx(one, abs=2e-5), name


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("--max_steps", "4", "max_steps 4 instead of 6"),
        ("--save_steps", "3", "save_steps 3 instead of 6"),
        ("--data", None, "the fingerprint of the data "),
    ],
)
def test_processes_with_other_keys_or_data_are_refused(key, value, message, data, tmp_path):
    """Each machine may have been started with a recipe and data of its own."""
    fewer = data.parent / "fewer.jsonl"
    fewer.write_text("".join(data.read_text().splitlines(keepends=True)[:-1]))

    def train(words):
        if os.environ["RANK"] == "1":
            words[words.index(key) + 1] = value or str(fewer)
        return main(words)

    words = [str(word) for word in train_words(data, tmp_path / "run", 4, "data")]
    for code, printed in [rank.wait() for rank in fork_ranks(2, words, tmp_path, train)]:
        assert code == 1 and f"process 1 has another recipe or other data than process 0: {message}" in printed
