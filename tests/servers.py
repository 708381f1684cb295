"""Servers on this machine for tests: web pages, Hubs to read from, and a Hub to write to.

`serve` runs one of `Web`, `Hub`, `Datasets` and `WritableHub`. Each answers the requests of a `Request`.
"""

import base64
import hashlib
import json
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_writer"
PIECE = 65536  # bytes written at once
LFS_SUFFIXES = (".safetensors", ".bin", ".png")


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
        if isinstance(site, WritableHub):
            site.release.set()
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


class Web:
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


class Hub:
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


class Datasets:
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


@dataclass
class Repository:
    """A repository that can be written to. `trees`: commit → {path: content}."""

    private: bool = False
    sdk: str | None = None  # of a Space
    branches: dict = field(default_factory=dict)
    trees: dict = field(default_factory=dict)
    messages: list = field(default_factory=list)

    def commit(self, branch, tree, message):
        sha = hashlib.sha1(f"{len(self.trees)} {branch} {message}".encode()).hexdigest()
        self.trees[sha], self.branches[branch] = tree, sha
        self.messages.append(message)
        return sha

    def tree(self, revision):
        return self.trees.get(self.branches.get(revision, revision))


def goes_by_lfs(path, size):
    return path.endswith(LFS_SUFFIXES) or size > 10 << 20


class WritableHub:
    """Repositories, branches, large files by LFS, and commits: the endpoints used with `HF_HUB_DISABLE_XET=1`.

    A request with `token` may write to the `owners`; all may read what is not private.

    Uploads of the objects `held` wait for `release`, `refused` ones get status 400, and the first upload of each
    `dropped` one loses its connection half way. The content of `damaged` paths changes on arrival. With `conflicts`,
    commits get status 409. `requests`: (method, path) of each; `sent`: hash of each object whose upload began.
    """

    def __init__(self, token=TOKEN, owners=("me",)):
        self.token, self.owners = token, owners
        self.repositories, self.objects = {}, {}
        self.held, self.refused, self.dropped, self.damaged = set(), set(), set(), set()
        self.conflicts, self.release = False, threading.Event()
        self.requests, self.sent = [], []

    def add(self, name, private=False, tree=None):
        repository = self.repositories[name] = Repository(private)
        repository.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n", **(tree or {})}, "initial commit")
        return repository

    def answer(self, request, path):
        self.requests.append((request.command, path))
        home, knows = f"http://{request.headers['Host']}", request.token == self.token
        if request.command == "PUT":
            return self.receive(request, path.rsplit("/", 1)[-1])
        body = request.body()
        names = [unquote(name) for name in urlsplit(request.path).path.strip("/").split("/")]
        if "spaces" in names[:2]:  # no model of the tests has the name of a Space
            names.remove("spaces")
            names = ["api", "models", *names[1:]] if names[0] == "api" else names
        if request.command == "POST" and not knows:
            return request.refuse(401, message="Invalid username or password.")
        if names[:3] == ["api", "repos", "create"]:
            return self.create(request, home, json.loads(body))
        if names == ["api", "validate-yaml"] or names[0] == "lfs":
            return request.send(200, {"errors": [], "warnings": []})
        name = "/".join(names[2:4] if names[:2] == ["api", "models"] else names[:2]).removesuffix(".git")
        repository = self.repositories.get(name)
        if repository is None or (repository.private and not knows):
            return request.refuse(404 if knows else 401, "RepoNotFound", "Repository not found")
        if request.command == "POST" and name.split("/")[0] not in self.owners:
            return request.refuse(403, message="You have no rights to write here.")
        if names[2:] == ["info", "lfs", "objects", "batch"]:
            objects = json.loads(body)["objects"]
            for each in (each for each in objects if each["oid"] not in self.objects):
                ends = {"upload": each["oid"], "verify": "verify"}
                each["actions"] = {verb: {"href": f"{home}/lfs/{end}"} for verb, end in ends.items()}
            return request.send(200, {"transfer": "basic", "objects": objects})
        verb, *rest = names[2:] if names[0] != "api" else names[4:] or ["revision"]
        if verb == "branch":
            if rest[0] in repository.branches:
                return request.refuse(409, message="Reference already exists")
            repository.branches[rest[0]] = repository.branches[json.loads(body).get("startingPoint", "main")]
            return request.send(200, {})
        revision = rest[0] if rest else "main"
        tree, sha = repository.tree(revision), repository.branches.get(revision, revision)
        if tree is None:
            return request.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if verb == "resolve":
            content = tree.get("/".join(rest[1:]))
            return request.refuse(404, "EntryNotFound") if content is None else request.send_file(content, sha)
        if verb == "tree":
            return request.send_tree(tree, "/".join(rest[1:]), goes_by_lfs)
        if verb == "preupload":
            files = json.loads(body)["files"]
            for file in files:
                entry = entry_of(file["path"], tree.get(file["path"], b""), goes_by_lfs(file["path"], file["size"]))
                oid = entry.get("lfs", entry)["oid"] if file["path"] in tree else None
                file |= {"uploadMode": "lfs" if "lfs" in entry else "regular", "shouldIgnore": False, "oid": oid}
            return request.send(200, {"files": files})
        if verb == "commit":
            lines = [json.loads(line) for line in body.splitlines()]
            return self.commit(request, f"{home}/{name}", repository, revision, lines)
        facts = {"id": name, "sha": sha, "private": repository.private, "tags": []}
        return request.send(200, {**facts, "siblings": [{"rfilename": path} for path in tree]})

    def create(self, request, home, asked):
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] not in self.owners:
            message = f"You don't have the rights to create a model under {asked['organization']}"
            return request.refuse(403, message=message)
        if name in self.repositories:
            return request.send(409, {"error": "You already created this model repo", "url": f"{home}/{name}"})
        self.add(name, private=asked.get("visibility") == "private").sdk = asked.get("sdk")
        return request.send(200, {"url": f"{home}/{name}", "name": name})

    def receive(self, request, oid):
        self.sent.append(oid)
        if oid in self.dropped:
            self.dropped.discard(oid)
            request.rfile.read(int(request.headers["Content-Length"]) // 2)
            request.close_connection = True
            return None
        content = request.body()
        if oid in self.held:
            self.release.wait(60)
        if oid in self.refused or hashlib.sha256(content).hexdigest() != oid:
            return request.refuse(400, message="the object was not stored")
        self.objects[oid] = content
        return request.send(200, {})

    def commit(self, request, url, repository, revision, lines):
        if self.conflicts:
            return request.refuse(409, message="The branch was updated during the commit")
        if lines[0]["value"].get("parentCommit") != repository.branches[revision]:
            return request.refuse(412, message="A commit has happened since")
        tree = dict(repository.tree(revision))
        for kind, value in ((line["key"], line["value"]) for line in lines[1:]):
            if kind == "file":
                tree[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile" and value["oid"] not in self.objects:
                return request.refuse(400, message=f"{value['path']} was not uploaded")
            elif kind == "lfsFile":
                tree[value["path"]] = self.objects[value["oid"]]
            else:
                del tree[value["path"]]
            if value["path"] in self.damaged:
                tree[value["path"]] += b"?"
        is_pull_request = "create_pr" in request.query
        branch = "refs/pr/1" if is_pull_request else revision
        sha = repository.commit(branch, tree, lines[0]["value"]["summary"])
        facts = {"commitUrl": f"{url}/commit/{sha}", "commitOid": sha, "success": True}
        return request.send(200, facts | ({"pullRequestUrl": f"{url}/discussions/1"} if is_pull_request else {}))
