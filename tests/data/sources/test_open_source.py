"""What `data` may name; and that every kind of source gives the same packed rows to any workers, after any stop."""

import json
from dataclasses import dataclass

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from shards import write_tar

from smol_hf import train
from smol_hf.data.conversation import SampleError
from smol_hf.data.digits import build_pages
from smol_hf.data.media.images import open_encoded
from smol_hf.data.mixture.mixture import MixtureEntry
from smol_hf.data.records.filters import Filters, RecordReader
from smol_hf.data.sources import json_source, parquet_source
from smol_hf.data.sources.location import open_location
from smol_hf.data.stream.stream import Plan, RowStream

ROWS = 90


@pytest.fixture(scope="module")
def pages():
    return [
        (page.conversation.images[0].content, f"A page with {page.answer}.")
        for page in build_pages(ROWS, seed=0, split="train")
    ]


def png_members(pages, first, last):
    for number in range(first, last):
        yield f"{number:05d}.png", pages[number][0]
        yield f"{number:05d}.txt", pages[number][1].encode()


def write_all(folder, pages):
    """The same samples as every kind of source; what `data` calls each."""
    for name in ("lines", "tars", "tables", "pictures"):
        (folder / name).mkdir()
    records = [{"image": f"pictures/{number:05d}.png", "caption": text} for number, (_, text) in enumerate(pages)]
    for number, (image, text) in enumerate(pages):
        (folder / "pictures" / f"{number:05d}.png").write_bytes(image)
        (folder / "pictures" / f"{number:05d}.txt").write_text(text)
    for part in range(3):
        span = slice(part * 30, part * 30 + 30)
        lines = "".join(json.dumps(record) + "\n" for record in records[span])
        (folder / "lines" / f"{part}.jsonl").write_text(lines)
        write_tar(folder / "tars" / f"{part:03d}.tar", png_members(pages, span.start, span.stop))
        table = [{"image": {"bytes": image, "path": None}, "caption": text} for image, text in pages[span]]
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist(table), folder / "tables" / f"{part}.parquet", row_group_size=7
        )
    (folder / "all.json").write_text(json.dumps(records))
    return {
        "files of a pattern": f"{folder}/lines/*.jsonl",
        "array": f"{folder}/all.json",
        "shards": f"{folder}/tars/{{000..002}}.tar",
        "folder of shards": f"{folder}/tars",
        "folder of tables": f"{folder}/tables",
        "pictures": f"{folder}/pictures",
    }


@dataclass
class Measured:
    name: str
    text: str
    image: object
    num_tokens: int
    num_tiles: int = 0


class Sizes:
    """Work without a tokenizer: a sample is as long as its caption and its name make it."""

    def __init__(self, reader):
        self.reader = reader

    def prepare(self, source, where, record):
        conversation = self.reader(where, record)
        text = conversation.messages[1].parts[0].text
        return Measured(where, text, conversation.images[0], 30 + hash_of(where) % 200)

    def encode(self, source, prepared):
        with open_encoded(prepared.image) as image:
            return prepared.name, prepared.text, image.read()


def hash_of(text):
    return sum(map(ord, text)) * 7919


def sequence(source, reader, number, workers=0, states=None):
    plan = Plan([source], [1.0], Sizes(reader), 600, seed=5, lanes=4, pool_size=16, rounds=None)
    stream = RowStream(plan, workers=workers, states=dict(states or {}))
    rows = iter(stream)
    found = [next(rows).samples for _ in range(number)]
    return found, {int(lane): state for lane, state in json.loads(json.dumps(stream.state_dict())).items()}


def check_source(data, pages, **keys):
    """The rows of a source, each sample with its own picture, are the same for any workers and after a stop."""
    source, reader = MixtureEntry(data, **keys).open()
    assert len(source) == ROWS
    expected, _ = sequence(source, reader, 64)
    samples = [sample for row in expected for sample in row]
    assert len(samples) > ROWS and {sample[1:] for sample in samples} == {(text, image) for image, text in pages}
    assert len({name for name, _, _ in samples}) == ROWS
    before, states = sequence(source, reader, 14, workers=2)
    after, _ = sequence(MixtureEntry(data, **keys).open()[0], reader, 50, workers=0, states=states)
    assert before + after == expected


def test_every_kind_of_source_goes_on_exactly(pages, tmp_path):
    for kind, data in write_all(tmp_path, pages).items():
        keys = {"image_folder": str(tmp_path)} if kind in ("files of a pattern", "array") else {}
        check_source(data, pages, **keys)


def test_every_kind_of_source_elsewhere_goes_on_exactly(pages, tmp_path, monkeypatch):
    monkeypatch.setattr(json_source, "BLOCK", 700)
    for module in (json_source, parquet_source):
        monkeypatch.setattr(module, "SMALL", 0)
    memory = fsspec.filesystem("memory")
    for kind, data in write_all(tmp_path, pages).items():
        memory.put(f"{tmp_path}/", "/bucket/", recursive=True)
        keys = {"image_folder": str(tmp_path)} if kind in ("files of a pattern", "array") else {}
        check_source(data.replace(str(tmp_path), "memory://bucket"), pages, **keys)
    memory.rm("/bucket", recursive=True)


def test_records_from_elsewhere_open_no_file_here(pages, tmp_path):
    memory = fsspec.filesystem("memory")
    (tmp_path / "secret.png").write_bytes(pages[0][0])
    record = json.dumps({"image": str(tmp_path / "secret.png"), "caption": "x"})
    memory.pipe("/s/a.jsonl", record.encode())
    write_tar(tmp_path / "a.tar", [("1.json", record.encode())])
    for data, keys in (
        ("memory://s/a.jsonl", {}), (f"{tmp_path}/a.tar", {}), ("memory://s/a.jsonl", {"image_folder": str(tmp_path)}),
    ):  # fmt: skip
        source, reader = MixtureEntry(data, **keys).open()
        with pytest.raises(SampleError, match=r"must hold its bytes|outside the folder of media"):
            reader(*source.read_block(0)[0])
    memory.rm("/s", recursive=True)


@pytest.mark.parametrize(
    ("files", "data", "error", "message"),
    [
        (["a.jsonl", "b.parquet"], "", ValueError, r"several kinds \(a\.jsonl, b\.parquet\)"),
        (["a.tar.gz"], "a.tar.gz", SampleError, "is compressed: uncompress it"),
        (["a.tgz"], "", SampleError, "is compressed: uncompress it"),
        (["in/a.tar"], "", FileNotFoundError, r"in/a\.tar is inside: name that folder, or a pattern such as"),
        (["a.csv"], "", FileNotFoundError, "no image"),
        (["a.txt"], "*.txt", None, ""),
        (["a.txt", "b.txt"], "*.txt", ValueError, r"\.txt: the supported kinds are \.jsonl"),
        (["a.csv", "b.csv"], "*.csv", ValueError, r"is a table of kind \.csv: convert it to JSON lines first"),
        (["metadata.jsonl", "a.jsonl", "p.png"], "", ValueError, "has both a.jsonl and metadata.jsonl"),
        (["info.json", "p.txt", "p.png"], "", ValueError, r"has both info.json and p\.txt, which is about images"),
        ([], "none.jsonl", FileNotFoundError, "does not exist"),
        ([], "part-*.jsonl", FileNotFoundError, "there is no data file"),
    ],
)
def test_what_cannot_be_told_apart_is_refused_by_name(files, data, error, message, tmp_path):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    if error is None:
        assert len(open_location(f"{tmp_path}/{data}").source) == 0
        return
    with pytest.raises(error, match=message):
        open_location(f"{tmp_path}/{data}".rstrip("/"))


def test_a_path_that_looks_like_a_pattern_is_a_path(tmp_path):
    (tmp_path / "a[1].jsonl").write_text('{"a": 1}\n')
    assert len(open_location(str(tmp_path / "a[1].jsonl")).source) == 1


def test_a_dataset_is_read_by_the_adapter_that_knows_its_id(pages):
    record = {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "image": pages[0][0]}
    known = RecordReader(None, None, Filters(), inside_only=True, dataset="orrzohar/Video-STaR")
    assert known("x:1", record).images  # its records have no placeholders
    with pytest.raises(SampleError, match="<image>"):
        RecordReader(None, None, Filters(), inside_only=True, dataset="me/unknown")("x:1", record)


def test_keys_of_the_hub_are_refused_for_files(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="config and split belong to a dataset of the Hub"):
        open_location(str(tmp_path / "a.jsonl"), config="x", split="train")


def test_a_run_trains_on_shards_and_names_what_is_bad(pages, tmp_path, capsys):
    write_tar(tmp_path / "a.tar", [*png_members(pages, 0, 20), ("bad.png", b"no picture"), ("bad.txt", b"x")])
    recipe = ["--preset", "tiny-vlm", "--context_length", "128", "--use_cpu", "true", "--save_strategy", "no"]
    recipe += ["--data", f"{tmp_path}/a.tar", "--output_dir", f"{tmp_path}/run", "--max_steps", "2"]
    assert train.main([*recipe, "--sample_packing", "true", "--on_bad_sample", "skip"]) == 0
    assert "20 samples from a.tar; 1 sample left out" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "skipped.jsonl").read_text())["sample"] == "a.tar:bad"


def test_the_ledgers_of_a_folder_are_no_data(tmp_path):
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
    (tmp_path / "data.jsonl").write_text(json.dumps(row) + "\n")
    for name in ("skipped.jsonl", "shortened.jsonl"):
        (tmp_path / name).write_text(json.dumps({"sample": "a:1", "reason": "damaged"}) + "\n")
    source = open_location(str(tmp_path)).source
    assert [where for where, _ in source.read_block(0)] == ["data.jsonl:1"] and len(source) == 1


@pytest.mark.parametrize("kind", ["pictures", "tars", "tables", "lines"])
def test_a_folder_is_found_by_a_relative_path_with_dots_and_by_a_link(kind, tmp_path, pages, monkeypatch):
    write_all(tmp_path, pages)
    (tmp_path / "work").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / kind)
    straight = open_location(str(tmp_path / kind))
    monkeypatch.chdir(tmp_path / "work")
    for folder in (f"../{kind}", f"../work/../{kind}/", "../linked"):
        opened = open_location(folder)
        assert len(opened.source) == len(straight.source) == ROWS
        assert opened.source.read_block(0) == straight.source.read_block(0)
        assert opened.source.fingerprint == straight.source.fingerprint
        assert not isinstance(opened.source.read_block(0)[0][1], SampleError)
    monkeypatch.chdir(tmp_path / kind)
    assert open_location(".").source.name == open_location("../work/..//" + kind).source.name == kind


def test_a_table_is_refused_with_a_way_to_convert_it(tmp_path):
    (tmp_path / "data.csv").write_text("question,answer\na,b\n")
    with pytest.raises(ValueError, match=r'data.csv is a table of kind .csv: convert it .*load_dataset\("csv"'):
        open_location(str(tmp_path / "data.csv"))
