"""`smol-hf estimate --apple`: sizes as counted by hand, and those of folders that MLX wrote."""

import json

import pytest
from chat_models import save_base
from helpers import build_model, build_processor

from smol_hf.commands.main import main
from smol_hf.estimate.apple import apple_memory
from smol_hf.estimate.estimate import build_on_meta
from smol_hf.estimate.target import find_target


def test_sizes_of_a_preset():
    """smollm2-135m: 30 layers of 3 key heads of 64, width 576, MLP 1536, 49152 tokens, tied."""
    facts = apple_memory("smollm2-135m", length=1000, batch_size=2)
    width, inner, layers, vocabulary = 576, 1536, 30, 49152
    attention, mlp = 2 * width * (width + 192), 3 * width * inner
    matrices = layers * (attention + mlp) + vocabulary * width
    assert facts["parameters"] == matrices + (2 * layers + 1) * width
    assert facts["weights"] == {
        16: 2 * facts["parameters"],
        8: matrices + matrices // 16 + 2 * (2 * layers + 1) * width,  # groups of 64 have two numbers of 16 bits
        4: matrices // 2 + matrices // 16 + 2 * (2 * layers + 1) * width,
    }
    assert facts["cache"] == 2 * 2 * layers * 2 * 1024 * 192  # keys and values, 2 bytes, 2 rows, 4 steps of 256
    assert facts["image_features"] == 0
    assert facts["inference"][4] == facts["weights"][4] + facts["cache"]
    of_layer = 2 * (width + width) + 2 * (width + 192) + 3 * (width + inner)
    assert facts["lora_parameters"] == 16 * 8 * of_layer
    assert facts["lora"][4] == facts["weights"][4] + 16 * facts["lora_parameters"]
    assert facts["full"] == 8 * facts["parameters"]


def test_sizes_of_a_vision_language_model(tmp_path, capsys):
    processor = build_processor()
    build_model(processor).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    command = ["estimate", str(tmp_path), "--apple", "--length", "100", "--tiles", "3"]
    assert main([*command, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["image_features"] == 2 * 3 * 4 * 32  # 3 tiles of 4 tokens, width 32
    model = build_on_meta(find_target(str(tmp_path)))
    tied = model.get_input_embeddings().weight
    assert model.get_output_embeddings().weight is tied  # the native folder has a head of its own
    assert facts["parameters"] == sum(weight.numel() for weight in model.parameters()) + tied.numel()
    assert main(command) == 0
    assert "features of 3 tiles" in capsys.readouterr().out


def test_rows_that_are_no_complete_groups_are_not_quantised(tmp_path):
    save_base(tmp_path / "text", "ours")  # its width is 32
    weights = apple_memory(str(tmp_path / "text"))["weights"]
    assert weights[4] == weights[8] == weights[16]


@pytest.mark.parametrize(
    "option", [["--tflops", "3"], ["--lora-r", "8"], ["--measure"], ["--shards", "2"], ["--dtype", "float16"]]
)
def test_other_options_are_refused(option, capsys):
    assert main(["estimate", "smollm2-135m", "--apple", *option]) == 1
    assert f"{option[0]} has no effect with --apple: leave it out" in capsys.readouterr().err
