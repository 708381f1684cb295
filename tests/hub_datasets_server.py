"""Datasets of a Hub of our own for tests: descriptions with sizes and hashes, licences, gates, and files in parts."""

import hashlib
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Datasets:
    """`datasets`: {owner/name: {path: bytes}}. `cards`: their cards' data. Names in `gated` are closed to everyone.

    `slow`: seconds between two pieces of 64 KiB. `sent`: bytes sent of each file, `requests`: (path, range) of each.
    """

    def __init__(self, datasets, cards=None, gated=(), slow=0.0):
        self.datasets, self.cards, self.gated, self.slow = datasets, cards or {}, gated, slow
        self.requests, self.sent, self.pushes = [], {}, 0

    def sha(self, name):
        return hashlib.sha1(f"{name} {self.pushes}".encode()).hexdigest()


def sibling(path, content):
    facts = {"rfilename": path, "size": len(content),
             "blobId": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()}  # fmt: skip
    if len(content) > 1000:
        facts["lfs"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "pointerSize": 130}
    return facts


def entry(path, content):
    """The same file as the API lists it in a tree."""
    facts = sibling(path, content)
    lfs = {"lfs": {**facts["lfs"], "oid": facts["lfs"]["sha256"]}} if "lfs" in facts else {}
    return {"type": "file", "path": path, "size": len(content), "oid": facts["blobId"], **lfs}


def handler_of(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments):
            pass

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = unquote(urlsplit(self.path).path).strip("/")
            if path.startswith("api/datasets/"):
                return self.describe(path.removeprefix("api/datasets/"))
            name, _, rest = path.removeprefix("datasets/").partition("/resolve/")
            content = hub.datasets.get(name, {}).get(rest.partition("/")[2])
            if content is None:
                return self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
            hub.requests.append((path, self.headers.get("Range")))
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": hub.sha(name)}
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.send(206 if start else 200, content[start:], headers, path)

        def describe(self, path):
            if "/tree/" in path:
                name = path.partition("/tree/")[0]
                return self.send(200, json.dumps([entry(*file) for file in hub.datasets[name].items()]).encode())
            name, _, rest = path.partition("/revision/")
            checks = name.endswith("/auth-check")
            name = name.removesuffix("/auth-check")
            if name not in hub.datasets:
                return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            if rest not in ("", "main", hub.sha(name)):
                return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            if checks and name in hub.gated:
                return self.send(403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "restricted"})
            facts = {"id": name, "sha": hub.sha(name), "gated": "manual" if name in hub.gated else False,
                     "cardData": hub.cards.get(name),
                     "siblings": [sibling(*file) for file in hub.datasets[name].items()]}  # fmt: skip
            self.send(200, json.dumps(facts).encode())

        def send(self, status, content, headers=None, path=None):
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            try:
                for at in range(0, len(content), 65536):
                    self.wfile.write(content[at : at + 65536])
                    hub.sent[path] = hub.sent.get(path, 0) + len(content[at : at + 65536])
                    time.sleep(hub.slow if path else 0)
            except OSError:
                self.close_connection = True

    return Handler


@contextmanager
def serve(hub):
    """The address of a server that runs until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(hub))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
