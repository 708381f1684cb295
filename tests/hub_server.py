"""A Hub of our own for tests: a local HTTP server with the endpoints that huggingface_hub reads models from."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Hub:
    """`repositories`: {(owner/name, revision): folder}. With `token`, requests without it are answered 401."""

    def __init__(self, repositories, token=None):
        self.repositories = {key: Path(folder) for key, folder in repositories.items()}
        self.token = token
        self.requests = []

    def commit(self, repository, revision):
        """The commit of a branch; a commit stands for itself."""
        for name, branch in self.repositories:
            sha = hashlib.sha1(f"{name}@{branch}".encode()).hexdigest()
            if name == repository and revision in (branch, sha):
                return sha, self.repositories[name, branch]
        return None, None


def handler_of(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments):
            pass

        def do_GET(self):
            self.answer(with_body=True)

        def do_HEAD(self):
            self.answer(with_body=False)

        def answer(self, with_body):
            path = unquote(urlsplit(self.path).path).strip("/")
            hub.requests.append((self.command, path))
            if hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self.send(401, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
            if path.startswith("api/models/"):
                return self.describe(path.removeprefix("api/models/"))
            repository, _, rest = path.partition("/resolve/")
            revision, _, name = rest.partition("/")
            sha, folder = hub.commit(repository, revision)
            if folder is None or not (folder / name).is_file():
                return self.send(404, b"", {"X-Error-Code": "EntryNotFound" if folder else "RepoNotFound"})
            content = (folder / name).read_bytes()
            etag = hashlib.sha1(content).hexdigest()
            self.send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": sha}, with_body)

        def describe(self, path):
            for verb in ("/revision/", "/tree/"):
                if verb in path:
                    repository, _, revision = path.partition(verb)
                    break
            else:
                repository, revision, verb = path, "main", "/revision/"
            known = any(name == repository for name, _ in hub.repositories)
            sha, folder = hub.commit(repository, revision)
            if folder is None:
                return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound" if known else "RepoNotFound"})
            files = sorted(file for file in folder.rglob("*") if file.is_file())
            names = [file.relative_to(folder).as_posix() for file in files]
            if verb == "/tree/":
                entries = [
                    {"type": "file", "path": name, "size": file.stat().st_size,
                     "oid": hashlib.sha1(file.read_bytes()).hexdigest()}
                    for name, file in zip(names, files)
                ]  # fmt: skip
                return self.send(200, json.dumps(entries).encode())
            facts = {"id": repository, "sha": sha, "siblings": [{"rfilename": name} for name in names]}
            return self.send(200, json.dumps(facts).encode())

        def send(self, status, content, headers=None, with_body=True):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(content)

    return Handler


@contextmanager
def serve(hub):
    """The address of a server that runs until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(hub))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
