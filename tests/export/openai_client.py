"""Requests to a server with OpenAI's interface, and images that are sent to it."""

import base64
import io
import json
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from urllib.error import HTTPError
from urllib.request import Request, urlopen

WRONG = {
    "not an image": "data:image/png;base64," + base64.b64encode(b"These are the words of a text.").decode(),
    "not base64": "data:image/png;base64,@@@@",
}


class Client:
    """Requests for one model of a server."""

    def __init__(self, address, model):
        self.address, self.model = address, str(model)

    def post(self, path, body, timeout=120):
        """Return the status and the answer, JSON if it is."""
        request = Request(
            self.address + path,
            json.dumps({"model": self.model, **body}).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urlopen(request, timeout=timeout) as answer:
                status, content = answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                status, content = error.code, error.read().decode()
        try:
            return status, json.loads(content)
        except ValueError:
            return status, content

    def chat(self, question, *urls, **options):
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        message = {"role": "user", "content": [*parts, {"type": "text", "text": question}]}
        body = {"messages": [message], "temperature": 0, "max_tokens": 8, **options}
        return self.post("/v1/chat/completions", body)

    def answer(self, question, *urls, **options):
        status, answer = self.chat(question, *urls, **options)
        assert status == 200, answer
        return answer["choices"][0]["message"]["content"]

    def streamed(self, question, *urls):
        """Return the pieces of a streamed answer."""
        status, events = self.chat(question, *urls, stream=True)
        assert status == 200, events
        lines = [line.removeprefix("data: ") for line in events.splitlines() if line.startswith("data: {")]
        choices = [choice for line in lines for choice in json.loads(line)["choices"]]
        return [choice["delta"]["content"] for choice in choices if choice["delta"].get("content")]

    def at_once(self, questions):
        """Ask all questions, (text, URL), at the same time."""
        with ThreadPoolExecutor(len(questions)) as pool:
            return list(pool.map(lambda question: self.answer(*question), questions))


def data_url(image):
    content = io.BytesIO()
    image.save(content, "PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def huge(width, height):
    """Return the URL of a black image of one bit per pixel: a hundred megapixels are 12 kB."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    compressor = zlib.compressobj(9)
    rows = [compressor.compress(bytes(1 + (width + 7) // 8)) for _ in range(height)]
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = b"".join(rows) + compressor.flush()
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(png).decode()
