"""Images that a visitor of `smol-hf serve` may send over HTTP: wrong, huge, of the server, of its network."""

import base64
import json
import re
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from export.openai_client import huge
from processes import fork_command
from publishing.space_models import ANSWER, QUESTION, red_page, save_picture_checkpoint
from servers import Web, serve

pytest.importorskip("gradio", reason="the page needs Gradio")
OPTIONS = [0, 1, 0, 1, 64, -1]


class Page:
    """Gradio's interface of the served page."""

    def __init__(self, address, folder):
        self.address, self.folder = address, folder

    def request(self, path, content=None, kind="application/json"):
        try:
            with urlopen(Request(self.address + path, content, {"Content-Type": kind}), timeout=60) as answer:
                return answer.read().decode()
        except HTTPError as error:
            with error:
                return error.read().decode()

    def upload(self, name, content):
        head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + content + b"\r\n--x--\r\n"
        return json.loads(self.request("/gradio_api/upload", body, "multipart/form-data; boundary=x"))[0]

    def ask(self, place, **more):
        """Ask about the file at a place. Returns the last event, its name and its data."""
        file = {"path": place, "meta": {"_type": "gradio.FileData"}, **more}
        body = {"data": [{"text": QUESTION, "files": [file]}, *OPTIONS]}
        event = json.loads(self.request("/gradio_api/call/chat", json.dumps(body).encode()))["event_id"]
        events = self.request(f"/gradio_api/call/chat/{event}").strip().split("\n\n")
        name, data = re.fullmatch(r"event: (.+)\ndata: (.+)", events[-1]).groups()
        return name, json.loads(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    save_picture_checkpoint(folder / "checkpoint")
    red_page().save(folder / "red.png")
    offline = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": str(folder / "uploads")}
    words = ["serve", folder / "checkpoint", "--examples", "none"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        served = fork_command(words, folder / "log.txt", **offline)
    try:
        served.wait_for("Running on local URL")
        (address,) = re.findall(r"Running on local URL: +(http://\S+)", served.printed.read_text())
        yield Page(address, folder)
    finally:
        served.process.terminate()
        served.wait()


def test_an_uploaded_image_is_answered(page):
    name, data = page.ask(page.upload("red.png", (page.folder / "red.png").read_bytes()))
    assert name == "complete" and data[0] == ANSWER[: len(data[0])] and len(data[0]) > 20


@pytest.mark.parametrize("name", ["not an image", "100 megapixels"])
def test_a_wrong_image_is_explained(page, name):
    content, reason = {
        "not an image": (b"These are the words of a text.", "is not an image in a supported format"),
        "100 megapixels": (base64.b64decode(huge(10000, 10000).split(",")[1]), "has more than 50 million pixels"),
    }[name]
    event, data = page.ask(page.upload("sent.png", content))
    assert event == "complete" and reason in data[0]["content"] and data[0]["metadata"]["title"] == "Not answered"


def test_files_of_the_server_are_not_read(page):
    """Not even those of the folder in which it runs."""
    for place in (page.folder / "red.png", "red.png", f"file://{page.folder}/red.png", "/etc/passwd"):
        assert page.ask(str(place)) == ("error", {"error": None}), place


def test_the_network_of_the_server_is_not_reached(page):
    inside = Web({"/red.png": (page.folder / "red.png").read_bytes()})
    with serve(inside) as address:
        for more in ({}, {"url": f"{address}/red.png"}):
            assert page.ask(f"{address}/red.png", **more) == ("error", {"error": None})
    assert inside.requests == []
