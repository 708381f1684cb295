"""The fingerprint of a run's data changes when any of its files changes, also one that keeps its size."""

import io
import json
import os
import random
import tarfile
from types import SimpleNamespace

import pytest
from chat_models import chat_tokenizer
from helpers import build_processor
from PIL import Image

from smol_hf.data.mixture import mixture
from smol_hf.data.report.skipped import SkippedSamples
from smol_hf.data.sources import fingerprints
from smol_hf.data.sources.fingerprints import sampled_digest
from smol_hf.data.stream.survey import Survey
from smol_hf.text.documents.held_out import HeldOut
from smol_hf.text.documents.readers import open_documents
from smol_hf.text.documents.token_cache import TokenCache, tokenise
from smol_hf.training.checkpoint.fingerprints import fingerprint
from smol_hf.training.data import measure_data, open_data, plan_of
from smol_hf.training.recipe.data_arguments import DataArguments


def bitmap(colour):
    """An image whose size does not depend on its colour."""
    file = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(file, "BMP")
    return file.getvalue()


def records(folder):
    row = {"image": "cat.bmp", "caption": "A cat."}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    return folder / "rows.jsonl", folder / "cat.bmp"


def pictures(folder):
    (folder / "photos").mkdir()
    (folder / "photos" / "cat.txt").write_text("A cat.")
    return folder / "photos", folder / "photos" / "cat.bmp"


def rewrite(path, content):
    """Other bytes in a file that keeps its size and its times."""
    before = path.stat()
    path.write_bytes(content)
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def looked_through(data):
    """The data after the pass before a training."""
    arguments = DataArguments(context_length=256)
    training = SimpleNamespace(seed=0, data_seed=None, max_steps=1)
    plan = plan_of(data, build_processor(longest_edge=32), arguments, training, 1)
    return measure_data(plan, data, arguments, SkippedSamples())[1]


@pytest.mark.parametrize("read_whole", [True, False])
@pytest.mark.parametrize("surveyed", [True, False])
@pytest.mark.parametrize("make", [records, pictures])
def test_an_image_replaced_by_one_of_the_same_size_changes_it(make, surveyed, read_whole, tmp_path, monkeypatch):
    if not read_whole:
        monkeypatch.setattr(fingerprints, "HASHED_WHOLE", 0)
    if not surveyed:
        monkeypatch.setattr(mixture, "MOST_SURVEYED", 0)
    location, image = make(tmp_path)
    image.write_bytes(bitmap("red"))

    def printed():
        data = open_data(DataArguments(data=str(location)), 0)
        assert data.surveyed is surveyed and isinstance(data.found, Survey)
        return fingerprint(looked_through(data), read_images=False)

    first = printed()
    assert printed() == first
    rewrite(image, bitmap("blue"))
    assert printed() != first


def test_a_member_of_a_large_shard_changes_it(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "HASHED_WHOLE", 0)
    shard = tmp_path / "shard.tar"

    def printed(colour):
        with tarfile.open(shard, "w") as archive:
            for name, content in {"cat.bmp": bitmap(colour), "cat.txt": b"A cat."}.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return fingerprint(looked_through(open_data(DataArguments(data=str(shard)), 0)), read_images=False)

    assert printed("red") == printed("red") != printed("blue")


def test_a_large_file_is_sampled_in_each_mebibyte_and_at_its_end(tmp_path):
    path = tmp_path / "large"
    content = bytearray(random.Random(0).randbytes(3_500_000))
    path.write_bytes(content)
    first = sampled_digest(path)
    for place in (0, 1 << 20, (1 << 20) + 4095, 3 << 20, len(content) - 1):
        changed = content.copy()
        changed[place] ^= 1
        path.write_bytes(changed)
        assert sampled_digest(path) != first, place
    path.write_bytes(content)
    assert sampled_digest(path) == first


def test_tokens_that_were_changed_are_not_trained_on(tmp_path):
    (tmp_path / "story.txt").write_text("Once upon a time there was a cat. " * 50)
    documents = open_documents(str(tmp_path / "story.txt"))
    cache = tokenise(documents, chat_tokenizer(None), HeldOut(0), folder=tmp_path / "caches")
    assert TokenCache.open(cache.folder).digests == cache.digests
    tokens = cache.folder / "train" / "tokens.bin"
    content = bytearray(tokens.read_bytes())
    content[10] ^= 1
    rewrite(tokens, bytes(content))
    with pytest.raises(ValueError, match=r"train/tokens\.bin has other bytes than were written"):
        TokenCache.open(cache.folder)
