"""Servers on this machine for tests: web pages, and Hubs to read from.

`serve` runs one of `Web`, `Hub`, `Datasets` and `WritableHub` of the tests of publishing. Each is a `Site`, which
answers the requests of a `Request`.
"""

import hashlib
import json
import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

PIECE = 65536  # bytes written at once


class Request(BaseHTTPRequestHandler):
    """A request to `site`, and the ways to answer it."""

    protocol_version = "HTTP/1.1"
    site = None

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.site.answer(self, unquote(urlsplit(self.path).path).strip("/"))

    do_HEAD = do_POST = do_PUT = do_GET

    @property
    def query(self):
        return parse_qs(urlsplit(self.path).query)

    @property
    def token(self):
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def send(self, status, content=b"", headers=None, file=None):
        """Answer with bytes or JSON. `file`: name under which the site counts the bytes sent, slowly if it is slow."""
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            for start in range(0, len(content), PIECE):
                piece = content[start : start + PIECE]
                self.wfile.write(piece)
                if file is not None:
                    self.site.sent[file] = self.site.sent.get(file, 0) + len(piece)
                    time.sleep(self.site.slow)
        except OSError:
            self.close_connection = True

    def refuse(self, status, code=None, message=None):
        given = {"X-Error-Code": code, "X-Error-Message": message}
        self.send(status, {"error": message}, {name: value for name, value in given.items() if value})

    def send_file(self, content, commit, file=None):
        """Answer with a file of a repository, or with the range of it that was asked for."""
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span is None:
            return self.send(200, content, headers, file)
        start, end = int(span[1]), min(int(span[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        return self.send(206, content[start : end + 1], headers, file)

    def send_tree(self, tree, inside="", is_large=lambda path, size: False):
        """Answer with the files and folders of a repository, as the Hub's API lists them."""
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        files = {path: content for path, content in tree.items() if path.startswith(f"{inside}/" if inside else "")}
        if inside and not files:
            return self.refuse(404, "EntryNotFound")
        outer = {inside or ".", *map(str, PurePosixPath(inside).parents)}
        folders = {str(parent) for path in files for parent in PurePosixPath(path).parents} - outer
        entries = [entry_of(path, content, is_large(path, len(content))) for path, content in files.items()]
        for folder in sorted(folders):
            entries.append({"type": "directory", "path": folder, "size": 0, "oid": git_hash(folder.encode())})
        top = [each for each in entries if str(PurePosixPath(each["path"]).parent) == (inside or ".")]
        return self.send(200, entries if recursive else top)


class Site:
    """What a server serves: `answer(request, path)` answers, and `stop` ends what waits."""

    def stop(self):
        pass


@contextmanager
def serve(site):
    """Run a server for `site` until the block ends, and give its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("RequestToSite", (Request,), {"site": site}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        site.stop()
        server.shutdown()
        server.server_close()
        thread.join()


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def entry_of(path, content, large=False):
    """A file as the Hub's API lists it in a tree."""
    entry = {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
    if large:
        sha256 = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": sha256, "sha256": sha256, "size": len(content), "pointerSize": 130}
    return entry


class Web(Site):
    """Web pages. `pages`: {path: bytes | (status, headers, bytes) | function of the request}.

    `requests`: (path, headers) of each request.
    """

    def __init__(self, pages):
        self.pages, self.requests = pages, []

    def asked(self, path):
        return [headers for asked, headers in self.requests if asked == path]

    def answer(self, request, path):
        self.requests.append((request.path, dict(request.headers)))
        page = self.pages.get(f"/{path}", (404, {}, b""))
        if callable(page):
            return page(request)
        status, headers, content = page if isinstance(page, tuple) else (200, {}, page)
        return request.send(status, content, headers)


def ranged(content, etag='"one"', per_request=None):
    """Make a page that is sent in ranges. `per_request`: number of bytes after which the connection breaks."""

    def answer(request):
        wanted = request.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if start >= len(content):
            return request.send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        headers = {"Content-Length": str(len(content) - start), "ETag": etag}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        request.send(206 if start else 200, content[start:][:per_request], headers)
        request.close_connection = True

    return answer


class Hub(Site):
    """Repositories to read: {(owner/name, revision): folder}; the name of a dataset begins with `datasets/`.

    With `token`, a request without it gets status 401; with `gated`, only a request that reads a gated repository.
    `failures` range requests get status 503, and names in `silent` get no answer.
    """

    def __init__(self, repositories, token=None, gated=(), failures=0, silent=()):
        self.repositories = {key: Path(folder) for key, folder in repositories.items()}
        self.token = token
        self.gated, self.failures, self.silent = gated, failures, silent
        self.requests = []

    def commit(self, repository, revision):
        """Return (commit, folder) of a branch or commit, (None, None) if it is missing."""
        for name, branch in self.repositories:
            sha = hashlib.sha1(f"{name}@{branch}".encode()).hexdigest()
            if name == repository and revision in (branch, sha):
                return sha, self.repositories[name, branch]
        return None, None

    def answer(self, request, path):
        self.requests.append((request.command, path))
        if any(name in path for name in self.silent):
            request.close_connection = True
            return None
        closed = not self.gated or any(name in path for name in self.gated)
        if path.startswith("api/") and self.gated and not path.endswith("/auth-check"):
            closed = False
        if closed and self.token is not None and request.token != self.token:
            return request.refuse(401, "GatedRepo", "Access is restricted")
        if path.startswith("api/"):
            return self.describe(request, path.removeprefix("api/").removeprefix("models/"))
        repository, _, rest = path.partition("/resolve/")
        revision, _, name = rest.partition("/")
        sha, folder = self.commit(repository, revision)
        if folder is None or not (folder / name).is_file():
            return request.refuse(404, "EntryNotFound" if folder else "RepoNotFound")
        if self.failures and request.command == "GET" and "Range" in request.headers:
            self.failures -= 1
            return request.send(503)
        return request.send_file((folder / name).read_bytes(), sha)

    def describe(self, request, path):
        verbs = ("/revision/", "/tree/", "/auth-check")
        verb = next((each for each in verbs if each in path), "/revision/")
        repository, _, rest = path.partition(verb)
        known = any(name == repository for name, _ in self.repositories)
        if verb == "/auth-check":
            return request.send(200, {}) if known else request.refuse(404, "RepoNotFound")
        revision, inside = self.revision_and_path(repository, rest or "main")
        sha, folder = self.commit(repository, revision)
        if folder is None:
            return request.refuse(404, "RevisionNotFound" if known else "RepoNotFound")
        files = {each.relative_to(folder).as_posix(): each for each in sorted(folder.rglob("*")) if each.is_file()}
        if verb == "/tree/":
            return request.send_tree({name: file.read_bytes() for name, file in files.items()}, inside)
        gated = "manual" if repository in self.gated else False
        facts = {"id": repository.removeprefix("datasets/"), "sha": sha, "gated": gated}
        return request.send(200, {**facts, "siblings": [{"rfilename": name} for name in files]})

    def revision_and_path(self, repository, rest):
        """Split `rest` after its revision, which may contain slashes."""
        for name, branch in self.repositories:
            for revision in (branch, self.commit(name, branch)[0]):
                if name == repository and (rest == revision or rest.startswith(f"{revision}/")):
                    return revision, rest.removeprefix(revision).strip("/")
        return rest, ""


class Datasets(Site):
    """Datasets with sizes, hashes, licences and gates: {owner/name: {path: bytes}}, and the data of their cards.

    Names in `gated` are closed. `slow`: seconds between two pieces of a file. `sent`: bytes sent of each file,
    `requests`: (path, range) of each request for a file.
    """

    def __init__(self, datasets, cards=None, gated=(), slow=0.0):
        self.datasets, self.cards, self.gated, self.slow = datasets, cards or {}, gated, slow
        self.requests, self.sent, self.pushes = [], {}, 0

    def sha(self, name):
        return hashlib.sha1(f"{name} {self.pushes}".encode()).hexdigest()

    def answer(self, request, path):
        if path.startswith("api/datasets/"):
            return self.describe(request, path.removeprefix("api/datasets/"))
        name, _, rest = path.removeprefix("datasets/").partition("/resolve/")
        content = self.datasets.get(name, {}).get(rest.partition("/")[2])
        if content is None:
            return request.refuse(404, "EntryNotFound")
        self.requests.append((path, request.headers.get("Range")))
        return request.send_file(content, self.sha(name), path)

    def describe(self, request, path):
        if "/tree/" in path:
            return request.send_tree(self.datasets[path.partition("/tree/")[0]], is_large=lambda _, size: size > 1000)
        name, _, revision = path.partition("/revision/")
        checks, name = name.endswith("/auth-check"), name.removesuffix("/auth-check")
        if name not in self.datasets:
            return request.refuse(404, "RepoNotFound")
        if revision not in ("", "main", self.sha(name)):
            return request.refuse(404, "RevisionNotFound")
        if checks and name in self.gated:
            return request.refuse(403, "GatedRepo", "restricted")
        entries = [entry_of(path, content, len(content) > 1000) for path, content in self.datasets[name].items()]
        siblings = [{**entry, "rfilename": entry["path"], "blobId": entry["oid"]} for entry in entries]
        gated = "manual" if name in self.gated else False
        facts = {"id": name, "sha": self.sha(name), "gated": gated, "cardData": self.cards.get(name)}
        return request.send(200, {**facts, "siblings": siblings})
