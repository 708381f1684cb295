"""What docs/data.md shows about media is true: its keys, its commands, its numbers."""

import argparse
import re
import shlex
import subprocess
from pathlib import Path

import yaml

from smol_hf.commands.download import add_download
from smol_hf.data import archives, decoding_cost, fetching, images
from smol_hf.training.data import fetcher_of
from smol_hf.training.data_arguments import DataArguments

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
MEDIA = PAGE[PAGE.index("## Media") :].partition("\n## ")[0]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", MEDIA, flags=re.DOTALL)


def test_its_keys_are_keys_of_recipes():
    fetching_keys, limits = (yaml.safe_load(block) for block in blocks("yaml"))
    fetcher = fetcher_of(DataArguments(**fetching_keys))
    assert fetcher.is_on and fetcher.max_bytes == 20_000_000 and str(fetcher.folder) == "fetched"
    arguments, defaults = DataArguments(**limits), DataArguments()
    assert arguments.max_skipped_fraction == defaults.max_skipped_fraction
    assert arguments.max_skipped_in_a_row == defaults.max_skipped_in_a_row
    assert defaults.fetch_timeout == fetching_keys["fetch_timeout"] and not fetcher_of(defaults).is_on


def test_its_commands_are_commands(tmp_path):
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    downloads = [shlex.split(line) for line in lines if line.startswith("smol-hf data download ")]
    parser = argparse.ArgumentParser()
    add_download(parser)
    for words in downloads:
        assert parser.parse_args(words[3:]).output == "data"
    assert len(downloads) == 3
    [find] = [line for line in lines if not line.startswith("smol-hf")]
    (tmp_path / "fetched" / "ab").mkdir(parents=True)
    for name in ("abc", "abd.failed"):
        (tmp_path / "fetched" / "ab" / name).write_text("")
    subprocess.run(shlex.split(find), cwd=tmp_path, check=True)
    assert [path.name for path in tmp_path.rglob("ab*") if path.is_file()] == ["abc"]


def test_its_numbers_are_those_of_the_code():
    assert f"at most `max_image_bytes` ({images.MAXIMUM_BYTES // 10**6} MB" in MEDIA
    assert f"at most {images.MAXIMUM_PIXELS // 10**6} megapixels, {images.MAXIMUM_ASPECT}:1" in MEDIA
    assert f"{decoding_cost.PNG_CHUNKS:,} chunks" in MEDIA and f"{decoding_cost.JPEG_SEGMENTS:,} segments" in MEDIA
    assert fetching.MAXIMUM_REDIRECTS == 5 and "at most five redirects" in MEDIA
    limits = archives.ArchiveLimits()
    assert limits.members == 5_000_000 and f"{limits.ratio:g} times the archive's size" in MEDIA
    listed = set(re.findall(r"[A-Z]\w+", MEDIA.partition("formats | ")[2].partition(";")[0].upper()))
    assert {name.removesuffix("2000") for name in decoding_cost.FORMATS} <= listed
