"""A Hub of our own for tests: a local HTTP server with the endpoints that huggingface_hub and datasets read from."""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit


class Hub:
    """`repositories`: {(owner/name, revision): folder}; the name of a dataset begins with `datasets/`. With `token`,
    requests without it are answered 401; where some are `gated`, only what would read those, while everyone may look
    them up.
    The next `failures` requests for ranges are answered 503; what is `silent` is never answered."""

    def __init__(self, repositories, token=None, gated=(), failures=0, silent=()):
        self.repositories = {key: Path(folder) for key, folder in repositories.items()}
        self.token = token
        self.gated, self.failures, self.silent = gated, failures, silent
        self.requests = []
        self.bytes_sent = 0

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
            if any(name in path for name in hub.silent):
                self.close_connection = True
                return None
            closed = not hub.gated or any(name in path for name in hub.gated)
            if path.startswith("api/") and hub.gated and not path.endswith("/auth-check"):
                closed = False
            if closed and hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self.send(401, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
            if path.startswith("api/models/"):
                return self.describe(path.removeprefix("api/models/"))
            if path.startswith("api/datasets/"):
                return self.describe(path.removeprefix("api/"))
            repository, _, rest = path.partition("/resolve/")
            revision, _, name = rest.partition("/")
            sha, folder = hub.commit(repository, revision)
            if folder is None or not (folder / name).is_file():
                return self.send(404, b"", {"X-Error-Code": "EntryNotFound" if folder else "RepoNotFound"})
            if hub.failures and with_body and "Range" in self.headers:
                hub.failures -= 1
                return self.send(503, b"")
            content = (folder / name).read_bytes()
            headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": sha}
            span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if span is None:
                return self.send(200, content, headers, with_body)
            start, end = int(span[1]), min(int(span[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            self.send(206, content[start : end + 1], headers, with_body)

        def describe(self, path):
            for verb in ("/revision/", "/tree/", "/auth-check"):
                if verb in path:
                    repository, _, revision = path.partition(verb)
                    break
            else:
                repository, revision, verb = path, "main", "/revision/"
            known = any(name == repository for name, _ in hub.repositories)
            if verb == "/auth-check":
                return self.send(200 if known else 404, b"{}", {} if known else {"X-Error-Code": "RepoNotFound"})
            revision, inside = self.revision_and_path(repository, revision)
            sha, folder = hub.commit(repository, revision)
            if folder is None:
                return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound" if known else "RepoNotFound"})
            if verb == "/tree/":
                return self.list_tree(folder, inside)
            names = [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if file.is_file()]
            facts = {"id": repository.removeprefix("datasets/"), "sha": sha, "private": False, "downloads": 0,
                     "likes": 0, "tags": [], "disabled": False,
                     "gated": "manual" if repository in hub.gated else False,
                     "siblings": [{"rfilename": name} for name in names]}  # fmt: skip
            return self.send(200, json.dumps(facts).encode())

        def revision_and_path(self, repository, rest):
            """A revision may hold slashes too."""
            for name, branch in hub.repositories:
                for revision in (branch, hub.commit(name, branch)[0]):
                    if name == repository and (rest == revision or rest.startswith(f"{revision}/")):
                        return revision, rest.removeprefix(revision).strip("/")
            return rest, ""

        def list_tree(self, folder, inside):
            recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in ("true", "1")
            if not (folder / inside).is_dir():
                return self.send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            entries = []
            for each in sorted((folder / inside).rglob("*") if recursive else (folder / inside).iterdir()):
                facts = {"path": each.relative_to(folder).as_posix(), "size": 0, "type": "directory"}
                if each.is_file():
                    facts |= {"type": "file", "size": each.stat().st_size}
                content = each.read_bytes() if each.is_file() else facts["path"].encode()
                entries.append({**facts, "oid": hashlib.sha1(content).hexdigest()})
            return self.send(200, json.dumps(entries).encode())

        def send(self, status, content, headers=None, with_body=True):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                hub.bytes_sent += len(content)
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
