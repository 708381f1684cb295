"""llama.cpp's server with a GGUF over HTTP: the images that `transformers serve` is tested with."""

import importlib
import importlib.util
import os
import subprocess
import sys
import threading

import pytest
from export.openai_client import WRONG, Client, data_url, huge
from PIL import Image
from processes import call
from servers import Web, serve

from smol_hf.export.registry import TARGETS
from smol_hf.inference.answering import load_checkpoint
from smol_hf.inference.prompts import read_prompts
from smol_hf.inference.run import Generator
from smol_hf.inference.sampling import Sampling

pytestmark = [
    pytest.mark.skipif("gguf" not in TARGETS, reason="there is no target gguf"),
    pytest.mark.skipif(not importlib.util.find_spec("xllamacpp"), reason="llama.cpp's server needs xllamacpp"),
]
TOKENS = 8
# A process of its own, which ends with this one: the server's threads do not end before.
PROGRAM = """
import sys
import xllamacpp
options = xllamacpp.CommonParams()
options.model.path, options.mmproj.path = sys.argv[1:]
options.n_ctx, options.n_parallel, options.n_gpu_layers = 4096, 4, 0
options.warmup, options.use_jinja = False, True
server = xllamacpp.Server(options)
print(server.listening_address, flush=True)
sys.stdin.read()
import os
os._exit(0)
"""


@pytest.fixture(scope="module")
def server(tiled_vlm, tmp_path_factory):
    """The URL of the server, and its process."""
    folder = tmp_path_factory.mktemp("llama_server")
    finished = call(["export", tiled_vlm, folder / "gguf", "--to", "gguf", "--no-compare", "--quantization", "f32"])
    assert finished.returncode == 0, finished.stderr
    (mmproj,) = folder.glob("gguf/mmproj*.gguf")
    (model,) = set(folder.glob("gguf/*.gguf")) - {mmproj}
    command = [sys.executable, "-c", PROGRAM, str(model), str(mmproj)]
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ}
        )
    timer = threading.Timer(120, process.kill)
    timer.start()
    address = next((line.strip() for line in process.stdout if line.startswith("http")), None)
    timer.cancel()
    assert address, (folder / "log.txt").read_text()
    yield address
    process.stdin.close()
    process.wait(30)


@pytest.fixture
def client(server):
    return Client(server, "gguf")


@pytest.fixture(scope="module")
def questions(tiled_vlm, colour_prompts):
    """(text, image, our answer) of 8 pages."""
    prompts = read_prompts(colour_prompts)[:8]
    generator = Generator(*load_checkpoint(tiled_vlm), Sampling(max_new_tokens=TOKENS))
    answers = [answer.text.strip() for answer in generator.answers(prompts)]
    assert len(set(answers)) > 3
    return [(prompt.text, Image.open(prompt.images[0]), answer) for prompt, answer in zip(prompts, answers)]


def test_answers_are_ours(client, questions):
    for text, image, answer in questions:
        assert client.answer(text, data_url(image)).strip() == answer
    text, image, answer = questions[0]
    assert "".join(client.streamed(text, data_url(image))).strip() == answer


def test_requests_at_once_do_not_mix(client, questions):
    asked = [(text, data_url(image)) for text, image, _ in questions] * 2
    answers = [answer for _, _, answer in questions] * 2
    assert [answer.strip() for answer in client.at_once(asked)] == answers


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_image_is_an_error_of_one_request(client, questions, case):
    status, answer = client.chat("What?", WRONG[case])
    assert status in (400, 500), answer
    text, image, expected = questions[0]
    assert client.answer(text, data_url(image)).strip() == expected


def test_a_huge_image_is_decoded(client):
    """A risk that docs/run_anywhere.md describes. If this test fails, describe the new behaviour there."""
    assert client.chat("What?", huge(10000, 10000))[0] == 200


def test_files_and_urls(client, questions, tmp_path):
    """It reads no file, and fetches a URL of its own network: see docs/run_anywhere.md."""
    text, image, expected = questions[0]
    image.save(tmp_path / "inside.png")
    for place in (f"file://{tmp_path}/inside.png", str(tmp_path / "inside.png")):
        assert client.chat(text, place)[0] in (400, 500)
    inside = Web({"/inside.png": (tmp_path / "inside.png").read_bytes()})
    with serve(inside) as address:
        status, answer = client.chat(text, f"{address}/inside.png")
    assert status == 200 and answer["choices"][0]["message"]["content"].strip() == expected
    assert inside.requests
