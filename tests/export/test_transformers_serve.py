"""`transformers serve` over HTTP: our checkpoints with their code, and native folders."""

import importlib.util
import os
import subprocess
import sys
import time
from urllib.request import urlopen

import pytest
import torch
from chat_models import save_base
from export.openai_client import WRONG, Client, data_url, huge
from modeling.builders import ENCODERS, build_processor, random_tiles, randomise, text_config
from PIL import Image
from processes import free_port
from safetensors.torch import load_file, save_file
from servers import Web, serve
from transformers import GenerationConfig

from smol_hf import SmolHFConfig, SmolHFForConditionalGeneration
from smol_hf.export.export import export
from smol_hf.inference.answering import load_checkpoint
from smol_hf.inference.prompts import Prompt
from smol_hf.inference.run import Generator
from smol_hf.inference.sampling import Sampling

NEEDED = ("fastapi", "uvicorn", "openai")
pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, NEEDED)), reason=f"transformers serve needs {', '.join(NEEDED)}"
)
QUESTIONS = ("What is in the picture?", "Is it a cat that sits on the mat?", "yes?", "Where?")
TOKENS = 8


def picture(seed):
    return Image.fromarray(random_tiles(1, side=64, seed=seed)[0].permute(1, 2, 0).numpy())


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    """A checkpoint whose random weights give each question its own answer."""
    folder, processor = tmp_path_factory.mktemp("seeing"), build_processor()
    config = SmolHFConfig(
        text_config=text_config(vocab_size=len(processor.tokenizer), max_position_embeddings=512),
        vision_config={**ENCODERS["siglip"], "image_size": 32, "patch_size": 8},
        scale_factor=2,
        image_token_id=processor.image_token_id,
    )
    torch.manual_seed(0)
    model, tokenizer = randomise(SmolHFForConditionalGeneration(config)), processor.tokenizer
    words = {number for name, number in tokenizer.get_vocab().items() if name.isascii() and name.isalpha()}
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=sorted(set(range(len(tokenizer))) - words),
        no_repeat_ngram_size=1,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def writing(tmp_path_factory):
    """A language model with our code, and its native folder."""
    folder = tmp_path_factory.mktemp("writing")
    save_base(folder / "ours", "ours")
    weights = load_file(folder / "ours/model.safetensors")
    for name, weight in weights.items():
        if "proj" in name:
            weight.mul_(15)  # with small random weights a tied model repeats its last token
    save_file(weights, folder / "ours/model.safetensors", metadata={"format": "pt"})
    export(folder / "ours", folder / "native", "native", compared=False)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The URL of a running server and its log. It loads the folder that a request names."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    (folder / "home" / "hub").mkdir(parents=True)  # without it GET /v1/models fails
    log, address = folder / "log.txt", f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", "--device", "cpu", "--port", str(port)]
    command += ["--host", "127.0.0.1", "--trust-remote-code"]
    environment = {**os.environ, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        wait_for(f"{address}/health", process, log)
        yield address, log
    finally:
        process.terminate()
        process.wait(30)


def wait_for(url, process, log):
    deadline = time.monotonic() + 120
    while True:
        try:
            return urlopen(url, timeout=5).close()
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)


@pytest.fixture
def client(server, seeing):
    return Client(server[0], seeing)


@pytest.fixture(scope="module")
def expected(seeing, tmp_path_factory):
    """Our own answers: {question: text}."""
    folder = tmp_path_factory.mktemp("pages")
    for seed in range(len(QUESTIONS)):
        picture(seed).save(folder / f"{seed}.png")
    prompts = [Prompt(text, (str(folder / f"{seed}.png"),)) for seed, text in enumerate(QUESTIONS)]
    generator = Generator(*load_checkpoint(seeing), Sampling(max_new_tokens=TOKENS))
    answers = {prompt.text: answer.text.strip() for prompt, answer in zip(prompts, generator.answers(prompts))}
    assert len(set(answers.values())) == len(QUESTIONS)
    return answers


def test_answers_are_ours(client, expected):
    for seed, question in enumerate(QUESTIONS):
        url = data_url(picture(seed))
        assert client.answer(question, url).strip() == expected[question]
        assert "".join(client.streamed(question, url)).strip() == expected[question]


def test_requests_at_once_do_not_mix(client, expected):
    questions = [(text, data_url(picture(seed))) for seed, text in enumerate(QUESTIONS)] * 4
    assert [answer.strip() for answer in client.at_once(questions)] == list(expected.values()) * 4


def test_stop_strings_are_for_text_models(client, server, writing):
    """The server looks for the vocabulary in the processor, where those of transformers have none either."""
    assert client.chat(QUESTIONS[0], data_url(picture(0)), stop=["y"])[0] == 500
    model = Client(server[0], writing / "ours")
    text = {"prompt": "Who wrote it?", "max_tokens": 24, "temperature": 0}
    written = model.post("/v1/completions", text)[1]["choices"][0]["text"]
    end = next(letter for letter in written[1:] if letter.isascii() and letter.isalpha())
    stopped = model.post("/v1/completions", {**text, "stop": [end]})[1]["choices"][0]["text"]
    assert end in stopped and len(stopped) < len(written) and written.startswith(stopped)


@pytest.mark.parametrize("case", [*WRONG, "200 megapixels"])
def test_a_wrong_image_is_an_error_of_one_request(client, server, expected, case):
    """The server answers with status 500 and no reason. The reason is in its log."""
    log = server[1]
    before = len(log.read_text())
    status, answer = client.chat("What?", WRONG.get(case) or huge(20000, 10000))
    assert status == 500 and "cannot be read" not in str(answer)
    reasons = {"not an image": "does not know its format", "200 megapixels": "exceeds limit"}
    reasons["not base64"] = ""
    deadline = time.monotonic() + 10
    while "ValueError: the image" not in (written := log.read_text()[before:]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert reasons[case] in written
    assert client.answer(QUESTIONS[0], data_url(picture(0))).strip() == expected[QUESTIONS[0]]


def test_it_reads_its_own_files_and_network(client, expected, tmp_path):
    """A risk that docs/run_anywhere.md describes. If this test fails, describe the new behaviour there."""
    picture(0).save(tmp_path / "inside.png")
    inside = Web({"/inside.png": (tmp_path / "inside.png").read_bytes()})
    with serve(inside) as address:
        for url in (f"{address}/inside.png", f"file://{tmp_path}/inside.png", str(tmp_path / "inside.png")):
            assert client.answer(QUESTIONS[0], url).strip() == expected[QUESTIONS[0]]
    assert len(inside.requests) == 1


@pytest.mark.parametrize("kind", ["ours", "native"])
def test_a_text_model_continues_texts(server, writing, kind):
    client = Client(server[0], writing / kind)
    generator = Generator(*load_checkpoint(writing / "ours"), Sampling(max_new_tokens=TOKENS))
    (expected,) = generator.answers([Prompt("Who wrote it?")])
    body = {"prompt": "Who wrote it?", "max_tokens": TOKENS, "temperature": 0}
    status, answer = client.post("/v1/completions", body)
    assert status == 200 and answer["choices"][0]["text"] == expected.text
    status, _ = client.chat("Who wrote it?")
    assert status == 500  # it has no chat template


def test_a_native_folder_answers_alike(server, seeing, expected, tmp_path):
    for name in ("torchvision", "num2words"):
        pytest.importorskip(name, reason=f"transformers' SmolVLM processor needs {name}")
    export(seeing, tmp_path / "native", "native", compared=False)
    client = Client(server[0], tmp_path / "native")
    for seed, question in enumerate(QUESTIONS):
        assert client.answer(question, data_url(picture(seed))).strip() == expected[question]
