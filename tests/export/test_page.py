"""`smol-hf export --to page`: a folder that needs no other host, and shows texts as texts."""

import json
import re
from html.parser import HTMLParser

import pytest
from export.npm_registry import npm_registry
from helpers import build_model, build_processor
from inference.text_checkpoints import save_text_checkpoint
from PIL import Image
from processes import call

from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.export.page import transformers_js
from smol_hf.export.page.page import kind_of, settings_of, write_templates
from smol_hf.export.page.transformers_js import engine_files
from smol_hf.publishing.checkpoint import publish_checkpoint
from smol_hf.support.resources import resource_path

QUESTION = "</script><script>alert('1')</script> & \"which\"?"
TITLE = "<img src=x onerror=alert(1)>"
TEMPLATES = resource_path("hub_templates", "page")


class Tags(HTMLParser):
    """Tags with their attributes, and the texts between them."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """An exported page, and the facts of its export."""
    pytest.importorskip("onnxruntime", reason='the graphs need onnxruntime: pip install "smol_hf[onnx]"')
    place = tmp_path_factory.mktemp("page")
    processor = build_processor()
    publish_checkpoint(place / "checkpoint", build_model(processor), processor)
    for name in ("one", "two"):
        Image.new("RGB", (40, 30), "red").save(place / f"{name}.png")
    prompts = [{"prompt": QUESTION, "images": ["one.png", "two.png"]}, {"prompt": "Hello?"}]
    (place / "examples.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    words = ["export", place / "checkpoint", place / "out", "--to", "page", "--precisions", "fp32", "--title", TITLE]
    with pytest.MonkeyPatch.context() as patch, npm_registry(patch, place / "cache"):
        done = call([*words, "--examples", place / "examples.jsonl", "--json"])
    assert done.returncode == 0, done.stderr
    return place / "out", json.loads(done.stdout)


def test_the_folder_is_complete(page):
    folder, facts = page
    engine = {path.rpartition("/")[2] for each in transformers_js.PACKAGES for path in each.files}
    assert {path.name for path in (folder / "transformers.js").iterdir()} == engine | {"NOTICE.txt"}
    assert (folder / "transformers.js/transformers.min.js").read_bytes() == b"dist/transformers.min.js"
    assert {"index.html", "page.css", "page.js", "worker.js", "settings.json"} <= set(facts["files"])
    assert {"model/onnx/vision_encoder.onnx", "model/tokenizer.json", "examples/1-2.png"} <= set(facts["files"])
    assert facts["comparison"]["equal"] == facts["comparison"]["prompts"] == 20
    assert facts["commands"] == [f"python -m http.server -d {folder} 8000"]
    settings = json.loads((folder / "settings.json").read_text())
    sizes = sum(path.stat().st_size for path in (folder / "model/onnx").iterdir())
    assert settings["sizes"] == {"fp32": sizes} and settings["kind"] == "image"
    assert settings["video"] == {"fps": 1.0, "max_frames": 64} and "<image>" in settings["special_tokens"]
    notice = (folder / "transformers.js/NOTICE.txt").read_text()
    assert "onnxruntime-web" in notice and "Apache-2.0" in notice and "Microsoft" in notice


def test_check_knows_the_page(page):
    done = call(["check", page[0], "--source", page[0].parent / "checkpoint"])
    assert done.returncode == 0 and "onnxruntime: 20 of 20 prompts" in done.stdout, done.stderr


def test_every_reference_is_local(page):
    """Nothing of our own names a host, and the policy of the page forbids every other one."""
    folder, _ = page
    tags = Tags((folder / "index.html").read_text()).tags
    references = [attrs[key] for _, attrs in tags for key in ("src", "href") if key in attrs]
    assert len(references) >= 4 and all(
        (folder / each).is_file() for each in references if not each.startswith("data:")
    )
    (policy,) = [attrs["content"] for tag, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'self';") and "http" not in policy and "unsafe" not in policy
    for name in ("index.html", "page.css", "page.js", "worker.js", "settings.json"):
        assert re.findall(r"(?:https?:)?//[\w.-]+\.\w+", (folder / name).read_text()) == [], name
    for name in re.findall(r'from "(.*?)"|new Worker\("(.*?)"', (folder / "page.js").read_text()):
        assert (folder / (name[0] or name[1])).is_file()
    assert "env.allowRemoteModels = false" in (folder / "worker.js").read_text()


def test_texts_are_not_markup(page):
    """Questions are only in a JSON file, and the programs never write markup."""
    folder, _ = page
    index = (folder / "index.html").read_text()
    parsed = Tags(index)
    assert parsed.texts.count(TITLE) == 2 and TITLE not in index
    assert [tag for tag, _ in parsed.tags].count("script") == 1 and "img" not in [tag for tag, _ in parsed.tags]
    assert not any(name.startswith("on") for _, attrs in parsed.tags for name in attrs)
    settings = json.loads((folder / "settings.json").read_text())
    assert [each["text"] for each in settings["examples"]] == [QUESTION, "Hello?"]
    for name in ("page.js", "worker.js"):
        program = (TEMPLATES / name).read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", program)


def test_controls_have_names(tmp_path):
    """A label, a text or an accessible name for each control, and one live region for each kind of message."""
    (tmp_path / "transformers.js").mkdir()
    for kind in ("image", "chat", "text"):
        write_templates(tmp_path, title="Model", kind=kind)
        tags = Tags((tmp_path / "index.html").read_text()).tags
        labelled = {attrs["for"] for tag, attrs in tags if tag == "label"}
        controls = {attrs["id"] for tag, attrs in tags if tag in ("input", "textarea")}
        assert controls == labelled == ({"files", "text"} if kind == "image" else {"text"})
        assert {attrs.get("role") for _, attrs in tags} >= {"status", "alert", "log"}
        assert dict(tags)["html"]["lang"] == "en" and "viewport" in str(tags)


def test_a_text_model_has_a_page_of_its_kind(tmp_path):
    save_text_checkpoint(tmp_path / "text", steps=1)
    assert kind_of(tmp_path / "text") == "text"
    (tmp_path / "text/onnx").mkdir()
    (tmp_path / "text/onnx/model.onnx").write_bytes(b"12345")
    (tmp_path / "text/onnx/model_q4.onnx").write_bytes(b"123")
    settings = settings_of(tmp_path / "text", "text", [])
    assert settings["sizes"] == {"fp32": 5, "q4": 3} and settings["positions"] > 8 and "video" not in settings
    (tmp_path / "text/chat_template.jinja").write_text("{{ messages }}")
    assert kind_of(tmp_path / "text") == "chat"


# -- transformers.js -----------------------------------------------------------------------------------------------


def test_packages_are_downloaded_once(tmp_path, monkeypatch):
    with npm_registry(monkeypatch, tmp_path) as web:
        first, second = engine_files(None), engine_files(None)
        assert len(web.requests) == len(transformers_js.PACKAGES) == 2
    assert first == second and len(first) == 5
    assert [path.read_text() for path in first] == [name for each in transformers_js.PACKAGES for name in each.files]


def test_an_archive_with_another_hash_is_refused(tmp_path, monkeypatch):
    with (
        npm_registry(monkeypatch, tmp_path, broken="another archive"),
        pytest.raises(ConversionError, match=r"has the hash sha512-.* instead of .*: install it with npm elsewhere"),
    ):
        engine_files(None)
    assert not list(tmp_path.rglob("*.js"))


def test_a_missing_network_is_one_sentence(tmp_path, monkeypatch):
    processor = build_processor()
    publish_checkpoint(tmp_path / "checkpoint", build_model(processor), processor)
    with npm_registry(monkeypatch, tmp_path / "cache"):
        pass  # it is closed now
    done = call(["export", tmp_path / "checkpoint", tmp_path / "out", "--to", "page"])
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and not (tmp_path / "out").exists()
    assert "cannot be downloaded" in done.stderr and "give --transformers-js node_modules" in done.stderr


def test_a_folder_replaces_the_download(tmp_path, monkeypatch):
    monkeypatch.setattr(transformers_js, "download", None)
    for each in transformers_js.PACKAGES:
        for name in each.files:
            (tmp_path / "node_modules" / each.name / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "node_modules" / each.name / name).write_text(name)
    found = engine_files(tmp_path / "node_modules")
    assert [path.read_text() for path in found] == [name for each in transformers_js.PACKAGES for name in each.files]
    found[-1].unlink()
    with pytest.raises(ConversionError, match=rf"{found[-1].name} of onnxruntime-web is missing there"):
        engine_files(tmp_path / "node_modules")
