"""Downloads from a Hub and a web of our own: what is said before, what is resumed after a kill, what is verified."""

import argparse
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import pytest
import web_server
import yaml
from hub_datasets_server import Datasets, serve
from huggingface_hub import constants
from media_files import picture

from smol_hf.commands.download import add_download, run_download
from smol_hf.data import download as downloads
from smol_hf.data.download import fetch_address
from smol_hf.data.download_plan import DownloadError, look_at_address, refuse_full_disk

PROGRAM = """
import argparse

import huggingface_hub.constants

huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 65536  # of which it loses one at a kill; usually 10 MB
from smol_hf.commands.download import add_download, run_download

parser = argparse.ArgumentParser()
add_download(parser)
run_download(parser.parse_args())
"""
LARGE = random.Random(0).randbytes(4_000_000)
FILES = {
    "README.md": b"# Pages\n",
    "train/0.parquet": LARGE[:100_000],
    "train/1.parquet": LARGE,
    "test/0.parquet": LARGE[5:2000],
}
CARD = {
    "license": "apache-2.0",
    "configs": [{"config_name": "pages", "data_files": [{"split": "test", "path": "test/*"}]}],
}


@pytest.fixture
def download(tmp_path, monkeypatch, capsys):
    """The command, in this process; its exit status and what it said."""
    monkeypatch.setattr(sys, "stdin", io.StringIO())

    def run(address, *arguments):
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        parser = argparse.ArgumentParser()
        add_download(parser)
        capsys.readouterr()
        try:
            run_download(parser.parse_args([*map(str, arguments), "--output", str(tmp_path / "out")]))
        except (ValueError, OSError) as error:
            return 1, capsys.readouterr().out + str(error)
        return 0, capsys.readouterr().out

    return run


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and path.name != ".downloaded.json"}  # fmt: skip


def test_a_dataset_is_announced_downloaded_verified_and_not_fetched_twice(tmp_path, download):
    hub = Datasets({"me/pages": FILES}, {"me/pages": CARD})
    with serve(hub) as address:
        code, said = download(address, "me/pages")
        assert code == 0, said
        assert tree(tmp_path / "out" / "me" / "pages") == FILES
        assert "me/pages" in said and "apache-2.0" in said and "are free there" in said
        assert "4 files downloaded and verified, 0 were there" in said
        hub.requests.clear()
        code, said = download(address, "me/pages", "--revision", "main")
        assert "0 files downloaded and verified, 4 were there" in said and not hub.requests
        (tmp_path / "out" / "me" / "pages" / "README.md").unlink()
        hub.datasets["me/pages"] = {**FILES, "test/0.parquet": b"x" * 1995}  # of the same size
        code, said = download(address, "me/pages", "--include", "test/*", "--include", "*.md")
        assert "2 files downloaded and verified, 0 were there" in said
        assert tree(tmp_path / "out" / "me" / "pages")["test/0.parquet"] == b"x" * 1995


def test_it_goes_on_after_kill_9_where_it_was(tmp_path, download):
    hub = Datasets({"me/pages": FILES}, {"me/pages": CARD}, slow=0.02)
    with serve(hub) as address:
        path = "datasets/me/pages/resolve/" + hub.sha("me/pages") + "/train/1.parquet"
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "me/pages", "--output", tmp_path / "out"],
            env={**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
            stdout=subprocess.DEVNULL,
        )
        before = time.monotonic()
        while hub.sent.get(path, 0) < 2_000_000 and process.poll() is None and time.monotonic() < before + 60:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (tmp_path / "out" / "me" / "pages" / "train" / "1.parquet").exists()
        hub.slow, hub.requests[:] = 0.0, []
        code, said = download(address, "me/pages")
        assert code == 0, said
        assert tree(tmp_path / "out" / "me" / "pages") == FILES
    [asked] = [place for name, place in hub.requests if name == path]
    start = int(asked.removeprefix("bytes=").rstrip("-"))
    assert 1_000_000 < start < len(LARGE), "from the middle, not from zero"
    assert all("train/0" not in name for name, _ in hub.requests), "what was whole is not asked for again"


def test_damage_on_the_way_is_found(tmp_path, download):
    hub = Datasets({"me/pages": FILES}, {"me/pages": CARD})
    with serve(hub) as address:
        assert download(address, "me/pages", "--include", "*.md")[0] == 0
        folder = tmp_path / "out" / "me" / "pages"
        described = dict(FILES)
        hub.datasets["me/pages"] = Lying(described, {"train/0.parquet": LARGE[1:100_001], "test/0.parquet": b"cut"})
        code, said = download(address, "me/pages", "--include", "train/0.parquet")
        assert code == 1 and "train/0.parquet came with the hash" in said
        code, said = download(address, "me/pages", "--include", "test/*")
        assert code == 1
        assert {name for name in tree(folder) if not name.endswith(".partial")} == {"README.md"}


def test_files_that_the_hub_gives_away_in_parts_only(tmp_path, download, monkeypatch):
    monkeypatch.setattr(downloads, "MAX_HTTP_DOWNLOAD_SIZE", 1_000_000)
    with serve(Datasets({"me/pages": FILES}, {"me/pages": CARD})) as address:
        code, said = download(address, "me/pages")
        assert code == 0, said
    assert tree(tmp_path / "out" / "me" / "pages") == FILES


class Lying(dict):
    """Files that are described rightly, and sent otherwise."""

    def __init__(self, files, sent):
        super().__init__(files)
        self.sent = sent

    def get(self, path, default=None):
        return self.sent.get(path, super().get(path, default))


def test_gates_licences_and_names_that_there_are_not(tmp_path, download):
    names = ["me/closed", "me/research", "me/unknown", "me/odd"]
    hub = Datasets({**{name: {"a.txt": b"x"} for name in names}, "me/pages": FILES, "me/evil": {"../../x": b"x"}},
                   {"me/research": {"license": "cc-by-nc-4.0"}, "me/odd": {"license": ["other"]}, "me/pages": CARD},
                   gated=["me/closed"])  # fmt: skip
    with serve(hub) as address:

        def refused(*arguments):
            code, said = download(address, *arguments)
            assert code == 1 and not (tmp_path / "out").exists(), said
            return said

        said = refused("me/closed", "--yes")
        assert (
            f"me/closed is gated: ask for access at {address}/datasets/me/closed" in said and "hf auth login" in said
        )
        said = refused("me/research", "me/unknown", "me/odd")
        assert "me/research must not be used commercially (cc-by-nc-4.0)" in said
        assert "me/unknown has a licence that is not known" in said and "me/odd has a licence" in said
        assert "agree with --yes" in said
        assert "there is no dataset me/gone" in refused("me/gone")
        assert "me/pages has no revision 'v2'" in refused("me/pages", "--revision", "v2")
        assert "has no config 'page'; it has pages" in refused("me/pages", "--dataset-config", "page")
        assert "has no file *.zip" in refused("me/pages", "--include", "*.zip")
        assert "leads out of the folder" in refused("me/evil", "--yes")
        assert "say what to download" in refused()
        assert download(address, "me/research", "--yes")[0] == 0
        code, said = download(address, "me/pages", "--dataset-config", "pages")
        assert code == 0 and set(tree(tmp_path / "out" / "me" / "pages")) == {"test/0.parquet"}


def test_a_full_disk_is_refused_before_anything_is_fetched(tmp_path, monkeypatch):
    with web_server.serve(web_server.Web({"/a.zip": bytes(1000)})) as place:
        found = [look_at_address(f"http://{place}/a.zip", tmp_path / "new" / "folder")]
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2000))
    refuse_full_disk(found, tmp_path / "new", extract=False)
    with pytest.raises(DownloadError, match=r"are needed at .*new, and 0\.0 GB are free"):
        refuse_full_disk(found, tmp_path / "new", extract=True)


def test_the_datasets_of_a_recipe(tmp_path, download):
    hub = Datasets({"me/pages": FILES, "me/texts": {"a.jsonl": b"{}\n"}}, {"me/pages": CARD, "me/texts": CARD})
    mixture = [
        {"data": "me/pages", "config": "pages"},
        {"data": "mine.jsonl"},
        {"data": "hf://datasets/me/texts/a*"},
    ]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"mixture": mixture}))
    (tmp_path / "local.yaml").write_text(yaml.safe_dump({"data": "mine.jsonl"}))
    with serve(hub) as address:
        code, said = download(address, "--config", tmp_path / "recipe.yaml")
        assert code == 0, said
        assert "reads no dataset of the Hub" in download(address, "--config", tmp_path / "local.yaml")[1]
    assert set(tree(tmp_path / "out")) == {"me/pages/test/0.parquet", "me/texts/a.jsonl"}


def archive():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target:
        target.writestr("photos/a.png", picture())
    return stream.getvalue()


def test_files_of_the_web_are_resumed_and_extracted(tmp_path, download):
    broken = web_server.ranged(LARGE, per_request=1_500_000)
    web = web_server.Web({"/large.bin": broken, "/photos.zip": web_server.ranged(archive())})
    with web_server.serve(web) as place:
        urls = [f"http://{place}/large.bin", f"http://{place}/photos.zip"]
        code, said = download("http://127.0.0.1:1", *urls, "--extract", "--yes")
        assert code == 0, said
        assert (tmp_path / "out" / "large.bin").read_bytes() == LARGE
        assert tree(tmp_path / "out" / "photos") == {"photos/a.png": picture()}
        ranges = [headers.get("Range") for headers in web.asked("/large.bin")]
        assert ranges[-1].startswith("bytes=") and len(ranges) >= 4, "a look, and three parts"
        web.requests.clear()
        code, said = download("http://127.0.0.1:1", *urls, "--extract", "--yes")
        assert "1 were there, 0 archives extracted" in said and len(web.requests) == 2, "two looks"
        assert "not a public address" in download("x", "http://169.254.169.254/latest")[1]
        assert "two addresses would both be" in download("x", urls[0], f"{urls[0]}?again")[1]
        assert "file is not http" in download("x", "file:///etc/passwd")[1]


def test_a_file_that_changed_meanwhile_is_begun_anew(tmp_path):
    web = web_server.Web({"/a": web_server.ranged(LARGE, '"two"')})
    partial = tmp_path / ".a.partial"
    partial.write_bytes(b"old")
    partial.with_suffix(".tag").write_text('"one"')
    with web_server.serve(web) as place:
        fetch_address(f"http://{place}/a", partial)
    assert partial.read_bytes() == LARGE and web.asked("/a")[0]["If-Range"] == '"one"'


def test_the_arguments_are_told_apart():
    parser = argparse.ArgumentParser()
    add_download(parser)
    arguments = parser.parse_args(["a/b", "--output", "x", "--include", "*.zip", "--include", "y", "--yes"])
    assert arguments.what == ["a/b"] and arguments.include == ["*.zip", "y"] and not arguments.extract
