"""`smol-hf evaluate`: the same answers for any batch size and after a kill, bad rows, baselines, comparisons."""

import json
import shutil
import time

import pytest
import torch
from evaluation.held_out import evaluated, lines_of, save_rows
from helpers import ready
from inference.text_checkpoints import CHAT_TEMPLATE, save_text_checkpoint
from peft import LoraConfig, get_peft_model
from PIL import Image
from processes import fork_command
from transformers import AutoTokenizer, LlamaForCausalLM

from smol_hf.commands.main import main
from smol_hf.data.collator import SmolCollator
from smol_hf.data.conversation import ImagePart, SampleError
from smol_hf.data.records import Place, adapt
from smol_hf.evaluation.answering import ahead
from smol_hf.inference.answering import load_checkpoint
from smol_hf.inference.prompts import Prompt
from smol_hf.inference.run import Generator
from smol_hf.inference.sampling import Sampling


def without_times(results):
    return {key: value for key, value in results.items() if key not in ("seconds", "batch_size")}


@pytest.fixture(scope="module")
def reference(vlm, tmp_path_factory):
    """An uninterrupted evaluation, one prompt at a time: (data, folder, results)."""
    place = tmp_path_factory.mktemp("reference")
    data = save_rows(place / "data")
    return data, place / "out", evaluated(vlm, data, place / "out", batch_size=1)


def test_batches_and_an_interruption_change_nothing(vlm, reference, tmp_path):
    data, folder, results = reference
    expected = (folder / "predictions.jsonl").read_bytes()
    out = tmp_path / "out"
    batched = evaluated(vlm, data, out, batch_size=5)
    assert (out / "predictions.jsonl").read_bytes() == expected
    assert without_times(batched) == without_times(results)
    lines = expected.splitlines(keepends=True)
    (out / "predictions.jsonl").write_bytes(b"".join(reversed(lines[3:20])) + lines[0][:40])  # as a kill leaves it
    said = []
    resumed = evaluated(vlm, data, out, batch_size=3, said=said)
    assert (out / "predictions.jsonl").read_bytes() == expected
    assert without_times(resumed) == without_times(results)
    assert "asked: 9 answers of an earlier start kept" in said


def test_a_killed_evaluation_continues(vlm, reference, tmp_path):
    data, folder, _ = reference
    out = tmp_path / "out"
    words = ["evaluate", vlm, "--data", data, "--output", out, "--max-new-tokens", 8, "--batch-size", 1]
    killed = fork_command([*words, "--device", "cpu"], tmp_path / "printed.txt")
    deadline = time.monotonic() + 100
    while not (out / "predictions.jsonl").is_file() or len(lines_of_text(out)) < 5:
        assert killed.process.is_alive() and time.monotonic() < deadline
        time.sleep(0.002)
    killed.process.kill()
    assert killed.wait()[0] == -9
    done = len(lines_of_text(out))
    said = []
    evaluated(vlm, data, out, said=said)
    assert (out / "predictions.jsonl").read_bytes() == (folder / "predictions.jsonl").read_bytes()
    assert 5 <= done < 34 and any("of an earlier start kept" in line for line in said)


def lines_of_text(folder):
    return (folder / "predictions.jsonl").read_bytes().split(b"\n")[:-1]


def test_an_adapter_answers_as_the_merged_model(tmp_path):
    base = save_text_checkpoint(tmp_path / "base", "native", chat_template=CHAT_TEMPLATE)
    torch.manual_seed(0)
    model = get_peft_model(LlamaForCausalLM.from_pretrained(base), LoraConfig(init_lora_weights=False))
    model.save_pretrained(tmp_path / "adapter")
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    for name in ("adapter", "merged"):
        AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / name)
    rows = [{"prompt": f"Question {number}", "answers": ["B", "C"]} for number in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("base", "adapter", "merged"):
        settings = evaluated(tmp_path / name, tmp_path / "rows.jsonl", tmp_path / f"of {name}")["settings"]
        assert ("base_fingerprint" in settings) == (name == "adapter")
    plain, adapter, merged = (
        [each["prediction"] for each in lines_of(tmp_path / f"of {name}")] for name in ("base", "adapter", "merged")
    )
    assert adapter == merged and adapter != plain


def test_answers_are_those_of_generate(vlm, reference):
    data, folder, _ = reference
    generator = Generator(*load_checkpoint(vlm, device="cpu"), Sampling(max_new_tokens=8))
    rows = [json.loads(line) for line in data.read_text().splitlines()][:11]
    for view, images in (("asked", True), ("blind", False)):
        prompts = [Prompt(row["question"], (str(data.parent / row["image"]),) if images else ()) for row in rows]
        texts = [each.text.strip() for each in generator.answers(prompts)]
        assert texts == [each["prediction"] for each in lines_of(folder) if each["view"] == view][: len(rows)]
        assert len(set(texts)) > 5


def test_the_loss_of_a_reference_is_that_of_training(vlm, reference):
    data, folder, results = reference
    model, processor = load_checkpoint(vlm, device="cpu")
    row, line = json.loads(data.read_text().splitlines()[0]), lines_of(folder)[0]
    batch = SmolCollator(processor)(ready([adapt(row, Place("row", data.parent))], processor))
    with torch.no_grad():
        loss = float(model(**batch).loss)
    assert line["nats"] == pytest.approx(loss * line["answer_tokens"], rel=1e-4)
    lines = [each for each in lines_of(folder) if each["view"] == "asked"]
    nats, tokens = sum(each["nats"] for each in lines), sum(each["answer_tokens"] for each in lines)
    assert results["loss"] == pytest.approx(nats / tokens)
    assert results["bits_per_byte"] == pytest.approx(nats / 0.6931471805599453 / 12)  # each reference is one digit


def test_a_folder_with_other_settings_or_data_is_refused(vlm, tmp_path):
    data = save_rows(tmp_path / "data", rows=3, row1={"image": "gone.png"})
    options = {"baselines": ["none"], "on_bad_sample": "skip", "max_skipped_fraction": 0.5}
    evaluated(vlm, data, tmp_path / "out", **options)
    listed = (tmp_path / "out" / "skipped.jsonl").read_text()
    other = save_rows(tmp_path / "other", rows=3)
    with pytest.raises(ValueError, match="has answers to other data"):
        evaluated(vlm, other, tmp_path / "out")
    assert (tmp_path / "out" / "skipped.jsonl").read_text() == listed and "gone.png" in listed
    with pytest.raises(ValueError, match="has answers with max new tokens 8, now 9: choose another --output"):
        evaluated(vlm, data, tmp_path / "out", max_new_tokens=9, **options)
    Image.new("RGB", (30, 40)).save(tmp_path / "data" / "0.png")
    with pytest.raises(ValueError, match=r"has answers to other data"):
        evaluated(vlm, data, tmp_path / "out", **options)


def test_other_models_are_compared_on_the_same_rows(vlm, reference, tmp_path):
    data, folder, _ = reference
    options = {"metric": ["contains", "character_error_rate"], "baselines": ["none"]}
    torch.manual_seed(1)
    other = shutil.copytree(vlm, tmp_path / "other" / "checkpoint")
    first = evaluated(vlm, data, tmp_path / "out", against=[str(folder), str(other)], **options)
    of_file, of_checkpoint = first["against"]
    assert (of_file["only_here"], of_file["only_there"]) == (0, 0)
    for each in (of_file, of_checkpoint):  # the same answers
        assert each["metrics"]["character_error_rate"]["difference"] == 0
        assert each["metrics"]["character_error_rate"]["probability"] == 0.5
        assert each["method"].startswith("paired bootstrap")
    lines = lines_of(folder)
    for line in lines:
        line["prediction"] = line["references"][0]
    right = tmp_path / "right.jsonl"
    right.write_text("".join(json.dumps(line) + "\n" for line in lines[:9]))
    [found] = evaluated(vlm, data, tmp_path / "out", against=[str(right)], **options)["against"]
    assert found["only_here"] == 3 and found["metrics"]["contains"]["questions"] == 9
    assert found["metrics"]["contains"]["other"] == 1
    assert found["metrics"]["character_error_rate"]["probability"] > 0.99
    right.write_text(json.dumps({**lines[0], "sample": "elsewhere:1"}) + "\n")
    with pytest.raises(ValueError, match="has no answer to a row of this data"):
        evaluated(vlm, data, tmp_path / "out", against=[str(right)], **options)
    right.write_text(json.dumps({**lines[0], "question": "Another?"}) + "\n")
    with pytest.raises(ValueError, match=r"right.jsonl has another question in held_out.jsonl:1: evaluate it on the"):
        evaluated(vlm, data, tmp_path / "out", against=[str(right)], **options)


@pytest.mark.parametrize("name, message", [("gone.jsonl", "no such file"), ("rows.jsonl", "has no line with sample")])
def test_a_wrong_file_to_compare_with_is_refused_before_any_answer(vlm, held_out, tmp_path, name, message):
    (tmp_path / "rows.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    with pytest.raises(ValueError, match=message):
        evaluated(vlm, held_out, tmp_path / "out", against=[str(tmp_path / name)])
    assert not (tmp_path / "out").exists()


def test_the_command_counts_compared_questions_measured_references_and_rows_left_out(vlm, tmp_path, capsys):
    changes = {"row0": {"answer": "word " * 3000}, "row1": {"image": "gone.png"}}
    data, out = save_rows(tmp_path / "data", rows=5, **changes), tmp_path / "out"
    words = ["evaluate", vlm, "--data", data, "--max-new-tokens", 4, "--device", "cpu", "--baselines", "none"]
    words = list(map(str, [*words, "--metric", "exact_match", "--on-bad-sample", "skip", "--output", out]))
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "bits per byte (of 3 of 4 references)\n" in printed and "\n1 row left out" in printed
    first = tmp_path / "first.jsonl"
    first.write_text(json.dumps(lines_of(out)[0]) + "\n")
    assert main([*words, "--against", str(first)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "exact_match on 1 question: " in printed and "; the scores are equal" in printed


@pytest.mark.parametrize(
    "change",
    [{"nats": None, "answer_tokens": None}, {"nats": "x"}, {"view": 3}, {"view": []}, {"prediction": 1}],
    ids=["no tokens", "nats", "view", "views", "prediction"],
)
def test_a_row_with_a_damaged_entry_is_answered_again(vlm, reference, tmp_path, change):
    data, folder, _ = reference
    out = shutil.copytree(folder, tmp_path / "out")
    first, *others = (out / "predictions.jsonl").read_text("utf-8").splitlines(keepends=True)
    (out / "predictions.jsonl").write_text(
        json.dumps({**json.loads(first), **change}) + "\n" + "".join(others), "utf-8"
    )
    evaluated(vlm, data, out)
    assert (out / "predictions.jsonl").read_bytes() == (folder / "predictions.jsonl").read_bytes()
    (out / "settings.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"settings.json cannot be read, so .* cannot be continued"):
        evaluated(vlm, data, out)


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, None], ids=["chat", "continues"])
def test_language_models_of_transformers(tmp_path, template):
    folder = save_text_checkpoint(tmp_path / "model", "native", chat_template=template)
    lines = [{"prompt": f"Question {'very ' * number}long", "completion": "yes"} for number in range(5)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = [evaluated(folder, tmp_path / "text.jsonl", tmp_path / str(size), batch_size=size) for size in (1, 3)]
    assert without_times(results[0]) == without_times(results[1])
    assert results[0]["measured_references"] == 5 and set(results[0]["metrics"]["yes_no"]["baselines"]) == {"majority"}
    data = save_rows(tmp_path / "data", rows=3)
    with pytest.raises(SampleError, match=r"held_out.jsonl:1: has an image, but the model is text-only"):
        evaluated(folder, data, tmp_path / "images")


def test_a_native_folder_answers_as_the_checkpoint(vlm, reference, tmp_path):
    data, folder, results = reference
    native = tmp_path / "native"
    assert main(["convert", str(vlm), str(native), "--to", "smolvlm"]) == 0
    # Idefics3's processor is the same, and needs no torchvision.
    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        text = (native / name).read_text().replace("SmolVLMImageProcessor", "Idefics3ImageProcessor")
        facts = json.loads(text.replace("SmolVLMProcessor", "Idefics3Processor"))
        facts.pop("video_processor", None)
        (native / name).write_text(json.dumps(facts))
    (native / "video_preprocessor_config.json").unlink()
    found = evaluated(native, data, tmp_path / "out", batch_size=3, baselines=["none"])
    expected = [each for each in lines_of(folder) if each["view"] == "asked"]
    for ours, theirs in zip(expected, lines_of(tmp_path / "out"), strict=True):
        assert theirs["prediction"] == ours["prediction"]
        assert theirs["nats"] == pytest.approx(ours["nats"], abs=1e-3)
    assert found["loss"] == pytest.approx(results["loss"], rel=1e-4)


def test_a_checkpoint_without_a_processor(vlm, reference, tmp_path, capsys):
    folder = shutil.copytree(vlm, tmp_path / "checkpoint")
    for path in folder.iterdir():
        if path.name.startswith(("processor", "preprocessor", "tokenizer", "processing")):
            path.unlink()
    assert main(["evaluate", str(folder), "--data", str(reference[0])]) == 1
    assert "error: " in (printed := capsys.readouterr().err) and "has no processor that loads" in printed


def test_the_next_batches_are_prepared_ahead_and_in_order():
    started = []
    results = ahead(lambda item: started.append(item) or item * 2, range(6))
    assert next(results) == 0 and len(started) >= 1
    assert list(results) == [2, 4, 6, 8, 10] and started == list(range(6))


def test_the_command_prints_scores_and_writes_next_to_the_checkpoint(vlm, held_out, capsys):
    words = ["evaluate", str(vlm), "--data", str(held_out), "--max-new-tokens", "4", "--device", "cpu"]
    assert main([*words, "--metric", "exact_match", "--metric", "word_error_rate"]) == 0
    printed = capsys.readouterr().out
    for text in ("exact_match", "word_error_rate, lower is better", "blind", "majority", "all", "0.0% – 26.5%"):
        assert text in printed
    folder = vlm.parent / "evaluation"
    assert {path.name for path in folder.iterdir()} >= {"results.json", "predictions.jsonl", "report.html"}
    assert json.loads((folder / "results.json").read_text())["metrics"]["exact_match"]["questions"] == 12
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "either --data or --config"),
        (["--batch-size", "0"], "batch_size is 0: it must be at least 1"),
        (["--baselines", "blint"], "unknown baseline 'blint'"),
        (["--max-skipped-fraction", "2"], "from 0 to 1"),
        (["--data", "gone.jsonl"], "gone.jsonl does not exist"),
        (["--config", "gone.yaml"], "gone.yaml cannot be read (No such file or directory): name a YAML file"),
    ],
)
def test_mistakes_of_the_command_are_one_sentence(vlm, held_out, tmp_path, words, message, capsys):
    words = ["evaluate", str(vlm), "--output", str(tmp_path / "o"), *words]
    words += [] if "--data" in words or "--config" in words or "either" in message else ["--data", str(held_out)]
    assert main(words) == 1
    assert message in (printed := capsys.readouterr().err) and "Traceback" not in printed


def test_shown_images_are_those_of_the_row(vlm, reference):
    """The view `shuffled` differs from `asked` only by the image."""
    data, folder, _ = reference
    generator = Generator(*load_checkpoint(vlm, device="cpu"), Sampling(max_new_tokens=8))
    row = json.loads(data.read_text().splitlines()[0])
    line = next(each for each in lines_of(folder) if each["view"] == "shuffled")
    images = [ImagePart(path=str(data.parent / f"{number}.png")) for number in (1, 2, 3)]
    answers = [
        each.text.strip() for each in generator.answers([Prompt(row["question"], (each.path,)) for each in images])
    ]
    assert line["prediction"] in answers and line["sample"] == "held_out.jsonl:1"
