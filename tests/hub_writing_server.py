"""A Hub of our own for tests that can be written to: repositories, branches, large files by LFS, commits.

It speaks the endpoints that huggingface_hub uses with `HF_HUB_DISABLE_XET=1`, and those that loading needs.
"""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_writer"
WRITES = ("POST", "PUT", "DELETE")
LFS_SUFFIXES = (".safetensors", ".bin", ".png")


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """`trees`: commit → {path: content}; what is large has its content in the hub's `objects` too."""

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


class WritableHub:
    """Who gives `token` may write to the `owners`; everyone may read what is not private.

    Uploads of the objects `held` wait for `release`, those `refused` are answered 400, and the first of each `dropped`
    loses its connection half way. `damaged`: paths whose content is changed on arrival. With `conflicts`, commits are
    answered 409. `requests`: (method, path) of each, `sent`: the hash of each object whose upload was begun.
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

    @property
    def written(self):
        return [request for request in self.requests if request[0] in WRITES]


def is_large(path, size):
    return path.endswith(LFS_SUFFIXES) or size > 10 << 20


def entry_of(path, content):
    entry = {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
    if is_large(path, len(content)):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


def handler_of(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments):
            pass

        def do_GET(self):
            self.answer()

        def do_HEAD(self):
            self.answer()

        def do_POST(self):
            self.answer()

        def do_PUT(self):
            hub.requests.append((self.command, self.path))
            self.receive(self.path.rsplit("/", 1)[-1])

        def answer(self):
            parts = urlsplit(self.path)
            hub.requests.append((self.command, unquote(parts.path)))
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            names = [unquote(name) for name in parts.path.strip("/").split("/")]
            if "spaces" in names[:2]:  # a Space's name is one that no model has
                names.remove("spaces")
                names = ["api", "models", *names[1:]] if names[0] == "api" else names
            knows = self.headers.get("Authorization") == f"Bearer {hub.token}"
            if self.command == "POST" and not knows:
                return self.refuse(401, "Invalid username or password.")
            if names[:3] == ["api", "repos", "create"]:
                return self.create(json.loads(body))
            if names == ["api", "validate-yaml"]:
                return self.send(200, {"errors": [], "warnings": []})
            if names[0] == "lfs":
                return self.send(200, {})
            name = "/".join(names[2:4] if names[:2] == ["api", "models"] else names[:2]).removesuffix(".git")
            repository = hub.repositories.get(name)
            if repository is None or (repository.private and not knows):
                return self.refuse(404 if knows else 401, "Repository not found", "RepoNotFound")
            if self.command == "POST" and name.split("/")[0] not in hub.owners:
                return self.refuse(403, "You have no rights to write here.")
            if names[0] != "api":
                is_batch = names[2:] == ["info", "lfs", "objects", "batch"]
                return self.batch(json.loads(body)) if is_batch else self.resolve(repository, names[3], names[4:])
            verb, *rest = names[4:] or ["revision"]
            if verb == "branch":
                return self.branch(repository, rest[0], json.loads(body))
            revision = rest[0] if rest else "main"
            tree = repository.tree(revision)
            if tree is None:
                return self.refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            if verb == "tree":
                return self.list_tree(tree, "/".join(rest[1:]))
            if verb == "preupload":
                return self.preupload(tree, json.loads(body))
            if verb == "commit":
                return self.commit(name, repository, revision, body, "create_pr" in parse_qs(parts.query))
            sha = repository.branches.get(revision, revision)
            siblings = [{"rfilename": path} for path in tree]
            self.send(200, {"id": name, "sha": sha, "private": repository.private, "siblings": siblings, "tags": []})

        def create(self, asked):
            name = f"{asked['organization']}/{asked['name']}"
            if asked["organization"] not in hub.owners:
                return self.refuse(403, f"You don't have the rights to create a model under {asked['organization']}")
            if name in hub.repositories:
                return self.send(409, {"error": "You already created this model repo", "url": f"{self.home}/{name}"})
            hub.add(name, private=asked.get("visibility") == "private").sdk = asked.get("sdk")
            self.send(200, {"url": f"{self.home}/{name}", "name": name})

        def branch(self, repository, branch, asked):
            if branch in repository.branches:
                return self.refuse(409, "Reference already exists")
            repository.branches[branch] = repository.branches[asked.get("startingPoint", "main")]
            self.send(200, {})

        def preupload(self, tree, asked):
            files = []
            for file in asked["files"]:
                large, there = is_large(file["path"], file["size"]), tree.get(file["path"])
                oid = None
                if there is not None:
                    oid = hashlib.sha256(there).hexdigest() if large else git_hash(there)
                mode = "lfs" if large else "regular"
                files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
            self.send(200, {"files": files})

        def batch(self, asked):
            objects = []
            for entry in asked["objects"]:
                if entry["oid"] not in hub.objects:
                    upload, verify = ({"href": f"{self.home}/lfs/{each}"} for each in (entry["oid"], "verify"))
                    entry = {**entry, "actions": {"upload": upload, "verify": verify}}
                objects.append(entry)
            self.send(200, {"transfer": "basic", "objects": objects})

        def receive(self, oid):
            hub.sent.append(oid)
            length = int(self.headers["Content-Length"])
            if oid in hub.dropped:
                hub.dropped.discard(oid)
                self.rfile.read(length // 2)
                self.close_connection = True
                return None
            content = self.rfile.read(length)
            if oid in hub.held:
                hub.release.wait(60)
            if oid in hub.refused or hashlib.sha256(content).hexdigest() != oid:
                return self.refuse(400, "the object was not stored")
            hub.objects[oid] = content
            self.send(200, {})

        def commit(self, name, repository, revision, body, is_pull_request):
            if hub.conflicts:
                return self.refuse(409, "The branch was updated during the commit")
            lines = [json.loads(line) for line in body.splitlines()]
            if lines[0]["value"].get("parentCommit") != repository.branches[revision]:
                return self.refuse(412, "A commit has happened since")
            tree = dict(repository.tree(revision))
            for line in lines[1:]:
                value = line["value"]
                if line["key"] == "file":
                    tree[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile" and value["oid"] not in hub.objects:
                    return self.refuse(400, f"{value['path']} was not uploaded")
                elif line["key"] == "lfsFile":
                    tree[value["path"]] = hub.objects[value["oid"]]
                else:
                    del tree[value["path"]]
                if value["path"] in hub.damaged:
                    tree[value["path"]] += b"?"
            branch = "refs/pr/1" if is_pull_request else revision
            sha = repository.commit(branch, tree, lines[0]["value"]["summary"])
            facts = {"commitUrl": f"{self.home}/{name}/commit/{sha}", "commitOid": sha, "success": True}
            self.send(
                200, facts | ({"pullRequestUrl": f"{self.home}/{name}/discussions/1"} if is_pull_request else {})
            )

        def list_tree(self, tree, inside):
            prefix = f"{inside}/" if inside else ""
            entries = [entry_of(path, content) for path, content in tree.items() if path.startswith(prefix)]
            if inside and not entries:
                return self.refuse(404, "no such folder", "EntryNotFound")
            self.send(200, entries)

        def resolve(self, repository, revision, path):
            tree = repository.tree(revision)
            content = (tree or {}).get("/".join(path))
            if content is None:
                return self.refuse(404, "not found", "EntryNotFound" if tree is not None else "RevisionNotFound")
            commit = repository.branches.get(revision, revision)
            self.send(200, content, {"ETag": f'"{git_hash(content)}"', "X-Repo-Commit": commit})

        @property
        def home(self):
            return f"http://{self.headers['Host']}"

        def refuse(self, status, message, code=None):
            headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
            self.send(status, {"error": message}, headers)

        def send(self, status, content, headers=None):
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

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
        hub.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
