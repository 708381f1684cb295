"""transformers.js itself, in Node and in a browser: greedy tokens of exported folders are those of the checkpoint.

`make test-all` runs this file: it sets SMOL_HF_BROWSER. The first run installs transformers.js in `.cache/`.
"""

import functools
import json
import os
import re
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from doc_pages import ROOT
from end_to_end.browser import browser_page, find_browser, overflow
from PIL import Image
from processes import call
from tiny_runs import train_words
from video_clips import clip, even_times

from smol_hf.commands.main import main
from smol_hf.export.comparison import NEW_TOKENS, TEXTS, reference
from smol_hf.export.page.transformers_js import PACKAGES
from smol_hf.inference.answering import load_checkpoint
from smol_hf.inference.prompts import Prompt, read_prompts
from smol_hf.inference.run import Generator
from smol_hf.inference.sampling import Sampling

pytestmark = pytest.mark.skipif("SMOL_HF_BROWSER" not in os.environ, reason="set SMOL_HF_BROWSER=yes")

MODULES = ROOT / ".cache" / "smol_hf" / "node" / "node_modules"
ASK = """([precision, text, urls]) => new Promise(async (resolve, reject) => {
  const images = [];
  for (const url of urls) {
    const bitmap = await createImageBitmap(await (await fetch(url)).blob(), { colorSpaceConversion: "none" });
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    const context = canvas.getContext("2d");
    context.drawImage(bitmap, 0, 0);
    const rgba = context.getImageData(0, 0, bitmap.width, bitmap.height).data;
    const data = new Uint8ClampedArray(rgba.filter((_, index) => index % 4 !== 3));
    images.push({ data, width: bitmap.width, height: bitmap.height });
  }
  const worker = new Worker("worker.js", { type: "module" });
  const answers = [];
  const ask = () => {
    const content = [{ type: "image" }, { type: "text", text }];
    worker.postMessage({ type: "answer", messages: [{ role: "user", content }], images: [images[answers.length]] });
  };
  worker.onmessage = ({ data }) => {
    if (data.type === "started") worker.postMessage({ type: "load", device: "wasm", precision });
    if (data.type === "ready") ask();
    if (data.type === "error") reject(new Error(data.message));
    if (data.type === "done") {
      answers.push(data.tokens);
      if (answers.length < images.length) ask();
      else resolve(answers);
    }
  };
})"""


SIDE = 64  # pixels of an image: 2 × 2 tiles and an overview
STEPS = 100
VISION = {
    "model_type": "siglip_vision_model", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
}  # fmt: skip
TEXT = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip


COLOURS = {
    "red": (220, 30, 30), "green": (30, 160, 60), "blue": (30, 60, 220), "yellow": (240, 220, 40),
    "black": (10, 10, 10), "white": (245, 245, 245),
}  # fmt: skip
QUESTION = "Which colours are on the left and on the right?"
ASKED = 20


def two_colours(number):
    """An image of two halves, and the answer: each pair of colours in turn."""
    left, right = (list(COLOURS)[index] for index in divmod(number % len(COLOURS) ** 2, len(COLOURS)))
    image = Image.new("RGB", (SIDE, SIDE), COLOURS[left])
    image.paste(COLOURS[right], (SIDE // 2, 0, SIDE, SIDE))
    return image, f"{left} and {right}"


@pytest.fixture(scope="module")
def tiled_run(tmp_path_factory):
    """The folder of a run: `output/checkpoint` of a model that cuts images into tiles, and `prompts.jsonl`.

    It learns the two colours of an image, so its answers differ between images.
    """
    folder = tmp_path_factory.mktemp("tiled")
    rows = []
    for number in range(len(COLOURS) ** 2):
        image, answer = two_colours(number)
        image.save(folder / f"{number}.png")
        talk = [{"from": "human", "value": f"<image>{QUESTION}"}, {"from": "gpt", "value": answer}]
        rows.append({"image": f"{number}.png", "conversations": talk})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = [{"prompt": QUESTION, "image": f"{number}.png"} for number in range(0, ASKED)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    words = train_words(
        folder / "output", vision_config=VISION, text_config=TEXT, data=str(folder / "rows.jsonl"), longest_edge=SIDE,
        per_device_train_batch_size=12, max_steps=STEPS, learning_rate=3e-3, logging_steps=20,
        save_steps=STEPS, warmup_steps=10,
    )  # fmt: skip
    place = words.index("--num_pages")
    assert main([*words[:place], *words[place + 2 :]]) == 0
    return folder


@pytest.fixture(scope="module")
def tiled_vlm(tiled_run):
    """The checkpoint of `tiled_run`, instead of the one that all tests share."""
    return tiled_run / "output/checkpoint"


@pytest.fixture(scope="module")
def modules():
    if shutil.which("npm") is None:
        pytest.skip("no npm to install transformers.js with")
    package = f"{PACKAGES[0].name}@{PACKAGES[0].version}"
    if not (MODULES / PACKAGES[0].name / "package.json").is_file():
        MODULES.parent.mkdir(parents=True, exist_ok=True)
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(MODULES.parent)]
        subprocess.run(["npm", "install", *options, package], check=True, timeout=600)
    return MODULES


def our_answers(checkpoint, prompts):
    """The greedy tokens of the checkpoint, and the ids of its prompts."""
    model, processor = load_checkpoint(checkpoint, device="cpu", dtype="float32")
    generator = Generator(model, processor, Sampling(max_new_tokens=NEW_TOKENS))
    return [(generator.inputs([each])["input_ids"][0].tolist(), reference(generator, each).tokens) for each in prompts]


def answers_in_node(modules, folder, precision, prompts, place):
    cases = [{"text": prompt.text, "images": [str(image) for image in prompt.images]} for prompt in prompts]
    (place / "cases.json").write_text(json.dumps(cases))
    script = ROOT / "tests" / "export" / "answer_in_node.mjs"
    command = ["node", script, modules, folder, precision, place / "cases.json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return [(each["prompt"], each["tokens"]) for each in json.loads(done.stdout.splitlines()[-1])]


def equal(ours, theirs):
    return sum(own == other for own, other in zip(ours, theirs, strict=True))


@pytest.fixture(scope="module")
def exported_page(tiled_run, tiled_vlm, modules, tmp_path_factory):
    """A page of the tiled model with three precisions; its folder `model` is also the export `onnx`."""
    folder = tmp_path_factory.mktemp("exported") / "page"
    examples = folder.parent / "examples.jsonl"
    prompts = [json.loads(line) for line in (tiled_run / "prompts.jsonl").read_text().splitlines()][7:10]
    rows = [{"prompt": each["prompt"], "image": str(tiled_run / each["image"])} for each in prompts]
    examples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["export", tiled_vlm, folder, "--to", "page", "--precisions", "fp32", "q8", "q4", "--no-compare"]
    done = call([*words, "--transformers-js", modules, "--examples", examples])
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(("precision", "least"), [("fp32", 20), ("q8", 18), ("q4", 15)])
def test_node_answers_like_the_checkpoint(exported_page, tiled_run, tiled_vlm, modules, tmp_path, precision, least):
    prompts = read_prompts(tiled_run / "prompts.jsonl")
    ours = our_answers(tiled_vlm, prompts)
    theirs = answers_in_node(modules, exported_page / "model", precision, prompts, tmp_path)
    assert [ids for ids, _ in ours] == [ids for ids, _ in theirs]
    print(precision, equal(ours, theirs), "of", len(ours))
    assert len(ours) == 20 and equal(ours, theirs) >= least


def test_node_answers_two_images_like_the_checkpoint(exported_page, tiled_run, tiled_vlm, modules, tmp_path):
    prompts = [Prompt(QUESTION, (str(tiled_run / "3.png"), str(tiled_run / "8.png")))]
    ours = our_answers(tiled_vlm, prompts)
    assert answers_in_node(modules, exported_page / "model", "fp32", prompts, tmp_path) == ours


def test_node_continues_texts_like_the_checkpoint(text_checkpoint, modules, tmp_path):
    done = call(["export", text_checkpoint, tmp_path / "text", "--to", "onnx", "--no-compare"])
    assert done.returncode == 0, done.stderr
    prompts = [Prompt(text) for text in TEXTS]
    ours = our_answers(text_checkpoint, prompts)
    assert answers_in_node(modules, tmp_path / "text", "fp32", prompts, tmp_path) == ours


# -- the page in a browser -----------------------------------------------------------------------------------------


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def served(exported_page, tiled_run):
    """The URL of the page. The images of the run are next to it."""
    shutil.copytree(tiled_run, exported_page / "asked", ignore=shutil.ignore_patterns("output"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=exported_page))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    if find_browser() is None:
        pytest.skip("no Chromium to open the page in")
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright to drive a browser with")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(page, served):
    from playwright.sync_api import expect

    page.goto(served)
    expect(page.locator("#status")).to_have_text(re.compile(r"Ready \(WebAssembly, q8\)"), timeout=120_000)
    return lambda selector, text: expect(page.locator(selector).last).to_have_text(text, timeout=60_000)


@pytest.mark.parametrize(("precision", "least"), [("fp32", 20), ("q8", 18)])
def test_the_browser_answers_like_the_checkpoint(served, browser, tiled_run, tiled_vlm, precision, least):
    prompts = read_prompts(tiled_run / "prompts.jsonl")
    ours = [tokens for _, tokens in our_answers(tiled_vlm, prompts)]
    urls = [f"asked/{number}.png" for number in range(len(prompts))]
    with browser_page(browser) as page:
        page.goto(served)
        theirs = page.evaluate(ASK, [precision, QUESTION, urls])
    print(precision, equal(ours, theirs), "of", len(ours))
    assert equal(ours, theirs) >= least


def test_examples_files_and_conversations(served, browser, tiled_run):
    """A visitor sends an example, several images, a marker, a file that is no image, and begins again."""
    with browser_page(browser, width=390) as page:
        shows = opened(page, served)
        assert page.locator("#progress").is_hidden() and overflow(page) <= 0
        page.locator("#examples button").nth(1).click()
        shows("article.assistant p", re.compile(r"^\s*green and blue$"))
        assert page.locator("article.user img").count() == 1
        page.get_by_role("button", name="New conversation").click()
        page.get_by_label("Images, or one video").set_input_files([tiled_run / "3.png", tiled_run / "8.png"])
        page.get_by_role("button", name="Remove 8.png").wait_for()
        page.get_by_label("Question").fill(QUESTION)
        page.keyboard.press("Enter")
        shows("article.assistant p", re.compile(r"\w+ and \w+"))
        assert page.locator("article.user img").count() == 2
        page.get_by_label("Question").fill("What is <image>?")
        page.get_by_role("button", name="Send").click()
        shows("#problem", "<image> is a marker of the model, not text: remove it.")
        page.get_by_label("Images, or one video").set_input_files([tiled_run / "rows.jsonl"])
        shows("#problem", "rows.jsonl cannot be read as an image: choose another file.")


def test_the_frames_of_a_video_are_shown(served, browser, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(clip(even_times(20, 5)))
    with browser_page(browser) as page:
        shows = opened(page, served)
        page.get_by_label("Images, or one video").set_input_files([tmp_path / "clip.mp4"])
        page.get_by_role("img", name="clip.mp4, 4 frames").wait_for()
        page.get_by_label("Question").fill(QUESTION)
        page.get_by_role("button", name="Send").click()
        shows("article.assistant p", re.compile(r"\w"))
        page.get_by_label("Images, or one video").set_input_files([tmp_path / "clip.mp4"])
        page.get_by_role("button", name="Remove clip.mp4").wait_for()
        page.get_by_label("Question").fill("And now?")
        page.get_by_role("button", name="Send").click()
        shows("#problem", "A conversation shows images or one video: begin a new conversation.")
