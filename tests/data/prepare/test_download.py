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
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants
from media_files import picture
from servers import Datasets, Web, ranged, serve

from smol_hf.commands.download import add_download, run_download
from smol_hf.data.prepare.download import DownloadError, download_all, plan_url, refuse_full_disk

PROGRAM = """
import argparse

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
    paths = [path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_a_dataset_is_announced_downloaded_verified_and_not_fetched_twice(tmp_path, download):
    hub = Datasets({"me/pages": FILES}, {"me/pages": CARD})
    with serve(hub) as address:
        code, said = download(address, "me/pages")
        assert code == 0, said
        assert tree(tmp_path / "out" / "me" / "pages") == FILES
        assert "me/pages" in said and "apache-2.0" in said and "are free" in said
        assert "4 files downloaded and verified, 0 already present" in said
        hub.requests.clear()
        code, said = download(address, "me/pages", "--revision", "main")
        assert "0 files downloaded and verified, 4 already present" in said and not hub.requests
        (tmp_path / "out" / "me" / "pages" / "README.md").unlink()
        hub.datasets["me/pages"] = {**FILES, "test/0.parquet": b"x" * 1995}  # of the same size
        hub.pushes += 1
        code, said = download(address, "me/pages", "--include", "test/*", "--include", "*.md")
        assert "2 files downloaded and verified, 0 already present" in said
        assert tree(tmp_path / "out" / "me" / "pages")["test/0.parquet"] == b"x" * 1995


@pytest.mark.slow
def test_it_goes_on_after_kill_9_with_the_files_that_are_missing(tmp_path, download):
    hub = Datasets({"me/pages": FILES}, {"me/pages": CARD}, slow=0.02)
    folder = tmp_path / "out" / "me" / "pages"
    with serve(hub) as address:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "me/pages", "--output", tmp_path / "out"],
            env={**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
            stdout=subprocess.DEVNULL,
        )
        before = time.monotonic()
        path = "datasets/me/pages/resolve/" + hub.sha("me/pages") + "/train/1.parquet"
        while not ((folder / "train" / "0.parquet").exists() and hub.sent.get(path, 0) > 500_000):
            assert process.poll() is None and time.monotonic() < before + 60
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (folder / "train" / "1.parquet").exists()
        hub.slow, hub.requests[:] = 0.0, []
        code, said = download(address, "me/pages")
        assert code == 0, said
    assert tree(folder) == FILES
    assert {Path(name).name for name, _ in hub.requests} <= {"1.parquet"}, "what was complete is not asked for again"


def test_damage_on_the_way_is_found(tmp_path, download):
    hub = Datasets({"me/pages": FILES}, {"me/pages": CARD})
    with serve(hub) as address:
        assert download(address, "me/pages", "--include", "*.md")[0] == 0
        folder = tmp_path / "out" / "me" / "pages"
        described = dict(FILES)
        hub.datasets["me/pages"] = Lying(described, {"train/0.parquet": LARGE[1:100_001], "test/0.parquet": b"cut"})
        code, said = download(address, "me/pages", "--include", "train/0.parquet")
        assert code == 1 and "train/0.parquet has the hash" in said
        code, said = download(address, "me/pages", "--include", "test/*")
        assert code == 1
        assert set(tree(folder)) == {"README.md"}


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
        assert "its path leads out of the folder" in refused("me/evil", "--yes")
        assert "nothing to download is named" in refused()
        assert download(address, "me/research", "--yes")[0] == 0
        code, said = download(address, "me/pages", "--dataset-config", "pages")
        assert code == 0 and set(tree(tmp_path / "out" / "me" / "pages")) == {"test/0.parquet"}


def test_a_full_disk_is_refused_before_anything_is_fetched(tmp_path, monkeypatch):
    with serve(Web({"/a.zip": bytes(1000)})) as place:
        found = [plan_url(f"{place}/a.zip", tmp_path / "new" / "folder")]
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
        assert "has no Hub dataset" in download(address, "--config", tmp_path / "local.yaml")[1]
    assert set(tree(tmp_path / "out")) == {"me/pages/test/0.parquet", "me/texts/a.jsonl"}


def archive():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target:
        target.writestr("photos/a.png", picture())
    return stream.getvalue()


@pytest.fixture
def small_pieces(monkeypatch):
    """A broken connection loses the piece that was being received, usually 10 MB."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 65536)


def test_files_of_the_web_are_resumed_and_extracted(tmp_path, download, small_pieces):
    broken = ranged(LARGE, per_request=1_500_000)
    web = Web({"/large.bin": broken, "/photos.zip": ranged(archive())})
    with serve(web) as place:
        urls = [f"{place}/large.bin", f"{place}/photos.zip"]
        code, said = download("http://127.0.0.1:1", *urls, "--extract", "--yes")
        assert code == 0, said
        assert (tmp_path / "out" / "large.bin").read_bytes() == LARGE
        assert tree(tmp_path / "out" / "photos") == {"photos/a.png": picture()}
        ranges = [headers.get("Range") for headers in web.asked("/large.bin")]
        assert ranges[-1].startswith("bytes=") and len(ranges) >= 4, "a look, and three parts"
        web.requests.clear()
        code, said = download("http://127.0.0.1:1", *urls, "--extract", "--yes")
        assert "1 already present, 0 archives extracted" in said and len(web.requests) == 2, "two looks"
        assert "two URLs would both become" in download("x", urls[0], f"{urls[0]}?again")[1]
        assert "give an http or https URL" in download("x", "file:///etc/passwd")[1]
        code, said = download("x", f"{place}/gone.zip")
        assert code == 1 and "gone.zip cannot be downloaded" in said and "404" in said
    code, said = download("x", f"{place}/large.bin")
    assert code == 1 and "large.bin cannot be downloaded" in said, "no server answers there now"


def test_an_interrupted_file_of_the_web_goes_on_unless_it_changed(tmp_path, small_pieces):
    whole = ranged(LARGE, '"one"')
    web = Web({"/a": whole})

    def breaks_off(handler):
        web.pages["/a"] = (404, {}, b"")
        ranged(LARGE, '"one"', per_request=3_000_000)(handler)

    with serve(web) as place:
        for page, first in (
            (whole, f"bytes={3_000_000 // 65536 * 65536}-"),
            (ranged(LARGE, '"two"'), None),
        ):
            web.pages["/a"] = whole
            plan = plan_url(f"{place}/a", tmp_path)
            web.pages["/a"] = breaks_off
            with pytest.raises(DownloadError, match="call it again to go on"):
                download_all(plan)
            assert not (tmp_path / "a").exists()
            web.pages["/a"] = page
            download_all(plan_url(f"{place}/a", tmp_path))
            assert (tmp_path / "a").read_bytes() == LARGE
            assert web.asked("/a")[-1].get("Range") == first
            (tmp_path / "a").unlink()


def test_the_arguments_are_told_apart():
    parser = argparse.ArgumentParser()
    add_download(parser)
    arguments = parser.parse_args(["a/b", "--output", "x", "--include", "*.zip", "--include", "y", "--yes"])
    assert arguments.what == ["a/b"] and arguments.include == ["*.zip", "y"] and not arguments.extract
