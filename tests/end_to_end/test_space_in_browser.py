"""The Space's page in a real browser: prompts are typed, pictures uploaded, streamed answers read."""

import json
import shutil
import sys

import pytest
from end_to_end.browser import Served, browser_page, find_browser, overflow
from inference.text_checkpoints import STORY, save_text_checkpoint
from publishing.space_models import ANSWER, QUESTION, red_page, save_picture_checkpoint

from smol_hf.commands.main import main

if find_browser() is None:
    pytest.skip("no Chromium to open the page in", allow_module_level=True)
pytest.importorskip("gradio", reason='the page needs Gradio: pip install "smol_hf[demo]"')
playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright to drive a browser with")

# The texts that an element has had, each time that it changed.
WATCH = """selector => {
  window.seen = [];
  const look = () => {
    const found = [...document.querySelectorAll(selector)].at(-1)?.textContent.trim() ?? "";
    if (found && found !== window.seen.at(-1)) window.seen.push(found);
  };
  new MutationObserver(look).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""
ANSWERS = "#chat .bot.message"
SHOWN = "#written ins"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Three that are served: a vision-language model's by `serve`, the same without weights, a language model's."""
    place = tmp_path_factory.mktemp("pages")
    seeing = save_picture_checkpoint(place / "seeing" / "checkpoint", steps=150)
    writing = save_text_checkpoint(place / "writing", steps=100)
    random = shutil.copytree(seeing, place / "random")
    (random / "model.safetensors").unlink()
    assert main(["publish", str(writing), "--space-output", str(place / "space")]) == 0
    app = [sys.executable, place / "space" / "app.py"]
    red_page().save(place / "red.png")
    examples = [{"prompt": f"Question {number}?", "image": "red.png"} for number in range(3)]
    (place / "examples.jsonl").write_text("\n".join(map(json.dumps, examples)))
    demo = ["-m", "smol_hf.commands.main", "serve", seeing, "--examples", place / "examples.jsonl"]
    served = {
        "seeing": Served([sys.executable, *demo], place / "seeing.log"),
        "writing": Served(app, place / "writing.log"),
        "random": Served(app, place / "random.log", MODEL_ID=str(random)),
    }
    yield served
    for each in served.values():
        each.stop()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        yield browser
        browser.close()


def check_streamed(page, selector, whole):
    """Wait for a text, which is to have come in several steps, each the beginning of it."""
    playwright.expect(page.locator(selector).last).to_have_text(whole, timeout=60_000)
    seen = [text for text in page.evaluate("window.seen") if text != "Loading content"]
    assert len(seen) > 2 and all(whole.startswith(text) for text in seen), seen


def test_a_picture_is_uploaded_and_a_streamed_answer_read(pages, browser, tmp_path):
    red_page().save(tmp_path / "page.png")
    with browser_page(browser) as page:
        page.goto(pages["seeing"].address)
        assert page.locator("h1").inner_text() == "seeing" and page.locator("#warning").count() == 0
        page.locator("#chat .example").nth(2).wait_for()
        page.locator("#prompt input[type=file]").set_input_files(tmp_path / "page.png")
        page.locator("#prompt img").wait_for()
        page.fill("#prompt textarea", QUESTION)
        page.evaluate(WATCH, ANSWERS)
        page.keyboard.press("Enter")
        check_streamed(page, ANSWERS, ANSWER)
        shown = page.locator("#chat .user.message")
        assert shown.last.inner_text().strip() == QUESTION and page.locator("#chat .user img").count() == 1
        assert overflow(page) == 0

        (tmp_path / "broken.png").write_bytes(b"no picture")
        page.locator("#prompt input[type=file]").set_input_files(tmp_path / "broken.png")
        page.fill("#prompt textarea", "And <image> <b>this</b>?")
        page.keyboard.press("Enter")
        page.get_by_text("broken.png is not an image in a supported format").wait_for()
        assert shown.last.inner_text().strip() == "And <image> <b>this</b>?", "as it was typed"
        page.screenshot(path=tmp_path / "page-seeing.png")


def test_random_weights_are_said(pages, browser):
    with browser_page(browser, width=390, height=844) as page:
        page.goto(pages["random"].address)
        alert = page.get_by_role("alert").filter(has_text="Random weights")
        assert alert.inner_text() == "Random weights: this model was never trained, so its answers have no meaning."
        page.fill("#prompt textarea", QUESTION)
        page.keyboard.press("Enter")
        playwright.expect(page.locator(ANSWERS).last).not_to_be_empty(timeout=60_000)
        assert alert.is_visible() and overflow(page) == 0, "in a narrow window too"


def test_a_text_is_continued(pages, browser):
    with browser_page(browser) as page:
        page.goto(pages["writing"].address)
        page.get_by_text("Sampling").click()
        page.get_by_label("number input for Temperature").fill("0")
        page.fill("#prompt textarea", STORY[:4])
        page.evaluate(WATCH, SHOWN)
        page.click("#continue")
        check_streamed(page, SHOWN, STORY[4:].strip())
        playwright.expect(page.locator("#stop")).to_be_disabled()
        page.fill("#prompt textarea", "too long " * 99)
        page.click("#continue")
        page.get_by_text("the model supports 128").wait_for()
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 800})
            assert overflow(page) == 0
