"""The page docs/guides/media.md is true: its keys, its commands, its numbers."""

import argparse
import re
import shlex

import yaml
from doc_pages import blocks, commands, read_page

from smol_hf.commands.download import add_download
from smol_hf.data.media import images
from smol_hf.data.prepare import archives
from smol_hf.training.recipe.data_arguments import DataArguments

MEDIA = read_page("media")


def test_its_keys_are_keys_of_recipes():
    shards, limits = (yaml.safe_load(block) for block in blocks("media", "yaml"))
    assert DataArguments(**shards).data == "shards/*.tar"
    arguments, defaults = DataArguments(**limits), DataArguments()
    assert arguments.max_skipped_fraction == defaults.max_skipped_fraction
    assert arguments.max_skipped_in_a_row == defaults.max_skipped_in_a_row


def test_its_commands_are_commands():
    downloads = [shlex.split(line) for line in commands("media") if line.startswith("smol-hf data download ")]
    parser = argparse.ArgumentParser()
    add_download(parser)
    for words in downloads:
        assert parser.parse_args(words[3:]).output == "data"
    assert len(downloads) == 3


def test_its_numbers_are_those_of_the_code():
    assert f"at most `max_image_bytes` ({images.MAXIMUM_BYTES // 10**6} MB" in MEDIA
    assert f"at most {images.MAXIMUM_PIXELS // 10**6} megapixels, {images.MAXIMUM_ASPECT}:1" in MEDIA
    assert f"{archives.LARGEST_RATIO} times its size" in MEDIA and archives.ALWAYS_ALLOWED == 64 << 20
    listed = set(re.findall(r"[A-Z]\w+", MEDIA.partition("formats | ")[2].partition(";")[0].upper()))
    assert {name.removesuffix("2000") for name in images.FORMATS} <= listed
