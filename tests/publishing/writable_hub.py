"""A Hub to write to."""

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from servers import Site, entry_of

TOKEN = "hf_writer"
LFS_SUFFIXES = (".safetensors", ".bin", ".png")


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


class WritableHub(Site):
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

    def stop(self):
        self.release.set()

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
