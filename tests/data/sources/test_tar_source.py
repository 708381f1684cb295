"""Records of tar shards: every member is read, or named with what is wrong."""

import json
import pickle
import tarfile

import pytest
from shards import write_tar

from smol_hf.data.conversation import SampleError
from smol_hf.data.sources.tar_source import TarSource


def rows(source):
    return [row for block in range(len(source.block_sizes)) for row in source.read_block(block)]


def faults(source):
    return {where: record.problem for where, record in rows(source) if isinstance(record, SampleError)}


def picture(name, content):
    return {"bytes": content, "path": name}


def test_members_of_one_key_are_one_record(tmp_path):
    write_tar(
        tmp_path / "a.tar",
        [
            ("./cats/1.jpg", b"cat"), ("./cats/1.txt", b"A cat.\n"),
            ("cats/2.2.png", b"two"), ("cats/2.10.png", b"ten"),
            ("cats/2.json", json.dumps({"conversations": [], "id": 7}).encode()),
            ("3.json", b'{"texts": [], "source": "x"}'), ("3.WEBP", b"web"), ("3.cls", b"5"), (".hidden", b"x"),
        ],
    )  # fmt: skip
    assert rows(TarSource("x", [str(tmp_path / "a.tar")])) == [
        ("a.tar:cats/1", {"__key__": "cats/1", "image": picture("cats/1.jpg", b"cat"), "caption": "A cat."}),
        ("a.tar:cats/2", {"__key__": "cats/2", "conversations": [], "id": 7,
                          "images": [picture("cats/2.2.png", b"two"), picture("cats/2.10.png", b"ten")]}),
        ("a.tar:3", {"__key__": "3", "__unread__": ["3.cls"], "texts": [], "source": "x",
                     "images": [picture("3.WEBP", b"web")]}),
    ]  # fmt: skip


def test_the_json_says_where_its_pictures_belong(tmp_path):
    write_tar(
        tmp_path / "a.tar",
        [
            ("1.json", b'{"image": "some/other/name.jpg"}'), ("1.jpg", b"only"),
            ("2.json", b'{"images": ["2.b.jpg", "a.jpg"]}'), ("2.a.jpg", b"a"), ("2.b.jpg", b"b"),
            ("3.json", b'{"images": ["3.a.jpg"]}'), ("3.a.jpg", b"a"), ("3.b.jpg", b"b"),
            ("4.json", b'{"images": ["x.jpg", "y.jpg"]}'), ("4.a.jpg", b"a"), ("4.b.jpg", b"b"),
            ("5.mp4", b"film"), ("5.txt", b"A film."),
        ],
    )  # fmt: skip
    source = TarSource("x", [str(tmp_path / "a.tar")])
    (_, one), (_, two), _, _, (_, film) = rows(source)
    assert one["image"] == picture("1.jpg", b"only")
    assert [image["bytes"] for image in two["images"]] == [b"b", b"a"]
    assert film["video"] == picture("5.mp4", b"film")
    problems = faults(source)
    assert "does not name 3.b.jpg" in problems["a.tar:3"] and "names 'x.jpg'" in problems["a.tar:4"]


def test_members_that_stand_apart_belong_together_all_the_same(tmp_path):
    large = b"x" * 600_000  # further apart than what is read at once
    write_tar(tmp_path / "a.tar", [("1.jpg", b"one"), ("2.jpg", large), ("1.txt", b"1"), ("2.txt", b"2")])
    (_, one), (_, two) = rows(TarSource("x", [str(tmp_path / "a.tar")]))
    assert (one["image"]["bytes"], one["caption"]) == (b"one", "1")
    assert (two["image"]["bytes"], two["caption"]) == (large, "2")


def link(name, kind):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    return member, b""


@pytest.mark.parametrize(
    ("members", "where", "problem"),
    [
        ([("1.jpg", b"a"), ("1.txt", b"x"), ("1.jpg", b"b")], "1", "1.jpg is a duplicate"),
        ([("1.json", b'{"a": '), ("1.jpg", b"")], "1", "1.json is not valid JSON"),
        ([("1.json", b'{"a": 1, "a": 2}')], "1", "duplicate key 'a'"),
        ([("1.json", b"[1]")], "1", "holds list"),
        ([("1.txt", b"\xff"), ("1.jpg", b"")], "1", "not UTF-8"),
        ([("1.txt", b"a"), ("1.json", b'{"caption": "b"}')], "1", "different captions"),
        ([link("1.jpg", tarfile.SYMTYPE), ("1.txt", b"x")], "1", "links are not followed"),
        ([link("1.jpg", tarfile.LNKTYPE), ("1.txt", b"x")], "1", "links are not followed"),
        ([("/etc/1.jpg", b""), ("/etc/1.txt", b"x")], "/etc/1", "leads out of the shard"),
        ([("a/../../1.jpg", b""), ("a/../../1.txt", b"x")], "a/../../1", "leads out of the shard"),
        ([("LICENSE", b"")], "LICENSE", "has no ending"),
    ],
)
def test_what_is_wrong_is_named_and_the_rest_is_read(members, where, problem, tmp_path):
    good = [("good.jpg", b"g"), ("good.txt", b"fine")]
    source = TarSource("x", [str(write_tar(tmp_path / "a.tar", [*members, *good]))])
    ((named, found),) = faults(source).items()
    assert named == f"a.tar:{where}" and problem in found
    assert rows(source)[-1][1]["caption"] == "fine"


MEMBERS = [(f"{number}.{kind}", bytes(700)) for number in range(3) for kind in ("jpg", "cls")]


@pytest.mark.parametrize("cut", range(512, 512 * 18 + 1, 256))
def test_a_shard_that_is_cut_off_loses_nothing_without_a_name(cut, tmp_path):
    path = write_tar(tmp_path / "a.tar", MEMBERS, end=False)
    assert path.stat().st_size == 512 * 18
    path.write_bytes(path.read_bytes()[:cut])
    source = TarSource("x", [str(path)])
    last = len(source) - 1
    ((where, problem),) = faults(source).items()
    assert where == f"a.tar:{last}" and "What comes after is lost" in problem
    assert [record["image"]["bytes"] for _, record in rows(source)[:last]] == [bytes(700)] * last


def test_damage_and_tars_put_together_are_noticed(tmp_path):
    path = write_tar(tmp_path / "a.tar", MEMBERS)
    content = bytearray(path.read_bytes())
    other = content.copy()
    content[512 * 6 : 512 * 6 + 100] = b"\x55" * 100
    path.write_bytes(content)
    assert "no member begins at byte 3072" in faults(TarSource("x", [str(path)]))["a.tar:0"]
    path.write_bytes(other + other)
    assert "were tars put together" in faults(TarSource("x", [str(path)]))["a.tar:2"]


def header(name, size, kind=tarfile.REGTYPE, form=tarfile.GNU_FORMAT, records=None):
    member = tarfile.TarInfo(name)
    member.size, member.type, member.pax_headers = size, kind, records or {}
    return member.tobuf(form)


@pytest.mark.parametrize(
    "damaged",
    [
        header("1.json", 0, form=tarfile.PAX_FORMAT, records={"size": str(2**63)}),
        header("1.json", 0, form=tarfile.PAX_FORMAT, records={"size": str(2**63 - 1)}),
        header("1.json", 2**63),  # written base-256
        header("1.json", 2**80),
    ],
)
@pytest.mark.parametrize("good", [0, 1])
def test_a_size_that_no_file_has_is_damage(damaged, good, tmp_path):
    path = write_tar(tmp_path / "a.tar", [("0.txt", b"fine")][:good], end=False)
    path.write_bytes(path.read_bytes()[: good * 1024] + damaged + bytes(2048))
    source = TarSource("x", [str(path)])
    assert [where for where, _ in rows(source)] == ["a.tar:0", "a.tar:1"][1 - good :]
    assert "the shard is damaged here: the header at byte" in faults(source)["a.tar:1"]


@pytest.mark.parametrize("size", [1 << 25, 2**62, 2**80])
@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_an_extended_header_takes_no_memory_by_its_word(kind, size, tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(header("x", size, kind) + bytes(2048))
    with pytest.raises(SampleError, match=r"a\.tar: not readable as tar: an extended header says"):
        TarSource("x", [str(path)])


def test_a_sample_over_the_end_of_a_shard_is_named_in_both(tmp_path):
    write_tar(tmp_path / "a.tar", [("1.jpg", b""), ("1.txt", b"x"), ("2.jpg", b"")])
    write_tar(tmp_path / "b.tar", [("2.txt", b"x"), ("3.jpg", b""), ("3.txt", b"x")])
    write_tar(tmp_path / "c.tar", [("3.jpg", b""), ("3.txt", b"another 3")])
    source = TarSource("x", [str(tmp_path / f"{letter}.tar") for letter in "cba"])
    assert [where for where, _ in rows(source)] == ["a.tar:1", "a.tar:2", "b.tar:2", "b.tar:3", "c.tar:3"]
    assert list(faults(source)) == ["a.tar:2", "b.tar:2"]
    assert "divided between a.tar and b.tar" in faults(source)["a.tar:2"]


@pytest.mark.parametrize("content", [b"", b"no tar at all", b"\x1f\x8b and so on", bytes(100)])
def test_what_is_no_tar_is_refused(content, tmp_path):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(SampleError, match=r"a\.tar: (not readable as tar|is compressed)"):
        TarSource("x", [str(tmp_path / "a.tar")])


def test_long_names_and_other_tars(tmp_path):
    for number, kind in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        path = tmp_path / f"{number}.tar"
        name = "folder/" * 30 + "é" * 60
        with tarfile.open(path, "w", format=kind) as archive:
            (tmp_path / "x").write_text("words")
            archive.add(tmp_path / "x", f"{name}.txt")
            archive.add(tmp_path, "a.folder", recursive=False)
        ((where, record),) = rows(TarSource("x", [str(path)]))
        assert where == f"{number}.tar:{name}" and record["caption"] == "words"


def test_the_fingerprint_knows_names_and_content_and_a_copy_reads_the_same(tmp_path):
    prints = set()
    for name, content in (("2.txt", b"b"), ("1.txt", b"a"), ("1.txt", b"aa"), ("2.txt", b"a")):
        source = TarSource("x", [str(write_tar(tmp_path / "a.tar", [(name, content)]))])
        prints.add(source.fingerprint)
    assert len(prints) == 4
    copy = pickle.loads(pickle.dumps(source))
    copy.prefix = "p/"
    assert rows(copy)[0][0] == "p/a.tar:2" and rows(copy)[0][1] == rows(source)[0][1]
    (tmp_path / "a.tar").write_bytes(bytes(512))
    assert "was it written anew" in faults(source)["a.tar:2"]
