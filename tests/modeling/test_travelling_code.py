"""A checkpoint carries its code: it loads in a process without the package, offline, on transformers 4.57 and 5.x,
and answers bit for bit as it did at home; saved again from there, it does so once more."""

import ast
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from modeling import older_transformers
from modeling.builders import (
    BACKBONES,
    ENCODERS,
    build_processor,
    build_vlm,
    image_prompt,
    one_row,
    random_text,
    random_tiles,
    randomise,
    text_config,
)
from modeling.load_travelled import observe, observe_base, prompt
from PIL import Image
from safetensors.torch import load_file, save_file

import smol_hf
from smol_hf import SmolHFConfig, SmolHFForCausalLM, SmolHFForConditionalGeneration, SmolHFModel

PACKAGE = Path(smol_hf.__file__).parent
SOURCE = {path.stem: path for folder in ("modeling", "processing") for path in (PACKAGE / folder).glob("*.py")}
SCRIPT = Path(__file__).with_name("load_travelled.py")
LINES = (*older_transformers.lines(), "5.x")
# Who saves again and who loads that: every pair in `make test-transformers`, otherwise only pairs of two lines.
EVERY_PAIR = "SMOL_HF_TRANSFORMERS" in os.environ
PAIRS = [(writer, reader) for writer in LINES for reader in LINES if EVERY_PAIR or writer != reader]


def text_settings(tokenizer):
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Folder with three checkpoints and their inputs, and what their models answered before they travelled."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("home")
    processor = build_processor()
    tokenizer = processor.tokenizer
    special = text_settings(tokenizer)
    expected = {}

    def note(name, observations):
        expected.update({f"{name}/{key}": value for key, value in observations.items()})

    text = randomise(SmolHFForCausalLM(text_config(no_rope_layers=[1, 0], **special)))
    text.save_pretrained(folder / "text")
    text_ids = one_row(random_text(12))
    note("text/AutoModel", observe_base(text.model, input_ids=text_ids))
    note("text/AutoModelForCausalLM", observe(text, input_ids=text_ids))

    vision = {**ENCODERS["siglip"], "image_size": 32, "patch_size": 8}
    config = SmolHFConfig(
        text_config=text_config(rope_parameters={"rope_type": "default", "rope_theta": 273000.0}, **special),
        vision_config=vision,
        scale_factor=2,
        image_token_id=processor.image_token_id,
    )
    vlm = randomise(SmolHFForConditionalGeneration(config))
    vlm.save_pretrained(folder / "vlm")
    processor.save_pretrained(folder / "vlm")
    pixels = np.random.default_rng(0).integers(0, 256, (50, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    question = "What is in <image>\ue0000\ue001 {{ 1 }}<end_of_utterance>?"
    picture = str(folder / "picture.png")
    video = {"type": "video", "video": [picture, picture]}  # frames: there is no video library elsewhere
    parts = [{"type": "image", "path": picture}, video, {"type": "text", "text": question}]
    messages = [{"role": "user", "content": parts}]
    encoded = dict(prompt(processor, messages))
    note("vlm/AutoProcessor", encoded)
    note("vlm/AutoModel", observe_base(partial(SmolHFModel.forward, vlm), **encoded))
    of_vlm = observe(vlm, **encoded)
    for name in ("AutoModelForImageTextToText", "AutoModelForVision2Seq", "AutoModelForMultimodalLM"):
        note(f"vlm/{name}", of_vlm)

    # Nothing of ours but the connector: CLIP and Llama, whose positions 4.57 and 5.x write under different names.
    llama = {**BACKBONES["llama"], "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0}}
    composed = build_vlm("clip", connector_type="mlp", vision_feature_layer=-2, text_config=llama)
    composed.save_pretrained(folder / "composed")
    composed_ids, composed_tiles = one_row(image_prompt(composed.config, images=2)), random_tiles(2)
    of_composed = observe(composed, input_ids=composed_ids, pixel_values=composed_tiles)
    note("composed/AutoModelForImageTextToText", of_composed)

    inputs = {"text_ids": text_ids, "composed_ids": composed_ids, "composed_tiles": composed_tiles}
    save_file(inputs, folder / "inputs.safetensors")
    (folder / "messages.json").write_text(json.dumps(messages))
    length = encoded["input_ids"].shape[1]
    answer = tokenizer.decode(of_vlm["tokens"][0, length:], skip_special_tokens=True)
    return folder, expected, answer


@pytest.fixture(scope="module")
def interpreters():
    older = {line: older_transformers.older_interpreter(line=line) for line in older_transformers.lines()}
    return {**older, "5.x": Path(sys.executable)}


def load_elsewhere(python, checkpoints, results):
    """Runs the script in a process that is offline and has neither the package nor anything of ours in its caches."""
    results.mkdir(parents=True)
    ours = ("HF_", "HUGGINGFACE", "TRANSFORMERS", "PYTHONPATH", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment.update(HF_HOME=str(results / "empty_cache"), HF_HUB_OFFLINE="1")
    command = [python, "-I", SCRIPT, checkpoints, results]
    finished = subprocess.run(
        command, env=environment, cwd=results, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600
    )
    assert finished.returncode == 0, finished.stdout[-4000:]
    return results


@pytest.fixture(scope="module")
def first_loads(home, interpreters, tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    with ThreadPoolExecutor(2) as pool:
        loads = {
            line: pool.submit(load_elsewhere, interpreters[line], home[0], folder / f"by_{line}") for line in LINES
        }
    return {line: load.result() for line, load in loads.items()}


@pytest.fixture(scope="module")
def second_loads(first_loads, interpreters, tmp_path_factory):
    """Loads of what a line saved again, by pair of writer and reader."""
    folder = tmp_path_factory.mktemp("second")
    with ThreadPoolExecutor(2) as pool:
        loads = {
            (writer, reader): pool.submit(
                load_elsewhere, interpreters[reader], first_loads[writer], folder / f"by_{writer}_then_{reader}"
            )
            for writer, reader in PAIRS
        }
    return {pair: load.result() for pair, load in loads.items()}


def assert_same_answers(results, home, line):
    _, expected, answer = home
    actual = load_file(results / "results.safetensors")
    gone = "vlm/AutoModelForMultimodalLM/" if line == "4.57" else "vlm/AutoModelForVision2Seq/"
    assert actual.keys() == {name for name in expected if not name.startswith(gone)}
    for name, tensor in actual.items():
        assert torch.equal(tensor, expected[name]), f"{name} differs by {(tensor - expected[name]).abs().max()}"
    facts = json.loads((results / "facts.json").read_text())
    version = older_transformers.TRANSFORMERS.get(line, transformers.__version__)
    assert facts.pop("transformers") == version
    assert facts.pop("pipeline") == answer and facts.pop("batched pipeline") == [answer, answer]
    classes = [None, None] if line == "4.57" else ["SmolHFForCausalLM", "SmolHFForConditionalGeneration"]
    assert facts.pop("served") == classes
    assert all(class_name.startswith("transformers_modules.") for class_name in facts.values()), facts


@pytest.mark.parametrize("line", LINES)
def test_a_stranger_gets_the_same_answers(first_loads, home, line):
    assert_same_answers(first_loads[line], home, line)


@pytest.mark.parametrize(("writer", "reader"), PAIRS)
def test_a_stranger_can_pass_it_on(second_loads, home, writer, reader):
    assert_same_answers(second_loads[writer, reader], home, reader)


# -- what is in the folder --------------------------------------------------------------------------------------------


def closure(*entry_modules):
    """The entry modules and every sibling that they import, directly or not."""
    found, waiting = set(), list(entry_modules)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            tree = ast.parse(SOURCE[module].read_text())
            waiting += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    return found


ENTRIES = {
    "text": ["modeling_smol_hf_text"],
    "vlm": ["modeling_smol_hf", "processing_smol_hf"],
    "composed": ["modeling_smol_hf"],
}


@pytest.mark.parametrize("saved_by", ["home", *LINES])
@pytest.mark.parametrize("name", ENTRIES)
def test_exactly_the_needed_code_travels_unchanged(home, first_loads, name, saved_by):
    folder = (home[0] if saved_by == "home" else first_loads[saved_by]) / name
    travelled = {path.stem: path.read_bytes() for path in folder.glob("*.py")}
    assert travelled.keys() == closure(*ENTRIES[name])
    for module, content in travelled.items():
        assert content == SOURCE[module].read_bytes(), module


@pytest.mark.parametrize("saved_by", ["home", *LINES])
@pytest.mark.parametrize("name", ENTRIES)
def test_nothing_is_pickled(home, first_loads, name, saved_by):
    folder = (home[0] if saved_by == "home" else first_loads[saved_by]) / name
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".py", ".jinja"}
    assert (folder / "model.safetensors") in files


@pytest.mark.parametrize("name", ["text", "vlm"])
def test_every_auto_class_is_named(home, name):
    classes = {
        "text": {"AutoConfig", "AutoModel", "AutoModelForCausalLM"},
        "vlm": {
            "AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoModelForVision2Seq",
            "AutoModelForMultimodalLM",
        },
    }[name]  # fmt: skip
    auto_map = json.loads((home[0] / name / "config.json").read_text())["auto_map"]
    assert classes <= auto_map.keys()
    for reference in auto_map.values():
        module, class_name = reference.split(".")
        tree = ast.parse((home[0] / name / f"{module}.py").read_text())
        assert class_name in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


# -- the environment of transformers 4.57 -----------------------------------------------------------------------------


@pytest.fixture
def commands(monkeypatch):
    """Instead of building, records what would be run."""
    recorded = []

    def run(command):
        recorded.append(" ".join(map(str, command[1:])))
        if "venv" in command:
            Path(command[-1]).mkdir()

    monkeypatch.setattr(older_transformers, "run", run)
    return recorded


def test_the_environment_is_built_once_with_torch_first(tmp_path, commands):
    folder = tmp_path / "cache" / "environment"
    assert older_transformers.older_interpreter(folder) == folder / "bin" / "python"
    assert len(commands) == 3
    assert "venv" in commands[0]
    assert "torch==" in commands[1] and "torch" not in commands[2].replace("transformers", "")
    older_transformers.older_interpreter(folder)
    assert len(commands) == 3


@pytest.mark.parametrize("marker", [None, "other versions"])
def test_a_partial_or_outdated_environment_is_rebuilt(tmp_path, commands, marker):
    folder = tmp_path / "environment"
    folder.mkdir()
    (folder / "rest").touch()
    if marker:
        (folder / "complete").write_text(marker)
    older_transformers.older_interpreter(folder)
    assert len(commands) == 3 and not (folder / "rest").exists()


def test_a_failed_build_shows_the_output_and_is_not_taken_for_complete(tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match="No matching distribution"):
        older_transformers.run([sys.executable, "-c", "print('No matching distribution'); raise SystemExit(1)"])

    def fail_at_pip(command):
        if "pip" in command:
            raise RuntimeError("no network")

    folder = tmp_path / "environment"
    folder.mkdir()
    monkeypatch.setattr(older_transformers, "run", fail_at_pip)
    with pytest.raises(RuntimeError, match="no network"):
        older_transformers.older_interpreter(folder)
    assert not (folder / "complete").exists()
