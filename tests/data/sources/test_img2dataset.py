"""Shards in the form that img2dataset writes: each image that arrived is a sample, those that failed are missing."""

import hashlib
import json

import pyarrow
import pyarrow.parquet
import pytest
from media_files import picture
from shards import write_tar

from smol_hf.data.conversation import SampleError
from smol_hf.data.mixture.mixture import open_mixture
from smol_hf.data.prepare import prepare

CAPTIONS = {
    "000000000": "A lamp.",
    "000000002": " two cats , on a sofa ",
    "000010000": "ein Haus, größer",
    "000010001": "",
}
FAILED = {"000000001": "HTTP Error 404: Not Found", "000010002": "image decoding error"}


def facts_of(key, caption, image=None, error=None):
    """The fields of a `.json`, and of a row of the table of a shard."""
    size = {"width": 48, "height": 32, "original_width": 480, "original_height": 320} if image else {}
    return {
        "url": f"https://example.org/{key}.jpg",
        "caption": caption,
        "key": key,
        "status": "success" if image else "failed_to_download",
        "error_message": error,
        "width": None, "height": None, "original_width": None, "original_height": None,
        **size,
        "exif": "{}" if image else None,
        "sha256": hashlib.sha256(image).hexdigest() if image else None,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    image = picture(48, 32, "JPEG")
    for shard in ("00000", "00001"):
        members, table = [], []
        for key, caption in CAPTIONS.items():
            if key[:5] == shard:
                facts = facts_of(key, caption, image)
                table.append(facts)
                members += [
                    (f"{key}.jpg", image),
                    (f"{key}.json", json.dumps(facts, indent=4).encode()),
                    (f"{key}.txt", caption.encode()),
                ]
        table += [facts_of(key, "x", error=error) for key, error in FAILED.items() if key[:5] == shard]
        write_tar(tmp_path / f"{shard}.tar", members)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), tmp_path / f"{shard}.parquet")
        (tmp_path / f"{shard}_stats.json").write_text(
            json.dumps({"count": 3, "successes": 2, "failed_to_download": 1})
        )
    return tmp_path


def test_images_and_captions_are_samples(folder):
    data = open_mixture([{"data": f"{folder}/*.tar"}], "quota")
    samples = [sample for _, sample in data.samples()]
    assert len(data.sources[0]) == len(samples) == len(CAPTIONS)
    for sample, (key, caption) in zip(samples[:3], CAPTIONS.items()):
        assert sample.sample_id == f"{key[:5]}.tar:{key}"
        assert [image.content for image in sample.images] == [picture(48, 32, "JPEG")]
        assert sample.messages[-1].parts[0].text.strip() == caption.strip()
    assert isinstance(samples[3], SampleError) and "no answer to train" in samples[3].problem


def test_the_folder_needs_a_pattern_because_of_the_tables(folder):
    with pytest.raises(ValueError, match="holds files of several kinds"):
        open_mixture([{"data": str(folder)}], "quota")


@pytest.fixture
def tables(tmp_path):
    """Shards of `--output_format parquet`: the images are in a column, and failed ones are rows."""
    image = picture(48, 32, "JPEG")
    for shard in ("00000", "00001"):
        rows = []
        for key, text in {**CAPTIONS, **FAILED}.items():
            if key[:5] == shard:
                failed = key in FAILED
                facts = facts_of(key, "x", error=text) if failed else facts_of(key, text, image)
                rows.append({**facts, "jpg": None if failed else image})
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / f"{shard}.parquet")
        (tmp_path / f"{shard}_stats.json").write_text(json.dumps({"count": len(rows)}))
    return tmp_path


def test_rows_of_its_parquet_files_are_samples(tables):
    data = open_mixture([{"data": f"{tables}/*.parquet"}], "quota")
    samples = [sample for _, sample in data.samples()]
    assert len(samples) == len(CAPTIONS) + len(FAILED)
    for sample, caption in zip([samples[0], samples[1], samples[3]], list(CAPTIONS.values())[:3]):
        assert [image.content for image in sample.images] == [picture(48, 32, "JPEG")]
        assert sample.messages[-1].parts[0].text == caption and sample.ignored == ()
    assert isinstance(samples[4], SampleError) and "no answer to train" in samples[4].problem


def test_images_that_it_could_not_download_are_counted_and_named(tables, tmp_path):
    data = open_mixture([{"data": f"{tables}/*.parquet"}], "quota")
    (source,) = prepare(data, tmp_path / "out")["sources"]
    assert (source["records"], source["written"], source["left_out"]) == (6, 3, 3)
    reasons = {reason["example"]["reason"]: (reason["kind"], reason["number"]) for reason in source["reasons"]}
    for problem in FAILED.values():
        assert reasons[f"img2dataset has no image: failed_to_download, {problem}"] == ("filtered", 1)
    lines = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert [line["sample"] for line in lines] == ["00000.parquet:3", "00001.parquet:2", "00001.parquet:3"]
