from pathlib import Path

import pytest


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with a story."""
    from story_runs import SENTENCES

    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text("".join(SENTENCES))
    return tmp_path
