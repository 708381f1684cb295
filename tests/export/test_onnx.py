"""`smol-hf export --to onnx`: the graphs of transformers.js, whose greedy tokens are those of the checkpoint."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conversion.native_models import TEXT_MODELS, VISION_MODELS, saved
from helpers import build_model, build_processor
from processes import call
from transformers import GPT2Config, GPT2LMHeadModel, SmolLM3Config, SmolLM3ForCausalLM

from smol_hf.commands.main import main
from smol_hf.conversion.convert import convert
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.export.export import export
from smol_hf.export.onnx import folder as onnx_folder
from smol_hf.export.onnx.folder import write_folder
from smol_hf.export.onnx.precisions import QUANTIZERS
from smol_hf.export.onnx.target import commands
from smol_hf.publishing.checkpoint import publish_checkpoint

onnx = pytest.importorskip("onnx", reason='the graphs need onnx: pip install "smol_hf[onnx]"')
pytest.importorskip("onnxruntime", reason='the graphs need onnxruntime: pip install "smol_hf[onnx]"')

GRAPHS = ("vision_encoder", "embed_tokens", "decoder_model_merged")


def exported_facts(*words):
    done = call(["export", *words, "--to", "onnx", "--json"])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def exported(colour_prompts, tiled_vlm, tmp_path_factory):
    """The exported folder and the facts of its export."""
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    prompts = ["--prompts-file", colour_prompts]
    return folder, exported_facts(tiled_vlm, folder, *prompts, "--precisions", "q8", "fp32", "q4")


def test_the_graphs_answer_like_the_checkpoint(exported):
    comparison = exported[1]["comparison"]
    assert comparison["engine"] == "onnxruntime" and "not_compared" not in comparison
    assert comparison["equal"] == comparison["prompts"] == 20
    assert comparison["answers"] >= 6 and comparison["difference"] < 1e-4
    variants = comparison["variants"]
    assert list(variants) == ["q8", "q4"]
    assert variants["q8"]["equal"] >= 18 and 1e-4 < variants["q8"]["difference"] < variants["q4"]["difference"] * 10


def test_the_folder_has_what_transformers_js_reads(exported):
    folder, facts = exported
    _, place, loading = facts["commands"]
    assert place.startswith(f'env.localModelPath = "{folder.parent}"; ')
    assert f'from_pretrained("{folder.name}", ' in loading
    graphs = {f"onnx/{name}{suffix}.onnx" for name in GRAPHS for suffix in ("", "_quantized", "_q4")}
    settings = {
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "processor_config.json",
        "preprocessor_config.json", "chat_template.jinja", "README.md",
    }  # fmt: skip
    assert set(facts["files"]) == graphs | settings
    size = {name: sum(facts["files"][f"onnx/{graph}{name}.onnx"] for graph in GRAPHS) for name in ("", "_quantized")}
    assert size["_quantized"] < 0.75 * size[""]
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    assert tokenizer["chat_template"] == (folder / "chat_template.jinja").read_text()
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    assert processor["image_processor_type"] == "SmolVLMImageProcessor" and processor["size"] == {"longest_edge": 128}


def names_and_shapes(values):
    shapes = ((each.name, each.type.tensor_type.shape.dim) for each in values)
    return {name: [one.dim_param or one.dim_value for one in shape] for name, shape in shapes}


@pytest.mark.parametrize("suffix", ["", "_quantized", "_q4"])
def test_the_inputs_are_those_of_transformers_js(exported, suffix):
    graph = {name: onnx.load(exported[0] / "onnx" / f"{name}{suffix}.onnx").graph for name in GRAPHS}
    vision = names_and_shapes(graph["vision_encoder"].input)
    assert vision["pixel_values"] == ["batch_size", "num_images", 3, 64, 64]
    assert list(vision) == ["pixel_values", "pixel_attention_mask"]
    assert list(names_and_shapes(graph["embed_tokens"].input)) == ["input_ids"]
    decoder = names_and_shapes(graph["decoder_model_merged"].input)
    cache = [f"past_key_values.{layer}.{part}" for layer in (0, 1) for part in ("key", "value")]
    assert list(decoder) == ["inputs_embeds", "attention_mask", "position_ids", *cache]
    assert decoder[cache[0]] == ["batch_size", 2, "past_sequence_length", 16]
    assert next(iter(names_and_shapes(graph["decoder_model_merged"].output))) == "logits"


def test_check_compares_the_folder_again(exported, colour_prompts, tiled_vlm, tmp_path):
    words = ["check", exported[0], "--source", tiled_vlm, "--prompts-file", colour_prompts]
    done = call(words)
    assert done.returncode == 0, done.stderr
    assert "onnxruntime: 20 of 20 prompts" in done.stdout and "onnxruntime, q8: " in done.stdout
    other = shutil.copytree(exported[0], tmp_path / "other")
    processor = json.loads((other / "preprocessor_config.json").read_text())
    (other / "preprocessor_config.json").write_text(json.dumps(processor | {"image_mean": [0.1, 0.9, 0.2]}))
    done = call([*words[:1], other, *words[2:]])
    assert done.returncode == 1 and "does not answer like" in done.stderr
    path = other / "onnx" / "vision_encoder_quantized.onnx"
    for damage in (lambda: path.write_bytes(b"no graph"), path.unlink):
        damage()
        done = call([*words[:1], other, *words[2:]])
        assert done.returncode == 1 and f"{path}: missing or damaged" in done.stderr


@pytest.fixture(scope="module", params=["llama", "smollm3", "gpt2"])
def text_model(request, text_checkpoint, tmp_path_factory):
    """A checkpoint of ours that becomes a native model of each kind."""
    if request.param == "llama":
        return text_checkpoint
    place = tmp_path_factory.mktemp(request.param)
    tokenizer = build_processor().tokenizer
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_attention_heads": 4, "initializer_range": 0.5}
    ids = {"bos_token_id": 1, "eos_token_id": 5, "pad_token_id": 2}
    if request.param == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(**sizes, **ids, num_hidden_layers=2, max_position_embeddings=128))
    else:  # its fourth layer has no rotary embedding
        more = {"intermediate_size": 48, "num_key_value_heads": 2, "num_hidden_layers": 4}
        model = SmolLM3ForCausalLM(SmolLM3Config(**sizes, **ids, **more))
    model.save_pretrained(place / "native")
    tokenizer.save_pretrained(place / "native")
    convert(str(place / "native"), place / "ours")
    return place / "ours"


def test_a_text_model_answers_like_the_checkpoint(text_model, tmp_path):
    facts = exported_facts(text_model, tmp_path / "out")
    comparison = facts["comparison"]
    assert comparison["equal"] == comparison["prompts"] == 6 and comparison["answers"] >= 4
    assert comparison["difference"] < 1e-4
    assert list(comparison["variants"]) == ["q8"]
    graphs = {name for name in facts["files"] if name.endswith(".onnx")}
    assert graphs == {"onnx/model.onnx", "onnx/model_quantized.onnx"}


# -- refusals ----------------------------------------------------------------------------------------------------


@pytest.fixture
def untrained(tmp_path):
    processor = build_processor()
    publish_checkpoint(tmp_path / "checkpoint", build_model(processor), processor)
    return tmp_path / "checkpoint"


WRONG = {
    "unknown precision": (["--precisions", "fp16"], "choose from"),
    "no precision": (["--precisions"], "expected at least one argument"),
    "option of another target": (["--title", "My model"], "--title has no effect with --to onnx: leave it out"),
    "engine of another target": (["--transformers-js", "x"], "--transformers-js has no effect with --to onnx"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_options_are_one_sentence(name, untrained, tmp_path, capsys):
    words, message = WRONG[name]
    try:
        code = main(["export", str(untrained), str(tmp_path / "out"), "--to", "onnx", *words])
    except SystemExit as stopped:
        code = stopped.code
    complaint = capsys.readouterr().err
    assert code in (1, 2) and message in complaint and "Traceback" not in complaint
    assert not (tmp_path / "out").exists()


def test_precisions_belong_to_graphs(untrained, tmp_path):
    done = call(["export", untrained, tmp_path / "out", "--to", "native", "--precisions", "q8"])
    assert done.returncode == 1 and "--precisions has no effect with --to native" in done.stderr
    for precisions, message in ((["int3"], "choose from fp32, q8, q4"), ([], "--precisions is empty")):
        with pytest.raises(ValueError, match=message):
            export(untrained, tmp_path / "out", "onnx", precisions=precisions)


def test_unsupported_models_are_refused_with_what_to_choose(tmp_path):
    saved(VISION_MODELS["llava"], tmp_path / "llava")
    (tmp_path / "out").mkdir()
    with pytest.raises(ConversionError, match=r"does not support a llava model: choose .* pixel_shuffle"):
        write_folder(tmp_path / "llava", tmp_path / "out", ["fp32"])
    assert not any((tmp_path / "out").iterdir())


def refused(checkpoint, output):
    done = call(["export", checkpoint, output, "--to", "onnx"])
    assert done.returncode == 1 and not output.exists() and len(done.stderr.splitlines()) == 1
    return done.stderr


def test_other_refusals_are_one_sentence(untrained, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(onnx_folder, "LARGEST", 1000)
        assert "the decoder has 0.0 GB in float32" in refused(untrained, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(onnx_folder, "PACKAGES", ("onnx", "onnx_is_missing"))
        message = refused(untrained, tmp_path / "out")
        assert 'the package onnx_is_missing: pip install "smol_hf[onnx]"' in message
    saved(TEXT_MODELS["llama"], tmp_path / "native")
    convert(str(tmp_path / "native"), tmp_path / "ours")
    assert "the checkpoint has no tokenizer.json" in refused(tmp_path / "ours", tmp_path / "out")


def test_a_missing_engine_is_named(exported, tiled_vlm, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = call(["check", exported[0], "--source", tiled_vlm])
    assert done.returncode == 1
    assert 'not compared with the checkpoint: onnxruntime is missing: pip install "smol_hf[onnx]"' in done.stdout


def test_an_interrupted_export_leaves_nothing(text_checkpoint, tmp_path, monkeypatch):
    def interrupt(source, path):
        assert source.is_file()
        raise KeyboardInterrupt

    monkeypatch.setitem(QUANTIZERS, "q8", interrupt)
    (tmp_path / "place").mkdir()
    done = call(["export", text_checkpoint, tmp_path / "place" / "out", "--to", "onnx"])
    assert done.returncode == 130 and not any((tmp_path / "place").iterdir())


def test_a_killed_export_leaves_no_folder(untrained, tmp_path):
    place, log = tmp_path / "place", tmp_path / "log.txt"
    place.mkdir()
    words = ["export", untrained, place / "out", "--to", "onnx"]
    with log.open("w") as printed:  # launched: the exporter does not work in a fork
        command = [sys.executable, "-m", "smol_hf.commands.main", *map(str, words)]
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 300
    while not any(place.rglob("*.onnx")):
        assert time.monotonic() < deadline and process.poll() is None, log.read_text()
        time.sleep(0.01)
    process.kill()
    assert process.wait(60) != 0 and not (place / "out").exists()
    while any(str(place) in words for words in command_lines()):
        assert time.monotonic() < deadline, "the exporter's process goes on"
        time.sleep(0.1)


def command_lines():
    """Yield the words of each running process."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_text(errors="replace")


def test_the_printed_path_is_a_text_of_javascript(exported, tmp_path):
    folder = shutil.copytree(exported[0], tmp_path / "it's; ü")
    place, line = commands(folder)[-2:]
    parent = json.loads(place[place.index('"') : place.index(";")])
    assert os.path.join(parent, json.loads(line[line.index("(") + 1 : line.index(", {")])) == str(folder)


def test_only_the_named_precision_is_written_and_tracing_imports_nothing_of_the_current_folder(
    text_checkpoint, tmp_path, monkeypatch
):
    (tmp_path / "torch.py").write_text("raise SystemExit('imported from the current folder')")
    monkeypatch.chdir(tmp_path)
    facts = export(text_checkpoint, tmp_path / "out", "onnx", precisions=["q8"], compared=False)
    assert [name for name in facts["files"] if name.endswith(".onnx")] == ["onnx/model_quantized.onnx"]
