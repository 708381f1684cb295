"""Cached features of a frozen image encoder: the same losses, each distinct tile encoded once, damage mended."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import build_model, build_processor
from tiny_runs import train_here, train_words
from tiny_trainers import build_trainer
from tiny_trainers import losses as losses_of

from smol_hf.data import image_features
from smol_hf.data.image_features import ImageFeatures
from smol_hf.estimate.dry_run import dry_run
from smol_hf.training.log.console import read_log
from smol_hf.training.model.lora import add_adapters
from smol_hf.training.model.parts import refuse_changing_features
from smol_hf.training.model.plain_model import cached_features
from smol_hf.training.recipe.model_arguments import ModelArguments
from smol_hf.training.recipe.recipes import load_arguments
from smol_hf.training.recipe.values import RecipeError
from smol_hf.training.run import train
from smol_hf.training.validation.measure import Validation

FROZEN = {"vision_learning_rate": 0, "text_learning_rate": 0, "num_pages": 20}  # 8 steps of 4 see some pages twice


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    monkeypatch.setattr(image_features, "cached_assets_path", lambda *names: tmp_path / "caches")
    return tmp_path / "caches"


def losses(output):
    return [entry["loss"] for entry in read_log(output) if "loss" in entry]


def random_tiles(number, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (number, 3, 32, 32), dtype=np.uint8))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model(build_processor())


@pytest.fixture
def encoded_tiles():
    """A function that returns the list of the numbers of tiles that an encoder gets, one for each later pass."""

    def watch(model):
        numbers = []
        model.vision_model.register_forward_pre_hook(
            lambda _, arguments, inputs: numbers.append(len(inputs["pixel_values"])), with_kwargs=True
        )
        return numbers

    return watch


@pytest.fixture
def encoded(model, encoded_tiles):
    return encoded_tiles(model)


# Runs ---------------------------------------------------------------------------------------------------------------


def test_a_run_and_its_resumption_have_the_losses_of_a_run_without_the_cache(tmp_path, capsys):
    train_here(tmp_path / "plain", **FROZEN)
    expected = losses(tmp_path / "plain")
    first = train_here(tmp_path / "cached", **FROZEN, cache_image_features=True)
    assert losses(tmp_path / "cached") == expected, "to the last bit"
    assert first.data_collator.image_features.computed <= 20, "the pages, some of which are seen twice"
    said = " ".join(capsys.readouterr().out.split())
    assert "features of images are cached in" in said and "per tile;" in said
    files = [sorted(path.name for path in (tmp_path / run / "checkpoint-8").iterdir()) for run in ("plain", "cached")]
    assert files[0] == files[1], "the format of a checkpoint is the same"
    for run in ("cached", "plain"):  # the latter began without the cache
        shutil.rmtree(tmp_path / run / "checkpoint-8")
        (tmp_path / run / "log.jsonl").unlink()
        keys = {**FROZEN, "resume_from_checkpoint": "true", "cache_image_features": True}
        resumed = train_here(tmp_path / run, **keys)
        assert losses(tmp_path / run) == pytest.approx(expected, rel=0, abs=1e-6)
        assert resumed.data_collator.image_features.computed == 0
        assert "those of 0 were computed" in " ".join(capsys.readouterr().out.split())


RUNS = {
    "packed, some texts": {"packing": True, "blind_every": 3},
    "only texts": {"blind_every": 1},
    "accumulated, text frozen": {"gradient_accumulation_steps": 2, "text_learning_rate": 0.0},
    "bfloat16": {"bf16": True},
    "checkpointing": {"gradient_checkpointing": True},
}


@pytest.mark.parametrize("name", RUNS)
def test_steps_with_cached_features_have_the_same_losses(name, tmp_path):
    def trained(cached):
        trainer = build_trainer(tmp_path, number=16, turns=2, vision_learning_rate=0.0, **RUNS[name])
        if cached:
            trainer.data_collator.image_features = cached_features(trainer)
        trainer.train()
        return losses_of(trainer), trainer.data_collator.image_features

    expected, _ = trained(cached=False)
    first, features = trained(cached=True)
    assert first == expected and bool(features.computed) == (name != "only texts")
    second, features = trained(cached=True)
    assert second == pytest.approx(expected, rel=0, abs=1e-6) and features.computed == 0


def test_a_validation_reads_cached_features(tmp_path, encoded_tiles):
    trainer = build_trainer(tmp_path, number=8, vision_learning_rate=0.0)
    validation = Validation([replace(trainer.plan, rounds=1)])
    expected = validation.measure(trainer.model, trainer.accelerator, trainer.data_collator, batch_size=4)
    trainer.data_collator.image_features = cached_features(trainer)
    numbers = encoded_tiles(trainer.model)
    for _ in range(2):
        found = validation.measure(trainer.model, trainer.accelerator, trainer.data_collator, batch_size=4)
        assert found == pytest.approx(expected, rel=0, abs=1e-6)
    assert numbers == [4, 4]


def test_adapters_of_the_language_model_read_cached_features(model):
    arguments = ModelArguments(model="base", use_peft=True, lora_parts=["text"])
    adapted = add_adapters(model, arguments, {"vision": 0.0, "connector": 0.0, "text": 1e-3}).eval()
    accelerator = SimpleNamespace(distributed_type="NO", autocast=nullcontext)
    tiles, ids = random_tiles(1), torch.full((1, 4), model.config.image_token_id)
    features = cached_features(SimpleNamespace(model=adapted, accelerator=accelerator))(tiles)
    with torch.no_grad():
        expected = adapted(input_ids=ids, pixel_values=torch.from_numpy(tiles[0][None])).logits
        assert torch.equal(adapted(input_ids=ids, patch_features=features).logits, expected)


# Tiles and files -----------------------------------------------------------------------------------------------------


def test_each_distinct_tile_is_encoded_once(model, encoded):
    one, two, three = random_tiles(3)
    features = ImageFeatures(model)
    first = features([one, two, one, one])
    assert encoded == [2] and torch.equal(first[0], first[2]) and not torch.equal(first[0], first[1])
    second = ImageFeatures(model)([two, three, one])
    assert encoded == [2, 1] and torch.equal(second[0], first[1]) and torch.equal(second[2], first[0])
    pixels = torch.from_numpy(np.stack([two, three, one]))
    assert torch.allclose(second, model.encode_patches(pixels)[0], atol=1e-6)
    assert (features.found, features.computed) == (0, 2)


def test_a_text_has_no_features_and_the_connector_gets_no_gradient(model, encoded):
    features = ImageFeatures(model)([])
    assert features.shape == (0, 16, 32)
    model.vision_model.requires_grad_(False)
    ids = torch.arange(50, 56).unsqueeze(0)
    loss = model.train()(input_ids=ids, labels=ids, patch_features=features).loss
    loss.backward()
    assert not encoded and torch.equal(loss, model(input_ids=ids, labels=ids).loss)
    assert all((weight.grad == 0).all() for weight in model.connector.parameters())


def test_pixels_and_features_together_are_an_error(model):
    tiles = random_tiles(1)
    features, ids = ImageFeatures(model)(tiles), torch.full((1, 4), model.config.image_token_id)
    with pytest.raises(ValueError, match="pixel_values and patch_features exclude each other"):
        model(input_ids=ids, pixel_values=torch.from_numpy(tiles[0][None]), patch_features=features)
    with pytest.raises(ValueError, match="4 image tokens but 0 image features"):
        model(input_ids=ids, patch_features=features[:0])


def flip(file):
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda file: file.write_bytes(file.read_bytes()[:-5]),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"\xff" * 100),
        lambda file: file.unlink(),
    ],
    ids=["flipped bit", "cut", "empty", "garbage", "deleted"],
)
def test_a_damaged_file_is_computed_again(damage, model, encoded, caches):
    tiles = random_tiles(3)
    expected = ImageFeatures(model)(tiles)
    files = sorted(caches.rglob("*.safetensors"))
    assert len(files) == 3
    damage(files[1])
    again = ImageFeatures(model)(tiles)
    assert encoded == [3, 1] and torch.allclose(again, expected, atol=1e-6)
    ImageFeatures(model)(tiles)
    assert encoded == [3, 1], "the file was mended"


def test_other_weights_and_settings_have_another_cache(model, tmp_path):
    name = ImageFeatures(model).folder.name
    model.save_pretrained(tmp_path / "saved")
    again = type(model).from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        again.connector.proj.weight.add_(1)
    assert ImageFeatures(again).folder.name == name, "the same encoder under another connector"
    half = ImageFeatures(model, lambda: torch.autocast("cpu", torch.bfloat16))
    assert half.dtype == torch.bfloat16
    names = {name, half.folder.name}
    for setting, value in {"image_mean": [0.1, 0.2, 0.3], "vision_feature_layer": -2}.items():
        before = getattr(model.config, setting)
        setattr(model.config, setting, value)
        names.add(ImageFeatures(model).folder.name)
        setattr(model.config, setting, before)
    with torch.no_grad():
        next(model.vision_model.parameters()).view(-1)[0] += 1e-3
    names.add(ImageFeatures(model).folder.name)
    names.add(ImageFeatures(model.to(torch.bfloat16)).folder.name)
    assert len(names) == 6


def test_two_writers_at_once_leave_complete_files(model, caches):
    tiles = random_tiles(40)
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: ImageFeatures(model)(tiles), range(2))
    assert torch.allclose(one, other, atol=1e-6)
    assert len([path for path in caches.rglob("*") if path.is_file()]) == 40
    third = ImageFeatures(model)
    third(tiles)
    assert (third.found, third.computed) == (40, 0)


def test_a_full_disk_is_said_and_does_not_stop_the_run(model, caches, monkeypatch):
    monkeypatch.setattr(image_features.shutil, "disk_usage", lambda _: SimpleNamespace(total=100, free=4))
    features = ImageFeatures(model)
    features(random_tiles(2))
    assert "2.05 kB per tile, at most 2.05 MB for 1,000 tiles; " in features.describe(1000)
    assert not list(caches.rglob("*.safetensors"))
    problem = "some could not be written (No space left on device)"
    assert features.describe_use(0, 2) == f"features of 0 tiles were cached, those of 2 were computed; {problem}"


# Refused -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "needs an image encoder that never trains: set vision_learning_rate: 0"),
        ({"unfreeze_vision_at_step": 100}, "needs an image encoder that never trains"),
        ({"vision_learning_rate": 0, "vision_config.attention_dropout": 0.1}, "has attention_dropout 0.1"),
    ],
    ids=["trains", "trains later", "dropout"],
)  # fmt: skip
def test_an_encoder_whose_features_change_is_refused(keys, said, tmp_path):
    words = train_words(tmp_path / "run", cache_image_features=True, **keys)[1:]
    for start in (lambda: train(*load_arguments(words)), lambda: dry_run(None, words, traces=False)):
        with pytest.raises(RecipeError, match=f"cache_image_features .*{said}"):
            start()


def test_adapters_of_the_encoder_and_a_text_only_model_are_refused(model):
    rates = {"vision": 1e-4, "connector": 0.0, "text": 1e-4}
    with pytest.raises(RecipeError, match="no adapters for vision"):
        refuse_changing_features(model.config, rates)
    with pytest.raises(RecipeError, match="needs a model with an image encoder"):
        refuse_changing_features(model.config.text_config, rates)


def test_an_encoder_that_processes_split_is_refused(model):
    accelerator = SimpleNamespace(distributed_type="FSDP", autocast=nullcontext)
    with pytest.raises(RecipeError, match="FSDP and DeepSpeed split it"):
        cached_features(SimpleNamespace(model=model, accelerator=accelerator))
