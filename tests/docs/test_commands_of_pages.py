"""Every command and program of the README and of the guides runs as written, on tiny inputs.

The commands of a page run one after another, since later ones read what earlier ones wrote.
"""

import importlib.util
import io
import json
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from urllib.request import urlopen

import pytest
import torch
import yaml
from chat_models import save_base
from conversion.native_models import llama
from conversion.test_gguf import write as write_gguf
from conversion.test_nanogpt import SIZES, checkpoint, state_dict
from doc_pages import ROOT, blocks, commands, page_names, read_page
from export.npm_registry import npm_registry
from helpers import build_model, build_processor
from isolated_runs import run_isolated
from PIL import Image
from processes import fork_command, run_script
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from video_clips import clip, even_times

from smol_hf import dpo, train
from smol_hf.commands.main import main
from smol_hf.data.digits import evaluation_questions
from smol_hf.data.records import Place, adapt
from smol_hf.demo.held_out import write_held_out
from smol_hf.publishing.checkpoint import publish_checkpoint
from smol_hf.training.data import open_data
from smol_hf.training.recipe.data_arguments import DataArguments
from smol_hf.training.recipe.recipes import known_keys

# Pages with a test file of their own that runs their commands.
ELSEWHERE = {
    "benchmarks": "docs/test_benchmarks_page.py",
    "data_commands": "commands/test_cli_data.py",
    "media": "docs/test_media_page.py",
    "text_models": "docs/test_text_models_page.py",
    "tokenizers": "commands/test_cli_tokenizer.py",
}
GGUF = importlib.util.find_spec("gguf") is not None
NOT_RUN = ("make", "pip", "smol-hf serve ", "python -m http.server")  # make and serve have tests below
SHORT = ["--max_steps", "2", "--use_cpu", "true", "--save_strategy", "no"]
STEPS = [word for stage in ("pretrain", "encoder", "connector", "both") for word in (f"--{stage}-steps", "2")]
TINY = {
    "train": [*SHORT, "--per_device_train_batch_size", "1", "--dataloader_num_workers", "0"],
    "dpo": SHORT,
    "pretrain": ["--steps", "3", "--context-length", "64", "--batch-size", "2", "--use_cpu", "--eval_steps", "3"],
    "chat": ["--max-new-tokens", "4"],
    "evaluate": ["--max-new-tokens", "4", "--batch-size", "2"],
    "export": ["--no-compare"],  # tests/export compares
    "generate": ["--max-new-tokens", "4"],
    "benchmarks/add_vision.py": ["--pages", "20", "--asked", "4", "--texts", "40", "--batch-size", "2", *STEPS],
    "benchmarks/data_pipeline.py": ["--samples", "1", "--rounds", "1", "--batch-size", "1"],
    "benchmarks/evaluate.py": ["--samples", "2", "--rounds", "1", "--batch-size", "2", "--max-new-tokens", "2"],
    "benchmarks/packing.py": ["--samples", "500"],
    "benchmarks/train_step.py": ["--samples", "1", "--batch-size", "1", "--rounds", "1", "--threads", "1"],
    "benchmarks/video.py": ["--rounds", "1", "--folder", "clips"],
}


@pytest.fixture
def place(tmp_path):
    """A folder like a checkout after `make demo`, with a checkpoint of a tiny random model in it."""
    torch.manual_seed(0)
    processor = build_processor(longest_edge=32)
    model = build_model(processor)
    model.config.text_config.max_position_embeddings = 512  # as the demo's
    publish_checkpoint(tmp_path / "runs" / "demo" / "checkpoint", model, processor)
    for name in ("docs", "recipes", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "my.jsonl").write_text("".join(blocks("your_data", "json")), encoding="utf-8")
    (tmp_path / "held_out.jsonl").write_text("".join(blocks("evaluation", "json")), encoding="utf-8")
    (tmp_path / "chats.jsonl").write_text("".join(blocks("chat_training", "json")), encoding="utf-8")
    (tmp_path / "pairs.jsonl").write_text("".join(blocks("preferences", "json")), encoding="utf-8")
    (tmp_path / "corpus.txt").write_text("Once upon a time a model of 3 layers read letters, again and again.\n" * 60)
    (tmp_path / "questions.txt").write_text("Which digit is on the left?\nHow many digits are on the page?\n")
    (tmp_path / "clip.mp4").write_bytes(clip(even_times(20, 10)))
    return tmp_path


def save_published_models(place):
    """Tiny models of random weights in folders that have the names of the guide's Hub ids."""
    text = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
            "num_attention_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 32, "patch_size": 8}  # fmt: skip
    smolvlm = SmolVLMConfig(
        text_config={**text, "model_type": "llama"}, vision_config=vision, scale_factor=2, image_token_id=4
    )
    hub = place / "HuggingFaceTB"
    SmolVLMForConditionalGeneration(smolvlm).save_pretrained(hub / "SmolVLM2-256M-Video-Instruct")
    LlamaForCausalLM(LlamaConfig(**text)).save_pretrained(hub / "SmolLM2-135M-Instruct")
    for folder in hub.iterdir():
        build_processor().tokenizer.save_pretrained(folder)
    SiglipVisionModel(SiglipVisionConfig(**vision)).save_pretrained(place / "google" / "siglip-base-patch16-512")


def save_clips(place):
    """Short clips in place of those of the benchmark."""
    (place / "clips").mkdir()
    for name in ("4k", "ten_minutes_180p", "ten_seconds_720p"):
        (place / "clips" / f"{name}.mp4").write_bytes(clip(even_times(70, 24)))


def save_tiled_model(place):
    """In place of the demo's: a model that llama.cpp supports."""
    shutil.rmtree(place / "runs" / "demo" / "checkpoint")
    processor = build_processor()
    model = build_model(processor)
    model.config.text_config.max_position_embeddings = 512
    publish_checkpoint(place / "runs" / "demo" / "checkpoint", model, processor)


def save_chat_model(place):
    """The model that the page before this one trains."""
    save_base(place / "my-base", "native")
    (line,) = [line for line in commands("chat_training") if line.startswith("smol-hf train")]
    run(line)


def save_models_without_vision(place):
    """A character-level nanoGPT and one with GPT-2's tokenizer, a GGUF file, an image encoder, and the page's data."""
    tokenizer = build_processor().tokenizer
    tokenizer.save_pretrained(place / "openai-community" / "gpt2")
    letters = [chr(code) for code in range(32, 127) if not chr(code).isdigit()] + ["\n"]
    for folder, vocabulary in (("out-shakespeare-char", len(letters)), ("out", len(tokenizer))):
        sizes = {**SIZES, "vocab_size": vocabulary, "block_size": 256}
        (place / folder).mkdir()
        content = checkpoint(state_dict(True, sizes=sizes), model_args=sizes, config={"dataset": "shakespeare_char"})
        torch.save(content, place / folder / "ckpt.pt")
    meta = {"vocab_size": len(letters), "itos": dict(enumerate(letters))}
    meta["stoi"] = {letter: number for number, letter in enumerate(letters)}
    (place / "data" / "shakespeare_char").mkdir(parents=True)
    (place / "data" / "shakespeare_char" / "meta.pkl").write_bytes(pickle.dumps(meta))
    vision = CLIPVisionConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
                              image_size=32, patch_size=16)  # fmt: skip
    CLIPVisionModel(vision).save_pretrained(place / "openai" / "clip-vit-base-patch32")
    if GGUF:
        write_gguf(place / "SmolLM2-135M-Instruct.Q4_1.gguf", llama())
    (place / "images").mkdir()
    for name in ("1.png", "2.png"):
        Image.new("RGB", (40, 30), "red").save(place / "images" / name)
    for name, block in zip(("captions", "questions"), blocks("vision_for_your_model", "json")):
        (place / f"{name}.jsonl").write_text(block, encoding="utf-8")


# Inputs of a page besides those of `place`.
PREPARE = {
    "convert_and_compose": save_published_models,
    "vision_for_your_model": save_models_without_vision,
    "chat_training": lambda place: save_base(place / "my-base", "native"),
    "preferences": save_chat_model,
    "evaluation": lambda place: write_held_out(place / "runs" / "demo", evaluation_questions(3, seed=1)),
    "samples": save_clips,
    "run_anywhere": save_tiled_model,
    "recipes": lambda place: (place / "mine.yaml").write_text(blocks("recipes", "yaml")[0]),
}
RUN = [name for name in page_names() if name not in ELSEWHERE and commands(name)]


def without_limits(words):
    """The command without its own number of steps: the tests give a smaller one."""
    for option in ("--max_steps", "--steps"):
        if option in words:
            at = words.index(option)
            words = words[:at] + words[at + 2 :]
    return words


def run(line):
    program, *words = shlex.split(line)
    if words[0] == "estimate":  # tests/estimate traces layers of this preset
        words[1] = {"smolvlm2-256m": "tiny-vlm"}[words[1]]
    if program == "python":
        run_script(*words, *TINY.get(words[0], []))
    elif program == "torchrun":  # as written, with fewer steps
        short = ["--max_steps", "2", "--save_strategy", "no", "--num_pages", "100"]
        launched = [sys.executable, "-m", "torch.distributed.run", *without_limits(words), *short]
        result = subprocess.run(launched, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0 and "2 processes (DDP) on cpu" in result.stdout, result.stderr
    elif program == "accelerate":  # one process: this one. A page of text models is launched with two
        assert words[:2] == ["launch", "-m"]
        module = {"smol_hf.train": train, "smol_hf.dpo": dpo}[words[2]]
        assert module.main([*without_limits(words[3:]), *SHORT]) == 0, line
    elif "--dry-run" in words:
        assert main(words) == 0, line
    elif "--num_train_epochs" in words:  # the page says how many steps it makes
        assert main([*words, "--use_cpu", "true", "--save_strategy", "no"]) == 0, line
    else:
        tiny = TINY.get(words[0], [])
        of_chain = "--stages" in words or "nanogpt_vision" in line
        has_folder = words[0] != "train" or "--output_dir" in words or of_chain
        output = [] if has_folder else ["--output_dir", "runs/x"]
        output += ["--num_pages", "100"] if "quickstart/digits" in words and words[0] == "train" else []
        assert program == "smol-hf" and main([*without_limits(words), *tiny, *output]) == 0, line


@pytest.mark.parametrize("name", RUN)
def test_the_commands_of_a_page_run(name, place, monkeypatch):
    monkeypatch.chdir(place)
    if name not in ("run_anywhere", "README", "several_processes"):  # they run other programs
        monkeypatch.setattr("smol_hf.conversion.checking.check.subprocess.run", run_isolated)
    PREPARE.get(name, lambda place: None)(place)
    with npm_registry(monkeypatch, place / "cache"):
        run_lines(name, place, monkeypatch)


def run_lines(name, place, monkeypatch):
    for line in commands(name):
        if line.startswith(NOT_RUN) or (".gguf" in line and not GGUF):
            continue
        monkeypatch.setattr("sys.stdin", io.StringIO("Hello?\n"))
        run(line)
        words = shlex.split(line)
        if "--output_dir" in words:
            folder = place / words[words.index("--output_dir") + 1]
            assert (folder / "checkpoint" / "model.safetensors").is_file()
        if "--num_train_epochs" in words:
            steps = json.loads((folder / "run.json").read_text())["steps"]
            assert f"The first command makes {steps} steps" in read_page(name) and steps == 6


def test_every_page_with_commands_has_a_test():
    assert {"README", "train", "finetune", "your_data", "publish", "estimate", "preferences"} <= set(RUN)
    for name, file in ELSEWHERE.items():
        assert commands(name)
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert f'"{name}' in text, f"{file} does not read the page {name}"


TARGETS = sorted({line.split()[1] for name in page_names() for line in commands(name) if line.startswith("make")})


@pytest.mark.parametrize("target", TARGETS)
def test_make_targets_exist(target):
    assert re.search(rf"^{target}( [\w-]+)*:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_the_page_is_served(place, tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="the page needs Gradio")
    (line,) = [line for line in commands("chat_and_generate") if line.startswith("smol-hf serve")]
    monkeypatch.chdir(place)
    offline = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    served = fork_command(shlex.split(line)[1:], tmp_path / "log.txt", **offline)
    try:
        served.wait_for("Running on local URL")
        (address,) = re.findall(r"Running on local URL: +(http://\S+)", served.printed.read_text())
        with urlopen(address, timeout=60) as answer:
            assert b"gradio" in answer.read()
    finally:
        served.process.terminate()
        served.wait()


def test_the_programs_run_without_the_package(place):
    programs = [block for name in ("README", "chat_and_generate") for block in blocks(name, "python")]
    assert len(programs) == 3
    program = (
        f"import sys; sys.modules['smol_hf'] = None\nnames = {{}}\nfor program in {programs!r}: exec(program, names)"
    )
    result = run_isolated([sys.executable, "-c", program], cwd=place)
    assert result.returncode == 0 and len(result.stdout.splitlines()) >= 3, result.stderr


@pytest.mark.parametrize("name", [name for name in page_names() if blocks(name, "yaml")])
def test_the_recipe_lines_are_keys_of_recipes(name):
    for block in blocks(name, "yaml"):
        keys = re.findall(r"^(\w+):", block, flags=re.MULTILINE)
        assert keys and set(keys) <= set(known_keys())


def test_the_mixture_of_the_first_guide_is_read(place, monkeypatch):
    """`pages` is a folder of parquet files."""
    import pyarrow.parquet

    monkeypatch.chdir(place)
    (place / "pages").mkdir()
    rows = [{"images": [], "texts": [{"user": "Hi", "assistant": "Hello."}]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), place / "pages" / "0.parquet")
    (block,) = blocks("your_data", "yaml")
    data = open_data(DataArguments(**yaml.safe_load(block)), seed=0)
    assert len(list(data.conversations())) == 3


@pytest.mark.parametrize("name", ["README", "your_data", "chat_training"])
def test_the_records_of_a_page_are_read(name):
    lines = [line for block in blocks(name, "json") for line in block.splitlines()]
    assert lines
    for line in lines:
        conversation = adapt(json.loads(line), Place("page:1", ROOT))
        assert conversation.messages[-1].role == "assistant"


def test_the_readme_is_short():
    assert len(read_page("README").splitlines()) <= 110
