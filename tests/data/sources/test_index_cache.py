"""The places of records in remote files, found once."""

from smol_hf.data.sources import files as index_cache
from smol_hf.data.sources.files import remembered


def test_an_index_is_made_once_while_the_file_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(index_cache, "cached_assets_path", lambda *names: tmp_path)
    state = ["etag 1"]
    monkeypatch.setattr(index_cache, "remote_fingerprint", lambda url: [10, *state])
    made = []

    def build():
        made.append(1)
        return {"found": len(made)}

    assert [remembered("s3://b/a.tar", "tar 1", build) for _ in range(3)] == [{"found": 1}] * 3
    assert remembered("s3://b/a.tar", "tar 2", build) == {"found": 2}
    state[0] = "etag 2"
    assert remembered("s3://b/a.tar", "tar 1", build) == {"found": 3}
    for path in tmp_path.iterdir():
        path.write_text('{"cut')
    assert remembered("s3://b/a.tar", "tar 1", build) == {"found": 4}
    state.clear()  # a store that says nothing about the content
    assert [remembered("s3://b/a.tar", "tar 1", build)["found"] for _ in range(2)] == [5, 6]
