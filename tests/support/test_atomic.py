"""Files and folders get their name when they are complete, and an error leaves what was there before."""

import os
import resource
from pathlib import Path

import pytest

from smol_hf.support.atomic import atomic_file, atomic_folder
from smol_hf.support.hashing import git_hash, hash_file


def test_a_file_is_replaced_at_the_end_of_the_block(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with atomic_file(path) as incomplete:
        incomplete.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a.json"]


def test_an_error_leaves_the_file_and_the_folder_of_before(tmp_path):
    (tmp_path / "a").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b").write_text("old")
    with pytest.raises(KeyError), atomic_file(tmp_path / "a") as incomplete:
        incomplete.write_text("half")
        raise KeyError
    with pytest.raises(KeyError), atomic_folder(tmp_path / "folder", replace=True) as folder:
        (folder / "c").write_text("half")
        raise KeyError
    assert sorted(os.listdir(tmp_path)) == ["a", "folder"]
    assert (tmp_path / "a").read_text() == "old" and os.listdir(tmp_path / "folder") == ["b"]


def test_a_folder_takes_an_empty_place_and_never_a_full_one(tmp_path):
    for name in ("missing/deep", "empty", "full"):
        (tmp_path / name).mkdir(parents=True) if name != "missing/deep" else None
        if name == "full":
            (tmp_path / name / "mine").write_text("")
            with pytest.raises(OSError), atomic_folder(tmp_path / name) as folder:
                (folder / "b").write_text("")
            assert os.listdir(tmp_path / name) == ["mine"]
        else:
            with atomic_folder(tmp_path / name) as folder:
                (folder / "b").write_text("")
            assert os.listdir(tmp_path / name) == ["b"]
    assert sorted(os.listdir(tmp_path)) == ["empty", "full", "missing"]


def test_replacing_removes_what_a_killed_attempt_left(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("")
    (tmp_path / ".out.1234abcd.incomplete").mkdir()
    (tmp_path / ".outer.1234abcd.incomplete").mkdir()
    (tmp_path / ".out.2.1234abcd.incomplete").mkdir()
    with atomic_folder(tmp_path / "out", replace=True) as folder:
        (folder / "new").write_text("")
    others = [".out.2.1234abcd.incomplete", ".outer.1234abcd.incomplete"]
    assert sorted(os.listdir(tmp_path)) == [*others, "out"], "that of out.2 may be another process's"
    assert os.listdir(tmp_path / "out") == ["new"]


def test_a_failed_replacement_brings_the_older_folder_back(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("")

    def lose(folder, target):
        raise OSError("no space")

    rename = Path.rename
    with pytest.raises(OSError, match="no space"), atomic_folder(tmp_path / "out", replace=True) as folder:
        monkeypatch.setattr(Path, "rename", lambda self, to: (lose if self == folder else rename)(self, to))
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == ["old"]


def test_an_error_leaves_no_folder_above(tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError), atomic_folder(tmp_path / "there" / "a" / "b" / "out"):
        raise ValueError
    assert not os.listdir(tmp_path / "there")


def test_the_file_behind_a_link_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "real" / "file.txt")
    for content in ("new", "newer"):  # at first the file is missing
        with atomic_file(tmp_path / "link.txt") as incomplete:
            incomplete.write_text(content)
        assert (tmp_path / "real" / "file.txt").read_text() == content and (tmp_path / "link.txt").is_symlink()


def test_the_folder_behind_a_link_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "old").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_folder(tmp_path / "link", replace=True) as folder:
        (folder / "new").write_text("")
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]
    assert os.listdir(tmp_path / "real") == ["new"] and (tmp_path / "link").is_symlink()


def test_a_folder_gets_the_modes_of_new_files(tmp_path):
    (tmp_path / "usual").write_text("")
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "secret").write_text("")
        (folder / "secret").chmod(0o600)
    assert (tmp_path / "out" / "secret").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_hashes_are_those_of_git_and_sha256sum(tmp_path):
    (tmp_path / "a").write_bytes(b"Hello, World!")
    assert git_hash(tmp_path / "a") == "b45ef6fec89518d314f546fd6c3025367b721684"
    assert hash_file(tmp_path / "a") == "dffd6021bb2bd5b0af676290809ec3a53191dd81c7f70a4b28688a362182986f"


def test_an_error_of_a_full_disk_names_the_file(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, hard))
    try:
        with (
            pytest.raises(OSError, match=r"File too large: '.*facts.json'"),
            atomic_file(tmp_path / "facts.json") as file,
        ):
            file.write_text("x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []
