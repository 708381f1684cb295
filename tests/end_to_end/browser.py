"""A real browser, headless, and a process that serves a page to it."""

import os
import re
import shutil
import subprocess
import time
from contextlib import contextmanager

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser():
    """The path of a Chromium, None where there is none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


class Served:
    """A command that serves a page, begun at once; its address is known once it says so."""

    def __init__(self, command, log, cwd=None, **more):
        self.log = log
        environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "GRADIO_ANALYTICS_ENABLED": "False",
            "HF_HUB_OFFLINE": "1",
        }
        with log.open("w") as output:
            self.process = subprocess.Popen(
                list(map(str, command)), stdout=output, stderr=subprocess.STDOUT, env={**environment, **more}, cwd=cwd
            )

    @property
    def address(self):
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            said = self.log.read_text()
            if found := re.search(r"Running on local URL: +(http://\S+)", said):
                return found[1]
            assert self.process.poll() is None, said
            time.sleep(0.1)
        raise AssertionError(f"nothing is served:\n{self.log.read_text()}")

    def stop(self):
        self.process.terminate()
        self.process.wait(30)


@contextmanager
def browser_page(browser, width=1280, height=860):
    """A page of its own. What it complained about, and asked of other hosts, are errors at the end."""
    complaints = []
    context = browser.new_context(viewport={"width": width, "height": height})
    page = context.new_page()
    page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))

    def note_request(request):
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            complaints.append(request.url)

    page.on("request", note_request)
    yield page
    context.close()
    assert complaints == []


def overflow(page):
    """Pixels by which the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
