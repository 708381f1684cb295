"""LLaVA with CLIP and Llama in llama.cpp."""

import json

import pytest
from export.compositions import trained
from processes import call


@pytest.fixture(scope="module", autouse=True)
def converter_cache(pytestconfig):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(pytestconfig.rootpath / ".cache"))
        yield


def test_clip_with_llama_gives_the_tokens_of_the_checkpoint(tmp_path):
    checkpoint = trained(tmp_path, "clip", "llama", "mlp")
    types = ["--quantization", "f32", "--mmproj-type", "f32"]
    finished = call(["export", checkpoint, tmp_path / "out", "--to", "gguf", "--json", *types])
    assert finished.returncode == 0, finished.stderr
    facts = json.loads(finished.stdout)
    comparison = facts["comparison"]
    assert comparison["equal_prompts"] == comparison["prompts"] == 20
    assert comparison["equal"] >= 17  # where two tokens are nearly as likely, processors differ
    assert comparison["answers"] >= 4 and comparison["difference"] < 0.05
    assert any("only images of 32 × 32 pixels" in note for note in facts["notes"])


@pytest.mark.parametrize(
    ("encoder", "text", "connector", "message"),
    [
        ("siglip", "llama", "mlp", "vision_config is 'siglip_vision_model'"),
        ("clip", "qwen3", "mlp", "text_config is 'qwen3'"),
        ("clip", "llama", "linear", "the connector has the activation 'linear'"),
    ],
)
def test_others_are_refused(encoder, text, connector, message, tmp_path):
    checkpoint = trained(tmp_path, encoder, text, connector, steps=0)
    finished = call(["export", checkpoint, tmp_path / "out", "--to", "gguf"])
    assert finished.returncode == 1 and message in finished.stderr and finished.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
