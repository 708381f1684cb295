"""Datasets of the Hub, read by the real clients from a server of our own."""

import hashlib
import json
import os
import subprocess
import sys

import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest
from memory_source import MemorySource
from servers import Hub, serve
from shards import write_tar

from smol_hf.data.digits import build_pages
from smol_hf.data.mixture import mixture
from smol_hf.data.sources.hub_dataset import find_dataset, hub_id, repository_of
from smol_hf.data.sources.location import Opened
from smol_hf.training.data import open_data
from smol_hf.training.recipe.data_arguments import DataArguments

ROWS = 40
CARD = """---
configs:
- config_name: pages
  default: true
  data_files:
  - {split: train, path: pages/train-*}
  - {split: test, path: pages/test-*}
- config_name: shards
  data_files: "shards/*.tar"
- config_name: mixed
  data_files: ["shards/*.tar", "notes.txt"]
---
"""

# What a child process does with a list of calls: one line of JSON for each.
CHILD = """
import json, os, sys
from smol_hf.data.stream.stream import Plan, RowStream
from smol_hf.data.mixture.mixture import MixtureEntry

class Names:
    num_tokens, num_tiles = 100, 0
    def __init__(self, reader, name=None): self.reader, self.name = reader, name
    def prepare(self, source, where, record): return Names(None, self.reader(where, record).sample_id)
    def encode(self, source, prepared): return prepared.name

def rows(source, reader, workers):
    found = iter(RowStream(Plan([source], [1.0], Names(reader), 300, lanes=4), workers=workers))
    return [next(found).samples for _ in range(8)]

for keys in json.loads(sys.argv[1]):
    os.environ.update(keys.pop("environment", {}))
    try:
        source, reader = MixtureEntry(**keys).open()
        first, last = (source.read_block(block)[0] for block in (0, len(source.block_sizes) - 1))
        reader(*first)
        answer = {"rows": len(source), "blocks": len(source.block_sizes), "name": source.name, "first": first[0],
                  "last": last[0], "revision": source.revision, "remote": source.remote,
                  "fingerprint": source.fingerprint}
        if keys["data"] == "me/many" and "split" not in keys:
            answer["same"] = rows(source, reader, 0) == rows(source, reader, 2)
    except (ValueError, OSError) as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A dataset with configurations, whose images are undecoded structs as the Hub's; and one of LLaVA's shape that
    an adapter knows by its id."""
    place = tmp_path_factory.mktemp("datasets")
    (place / "many" / "pages").mkdir(parents=True)
    (place / "many" / "shards").mkdir()
    pages = list(build_pages(ROWS, seed=0, split="train"))
    records = [
        {"images": [{"bytes": page.conversation.images[0].content, "path": f"{number}.png"}],
         "texts": [{"user": page.question, "assistant": page.answer}]}
        for number, page in enumerate(pages)
    ]  # fmt: skip
    for name, part in (("train-0", records[::2]), ("train-1", records[1::2]), ("test-0", records[:5])):
        table = pyarrow.Table.from_pylist(part)
        pyarrow.parquet.write_table(table, place / "many" / "pages" / f"{name}.parquet", row_group_size=4)
    members = [(f"{number}.{kind}", content) for number, page in enumerate(pages)
               for kind, content in (("png", page.conversation.images[0].content), ("txt", b"A page."))]  # fmt: skip
    write_tar(place / "many" / "shards" / "a.tar", members)
    (place / "many" / "README.md").write_text(CARD)
    (place / "many" / "notes.txt").write_text("no data")
    (place / "sta").mkdir()
    record = {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "image": "../x.png"}
    (place / "sta" / "train.json").write_text(json.dumps([record] * 3))
    (place / "made").mkdir()
    (place / "made" / "made.py").write_text("raise SystemExit('this ran')")
    return place


def hub_of(folders, **options):
    names = {"me/many": "many", "orrzohar/Video-STaR": "sta", "me/made": "made", "me/closed": "many"}
    repositories = {(f"datasets/{name}", "main"): folders / folder for name, folder in names.items()}
    return Hub({**repositories, ("datasets/me/many", "old"): folders / "many"}, **options)


def environment_of(address, home, **more):
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(home), "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        environment.pop(name, None)
    return {**environment, **more}


def open_in_child(calls, environment):
    command = [sys.executable, "-c", CHILD, json.dumps(calls)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    return [json.loads(line) for line in finished.stdout.splitlines()]


def sha_of(branch):
    return hashlib.sha1(f"datasets/me/many@{branch}".encode()).hexdigest()


def test_datasets_are_read_at_one_commit_or_refused_with_what_there_is(folders, tmp_path):
    hub = hub_of(folders, failures=1, silent=["me/silent"], token="secret", gated=["datasets/me/closed"])
    with serve(hub) as address:
        streamed, shards, old, fetched, pinned, file, *refused, let_in = open_in_child(
            [
                {"data": "me/many"},
                {"data": "me/many", "config": "shards"},
                {"data": "me/many", "split": "test", "revision": "old"},
                {"data": "me/many", "download": True},
                {"data": f"hf://datasets/me/many@{sha_of('main')}"},
                {"data": "hf://datasets/me/many/pages/train-*.parquet", "name": "mine"},
                {"data": "orrzohar/Video-STaR"},
                {"data": "me/many", "config": "page"},
                {"data": "me/many", "split": "tests"},
                {"data": "me/many", "config": "mixed"},
                {"data": "me/many", "revision": "newer"},
                {"data": "me/none"},
                {"data": "me/made"},
                {"data": "hf://datasets/me/many/none.parquet"},
                {"data": "me/silent"},
                {"data": "me/closed"},
                {"data": "hf://datasets/me/closed/pages/train-0.parquet"},
                {"data": "me/closed", "config": "shards", "environment": {"HF_TOKEN": "secret"}},
            ],
            environment_of(address, tmp_path),
        )
    assert streamed["rows"] == ROWS and streamed["blocks"] == 10 and streamed["name"] == "me/many/pages"
    assert (streamed["first"], streamed["last"]) == (
        "me/many/pages/train-0.parquet:1", "me/many/pages/train-1.parquet:17",
    )  # fmt: skip
    assert shards["rows"] == ROWS and shards["last"] == "me/many/shards/a.tar:39"
    assert old["rows"] == 5 and old["revision"] == sha_of("old")
    assert streamed["revision"] == fetched["revision"] == pinned["revision"] == sha_of("main")
    assert streamed["remote"] and not fetched["remote"] and fetched["first"] == streamed["first"]
    assert pinned["fingerprint"] == streamed["fingerprint"] != old["fingerprint"]
    assert file["rows"] == ROWS and file["first"] == "mine/train-0.parquet:1"
    assert let_in["rows"] == ROWS
    assert all(answer["same"] for answer in (streamed, shards, fetched))
    assert hub.failures == 0, "what failed was asked for again"
    assert not any(path.startswith("datasets/me/many/resolve/main") for _, path in hub.requests)
    for answer, error, message in zip(
        refused,
        ["SampleError"] + ["ValueError"] * 3 + ["FileNotFoundError"] * 2
        + ["ValueError", "FileNotFoundError", "ConnectionError"] + ["PermissionError"] * 2,
        [
            "image names the file ../x.png, but no folder of media is given",
            "no config 'page': did you mean 'pages'? (there are pages, shards, mixed)",
            "(config pages) has no split 'tests': did you mean 'test'? (there are train, test)",
            "several kinds", "no revision 'newer'", "there is no dataset ", "made by a script",
            "none.parquet does not exist", "cannot be reached for the dataset me/silent",
            *[f"gated: ask for access at {address}/datasets/me/closed, then log in with `hf auth login`"] * 2,
        ],
    ):  # fmt: skip
        assert answer.get("error") == error and message in answer["message"], answer


def test_offline_says_so(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE forbids asking it"):
        find_dataset("me/many")


def test_the_recipe_that_is_saved_names_the_commit(monkeypatch):
    def open_location(data, **keys):
        source = MemorySource(data, [("a", {})])
        source.revision = keys["revision"] or "c0ffee"
        return Opened(source, None, inside_only=True, dataset=data)

    monkeypatch.setattr(mixture, "open_location", open_location)
    arguments = DataArguments(data="me/many", dataset_config="shards")
    open_data(arguments, seed=0)
    assert (arguments.dataset_config, arguments.dataset_revision) == ("shards", "c0ffee")
    entries = [{"data": "me/many", "config": "a"}, {"data": "me/other", "revision": "f00d"}]
    arguments = DataArguments(mixture=entries)
    open_data(arguments, seed=0)
    assert [entry["revision"] for entry in arguments.mixture] == ["c0ffee", "f00d"] and "revision" not in entries[0]
    with pytest.raises(ValueError, match="no effect with data: digits"):
        DataArguments(dataset_split="test")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("owner/name", "owner/name"), ("owner/name.v1", "owner/name.v1"), ("owner/train.jsonl", None),
        ("owner/name/more", None), ("./name", None), ("name", None), ("here/name", None), ("owner/*", None),
        ("hf://datasets/owner/name", "owner/name"), ("hf://datasets/owner/name@v1/", "owner/name@v1"),
        ("hf://datasets/owner/name@refs/convert/parquet", "owner/name@refs/convert/parquet"),
        ("hf://datasets/owner/name/train.parquet", None), ("s3://owner/name", None),
    ],
)  # fmt: skip
def test_what_is_a_dataset_of_the_hub(data, expected, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert hub_id(data) == expected
    assert repository_of(data) == ("owner/name" if data.startswith("hf://") else None)
