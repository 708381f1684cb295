"""Sources on the Hub, fetched by the real client from a server of our own."""

import pytest
import torch
from conversion.native_models import llama, saved
from huggingface_hub import constants
from processes import call
from safetensors.torch import load_file
from servers import Hub, serve

from smol_hf.conversion.checkpoint_files import locate
from smol_hf.conversion.formats.tensor_names import ConversionError


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("repositories")
    for branch in ("main", "other"):
        model = saved(llama, place / branch)
        if branch == "other":
            with torch.no_grad():
                model.model.norm.weight += 1
            model.save_pretrained(place / branch)
        (place / branch / "evil.py").write_text("raise SystemExit('this ran')")
        (place / branch / "pytorch_model.pkl").write_bytes(b"not wanted")
    return place


@pytest.fixture
def hub(folders):
    return Hub({("me/tiny", branch): folders / branch for branch in ("main", "other")})


@pytest.fixture
def smol_hf(monkeypatch):
    """The command for a Hub at an address, with an empty cache for each home."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def run(address, home, *arguments):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        return call(arguments)

    return run


def norm(folder):
    return load_file(folder / "model.safetensors")["model.norm.weight"]


def test_a_model_of_the_hub_is_fetched_without_its_code(hub, folders, smol_hf, tmp_path):
    with serve(hub) as address:
        finished = smol_hf(address, tmp_path / "home", "convert", "me/tiny", tmp_path / "ours")
        assert finished.returncode == 0, finished.stderr
        fetched = {path.rpartition("/")[2] for verb, path in hub.requests if "/resolve/" in path and verb == "GET"}
        assert {"config.json", "model.safetensors"} <= fetched
        assert not {"evil.py", "pytorch_model.pkl"} & fetched
        assert torch.equal(norm(tmp_path / "ours"), norm(folders / "main"))
    # What is in the cache needs no server.
    finished = smol_hf(address, tmp_path / "home", "convert", "me/tiny", tmp_path / "again", "--local-files-only")
    assert finished.returncode == 0, finished.stderr
    finished = smol_hf(address, tmp_path / "empty", "convert", "me/tiny", tmp_path / "none", "--local-files-only")
    assert finished.returncode == 1 and "not found in the local cache" in finished.stderr


def test_a_revision_is_a_branch_or_a_commit(hub, folders, smol_hf, tmp_path):
    commit, _ = hub.commit("me/tiny", "other")
    with serve(hub) as address:
        for revision in ("other", commit):
            output = tmp_path / revision
            finished = smol_hf(address, tmp_path / "home", "convert", "me/tiny", output, "--revision", revision)
            assert finished.returncode == 0, finished.stderr
            assert torch.equal(norm(output), norm(folders / "other"))
        finished = smol_hf(address, tmp_path / "home", "convert", "me/tiny", tmp_path / "none", "--revision", "gone")
    assert finished.returncode == 1 and "gone" in finished.stderr
    assert not (tmp_path / "none").exists()


def test_a_gated_model_needs_its_token(hub, smol_hf, tmp_path):
    hub.token = "hf_secret"
    with serve(hub) as address:
        refused = smol_hf(address, tmp_path / "home", "convert", "me/tiny", tmp_path / "ours")
        assert refused.returncode == 1 and "cannot be downloaded from the Hub" in refused.stderr
        assert "Traceback" not in refused.stderr and not (tmp_path / "ours").exists()
        finished = smol_hf(address, tmp_path / "home", "convert", "me/tiny", tmp_path / "ours", "--token", "hf_secret")
        assert finished.returncode == 0, finished.stderr
        assert "hf_secret" not in finished.stdout + finished.stderr


def test_a_model_that_is_not_there_is_an_error(hub, smol_hf, tmp_path):
    with serve(hub) as address:
        finished = smol_hf(address, tmp_path / "home", "convert", "me/other", tmp_path / "ours")
    assert finished.returncode == 1 and "me/other: cannot be downloaded from the Hub" in finished.stderr


@pytest.mark.parametrize("source", ["./nowhere", "nowhere", "/no/where", "a/b/c", "~/nowhere-at-all"])
def test_what_is_no_hub_id_is_a_path_that_is_missing(source):
    with pytest.raises(ConversionError, match="no such file or folder"):
        locate(source)
