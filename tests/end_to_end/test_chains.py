"""The chains of the shipped recipes on tiny models: killed anywhere and repeated, they end as unbroken ones."""

import itertools
import json
import os
import pickle
import pkgutil
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import yaml
from conversion.native_models import SIDE, saved
from conversion.test_compose import build_encoder
from conversion.test_nanogpt import SIZES, checkpoint, state_dict
from media_files import picture
from modeling.builders import build_tokenizer
from processes import Forked, call
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM
from video_clips import clip, even_times

from smol_hf.commands.main import main
from smol_hf.support.resources import resource_path
from smol_hf.training.log.console import read_log
from smol_hf.training.model.presets import llama_style

STEPS, UNFREEZE = 6, 3
SMALL = {
    "max_steps": STEPS, "logging_steps": 1, "save_steps": 2, "per_device_train_batch_size": 2, "data_lanes": 4,
    "dataloader_num_workers": 0, "use_cpu": True, "vision_learning_rate": 1e-2, "unfreeze_vision_at_step": UNFREEZE,
    "vision_warmup_steps": 1, "save_total_limit": 3,
}  # fmt: skip
LETTERS = sorted("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789?.,: \n")
# The stages, and further keys that make them small.
CHAINS = {
    "direct": (["nanogpt_vision/direct"], {"gradient_accumulation_steps": 2, "dataloader_num_workers": 1}),
    "two stages": (
        ["nanogpt_vision/stage1_connector", "nanogpt_vision/stage2_instructions"],
        {"gradient_accumulation_steps": 1},
    ),
    "vision, video": (
        ["vision_stage.yaml", "video_stage.yaml"],
        {"global_batch_size": 2, "context_length": 512, "video_frame_size": SIDE, "video_max_frames": 4},
    ),
}  # fmt: skip
STEP = "smol_hf.training.trainer.SmolTrainer.training_step"  # one call for each batch
RECORD, CONTENTS = "smol_hf.training.stages.write_record", "smol_hf.training.checkpoint.stage_record.contents"
SKIPPED = "skipped"
# (chain, function, number of the call that ends the process, the step at which each stage is then resumed).
# Batches are those of the whole chain.
KILLS = {
    "frozen": ("direct", STEP, 2 * 3, [2]),
    "unfrozen, in the middle of a step": ("direct", STEP, 2 * 6, [4]),
    "in the first of two stages": ("two stages", STEP, 5, [4, 0]),
    "before the first result is recorded": ("two stages", RECORD, 2, [6, 0]),
    "between two stages": ("two stages", RECORD, 3, [SKIPPED, 0]),
    "in the second of two stages": ("two stages", STEP, STEPS + 3, [SKIPPED, 2]),
    "while the last result is recorded": ("two stages", CONTENTS, 6, [SKIPPED, 6]),
    "in the vision stage": ("vision, video", STEP, 3, [2, 0]),
    "while a result is published": ("vision, video", "smol_hf.publishing.checkpoint.write_model_card", 1, [6, 0]),
    "in the video stage": ("vision, video", STEP, STEPS + 5, [SKIPPED, 4]),
    "while a checkpoint is saved": (
        "vision, video", "smol_hf.training.checkpoint.saving.write_manifest", 5, [SKIPPED, 2],
    ),
}  # fmt: skip


def nanogpt(folder, tokenizer=None):
    """A `.pt` file as nanoGPT writes it, of characters (with their meta.pkl) or with a tokenizer, converted by us."""
    size = len(tokenizer or LETTERS)
    sizes = {**SIZES, "block_size": 256, "vocab_size": size}
    tensors = {f"_orig_mod.{name}": each for name, each in state_dict(True, sizes=sizes).items()}
    torch.save(checkpoint(tensors, model_args=sizes), folder / "ckpt.pt")
    words = ["convert", folder / "ckpt.pt", folder / "checkpoints" / "gpt"]
    if tokenizer is None:
        ids = {letter: number for number, letter in enumerate(LETTERS)}
        (folder / "meta.pkl").write_bytes(pickle.dumps({"stoi": ids, "vocab_size": size}))
    else:
        tokenizer.save_pretrained(folder / "words")
        words += ["--tokenizer", folder / "words"]
    assert call(words).returncode == 0
    return folder / "checkpoints" / "gpt"


def compose(folder, name, text, *words):
    saved(lambda: build_encoder("siglip"), folder / "encoder")
    parts = ["--vision", folder / "encoder", "--text", text]
    assert call(["compose", folder / "checkpoints" / name, *parts, *words]).returncode == 0


def llama(folder):
    tokenizer = build_tokenizer()
    sizes = llama_style(32, 48, 2, 4, 2, 10000.0, 512, len(tokenizer))
    saved(lambda: LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True)), folder / "llama")
    tokenizer.save_pretrained(folder / "llama")
    return folder / "llama"


def write_json(path, rows):
    path.write_text(json.dumps(rows))


def write_data(folder):
    """The files that the recipes name: LLaVA's records, and mixtures with images, texts and clips."""
    turns = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "A red ball."}]
    asked = [{"from": "human", "value": "Continue: To be,"}, {"from": "gpt", "value": "or not to be."}]
    watched = [{"from": "human", "value": "<video>\nWhat happens?"}, {"from": "gpt", "value": "It counts."}]
    for number in range(8):
        (folder / f"{number}.png").write_bytes(picture(30 + 5 * number, 40))
    for number in range(4):
        (folder / f"{number}.mp4").write_bytes(clip(even_times(30 + 15 * number)))
    images = [{"id": str(number), "image": f"{number}.png", "conversations": turns} for number in range(8)]
    texts = [{"id": f"t{number}", "conversations": asked} for number in range(4)]
    write_json(folder / "blip_laion_cc_sbu_558k.json", images)
    write_json(folder / "llava_v1_5_mix665k.json", images + texts)
    write_json(folder / "texts.json", texts)
    write_json(folder / "clips.json", [{"video": f"{number}.mp4", "conversations": watched} for number in range(4)])
    mixtures = folder / "recipes" / "mixtures"
    mixtures.mkdir(parents=True)
    image, video, text = (
        {"data": name, "modality": modality, "samples": samples}
        for name, modality, samples in (
            ("blip_laion_cc_sbu_558k.json", "image", 8), ("clips.json", "video", 6), ("texts.json", "text", 2),
        )
    )  # fmt: skip
    (mixtures / "vision_stage.yaml").write_text(yaml.safe_dump([image, text]))
    (mixtures / "smolvlm2_2b.yaml").write_text(yaml.safe_dump([image, video, text]))
    for name in ("vision_stage", "video_stage"):  # with the mixtures above, which are found next to the recipe
        shutil.copy(resource_path("recipes", "smolvlm2_256m", f"{name}.yaml"), folder)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """name → a chain that ran without a stop: `folder`, `inputs` (a copy from before), `words`, `outputs`."""
    chains = {}

    def run(name):
        if name in chains:
            return chains[name]
        folder = tmp_path_factory.mktemp("chain")
        if name == "vision, video":
            words = ["--scale-factor", 2, "--longest-edge", 2 * SIDE, "--chat-template", "smolvlm"]
            compose(folder, "smolvlm2-256m-composed", llama(folder), *words)
        else:
            text = nanogpt(folder, build_tokenizer() if name == "direct" else None)
            compose(folder, "gpt-vision", text, "--connector", "mlp")
        write_data(folder)
        shutil.copytree(folder, folder.with_name(f"{folder.name}-inputs"), copy_function=os.link)
        stages, keys = CHAINS[name]
        words = ["train", "--stages", *stages, *(f"--{key}={value}" for key, value in {**SMALL, **keys}.items())]
        with pytest.MonkeyPatch.context() as patched:
            patched.chdir(folder)
            result = call(words)
        assert result.returncode == 0, result.stderr
        outputs = sorted((folder / "runs").iterdir(), key=lambda each: (each / "stage.json").stat().st_mtime)
        assert len(outputs) == len(stages)
        inputs = folder.with_name(f"{folder.name}-inputs")
        chains[name] = SimpleNamespace(folder=folder, inputs=inputs, words=words, outputs=outputs)
        return chains[name]

    return run


def run_until(target, number, words):
    """Run the command, and kill its process group at a call of a function."""
    original, calls = pkgutil.resolve_name(target), itertools.count(1)

    def counted(*arguments, **options):
        if next(calls) == number:
            os.killpg(0, signal.SIGKILL)
        return original(*arguments, **options)

    with mock.patch(target, counted):
        return main(words)


def losses(output):
    return [entry["loss"] for entry in read_log(output) if "loss" in entry]


def weights(folder):
    return load_file(folder / "model.safetensors")


def differing(one, two):
    assert one.keys() == two.keys()
    return {name for name in one if not torch.equal(one[name], two[name])}


def parts_of(names):
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("kill", KILLS)
def test_a_killed_chain_ends_as_an_unbroken_one(kill, unbroken, tmp_path, monkeypatch):
    name, target, number, resumed = KILLS[kill]
    whole = unbroken(name)
    shutil.copytree(whole.inputs, tmp_path / "part", copy_function=os.link)
    monkeypatch.chdir(tmp_path / "part")
    killed = Forked(run_until, tmp_path / "printed.txt", target, number, whole.words)
    code, said = killed.wait()
    assert code == -signal.SIGKILL, said
    again = call(whole.words)
    assert again.returncode == 0, again.stderr
    report = json.loads(Path("runs", whole.outputs[-1].name, "stages.json").read_text())
    assert [SKIPPED if row["skipped"] else row["resumed_at_step"] for row in report] == resumed
    for output in whole.outputs:
        mine = Path("runs", output.name)
        assert len(losses(mine)) == STEPS and losses(mine) == losses(output)
        assert not differing(weights(mine / "checkpoint"), weights(output / "checkpoint"))
        assert not [path for path in mine.iterdir() if "incomplete" in path.name]


@pytest.mark.parametrize("name", CHAINS)
def test_each_stage_continues_from_the_one_before_and_unfreezes_the_encoder(name, unbroken):
    whole = unbroken(name)
    (base,) = (path for path in (whole.folder / "checkpoints").iterdir() if path.name != "gpt")
    for output in whole.outputs:
        before = weights(base)
        frozen, after = (differing(before, weights(output / each)) for each in ("checkpoint-2", "checkpoint"))
        assert "vision_model" not in parts_of(frozen) and parts_of(after) >= {"vision_model", "connector"}
        assert parts_of(frozen) >= {"connector"}
        base = output / "checkpoint"
    if name == "vision, video":
        sources = json.loads((base.parent / "mixture.json").read_text())["sources"]
        tiles = {each["name"]: each["tiles"] for each in sources}
        assert len(tiles) == 3 and all((count > 0) == (name != "texts.json") for name, count in tiles.items()), tiles
