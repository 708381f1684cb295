"""A Hub dataset → the files of one split, at one commit.

`datasets` knows the files of a configuration and a split. The commit is looked up once, and all files are read at it.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from smol_hf.data.sources.files import HTTPError
from smol_hf.support.formatting import nearest

PREFIX = "hf://datasets/"
# owner/name without a revision, and not the name of a file.
ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILE = re.compile(r"\.(jsonl|ndjson|json|parquet|tar|gz|tgz|zip|csv|txt)$", re.IGNORECASE)
ADDRESS = re.compile(r"hf://datasets/(?P<id>[^/@]+/[^/@]+)(@(?P<revision>refs/[^/]+/[^/]+|[^/]+))?(?P<rest>/.*)?")
SHOWN = 20


@dataclass(frozen=True)
class HubDataset:
    """The `files` of one split, as URLs at `revision` (a commit) or as paths after a download.

    `root`: their common start. `name`: of the dataset, with its configuration if it has several.
    """

    repository: str
    revision: str
    config: str
    split: str
    files: list[str]
    root: str
    name: str


def hub_id(data: str) -> str | None:
    """Return `owner/name` (or `owner/name@revision`) if `data` names a Hub dataset, and None for a local path."""
    if match := ADDRESS.fullmatch(data.rstrip("/")):
        rest = match["rest"] or ""
        return data.rstrip("/").removeprefix(PREFIX) if not rest else None
    if not ID.fullmatch(data) or FILE.search(data):
        return None
    return None if os.path.exists(data) or Path(data).parent.is_dir() else data


def pinned(data: str) -> str:
    """Return the URL of a Hub file at the current commit of its branch; any other text unchanged."""
    match = ADDRESS.fullmatch(data)
    if match is None:
        return data
    return f"{PREFIX}{match['id']}@{commit_of(match['id'], match['revision'])}{match['rest'] or ''}"


def repository_of(data: str) -> str | None:
    """Return the Hub dataset of a URL."""
    match = ADDRESS.fullmatch(data)
    return match and match["id"]


def commit_of(repository: str, revision: str | None) -> str:
    """Return the current commit. Raises FileNotFoundError, PermissionError or ConnectionError."""
    with hub_errors(repository, revision):
        facts = HfApi().dataset_info(repository, revision=revision)
        if facts.gated:
            HfApi().auth_check(repository, repo_type="dataset")
        return str(facts.sha)


@contextlib.contextmanager
def hub_errors(repository: str, revision: str | None) -> Iterator[None]:
    """Raise the errors of the Hub's client as errors that say what to do."""
    try:
        yield
    except GatedRepoError as error:
        raise PermissionError(
            f"the dataset {repository} is gated: ask for access at {HfApi().endpoint}/datasets/{repository}, then log "
            "in with `hf auth login` or set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(f"the dataset {repository} has no revision {revision!r}") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise FileNotFoundError(
            f"there is no dataset {repository} on the Hub (a private one needs `hf auth login`), and no file or "
            "folder of this name here"
        ) from error
    except OfflineModeIsEnabled as error:
        raise ConnectionError(
            f"the dataset {repository} is on the Hub, and HF_HUB_OFFLINE forbids asking it: unset it, or name files "
            "that are here"
        ) from error
    except (HTTPError, ConnectionError, TimeoutError) as error:
        what = "refuses" if isinstance(error, HfHubHTTPError) else "cannot be reached for"
        raise ConnectionError(f"the Hub {what} the dataset {repository} ({type(error).__name__}: {error})") from error


def find_dataset(
    name: str, config: str | None = None, split: str | None = None, revision: str | None = None, download: bool = False
) -> HubDataset:
    """Return the files of a split.

    Args:
        name: `owner/name`, or `owner/name@revision`.
        config: required if the dataset has several and no default.
        split: "train" by default.
        revision: branch, tag or commit; the main branch by default.
        download: download the files first, instead of reading ranges when needed.

    Raises:
        FileNotFoundError: for a missing dataset or revision. ValueError: for an unknown configuration or split, with
            the known ones. PermissionError: for a gated dataset. ConnectionError: for an unreachable Hub.
    """
    import datasets
    from datasets.data_files import EmptyDatasetError
    from datasets.exceptions import DataFilesNotFoundError

    repository, _, written = name.partition("@")
    if written and revision not in (None, written):
        raise ValueError(f"{name} and revision {revision!r} are different revisions: keep one of them")
    revision, split = revision or written or None, split or "train"
    commit = commit_of(repository, revision)
    bars = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        with hub_errors(repository, revision):
            builder = builder_of(repository, config, commit)
    except (DataFilesNotFoundError, EmptyDatasetError) as error:
        raise ValueError(f"the dataset {repository} has no data files that `datasets` knows: {error}") from error
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        raise ValueError(
            f"the dataset {repository} is made by a script, which is never run here: take its converted files with "
            "revision refs/convert/parquet"
        ) from error
    finally:
        if bars:
            datasets.enable_progress_bars()
    configs, config = list(builder.builder_configs), builder.config.name
    splits = builder.config.data_files or {}
    if split not in splits:
        known = [str(each) for each in splits]
        of = f"the dataset {repository} (config {config})"
        raise ValueError(f"{of} has no split {split!r}{nearest(split, known)} (there are {', '.join(known)})")
    root = f"{PREFIX}{repository}@{commit}"
    files = sorted(str(url) for url in splits[split])
    if outside := [url for url in files if not url.startswith(root + "/")]:
        raise ValueError(f"{repository} (config {config}) takes {outside[0]} from elsewhere: name that dataset itself")
    if download:
        root, files = fetched(repository, commit, [url.removeprefix(root + "/") for url in files])
    label = f"{repository}/{config}" if len(configs) > 1 else repository
    return HubDataset(repository, commit, config, split, files, root, label)


def builder_of(repository: str, config: str | None, commit: str):
    """Return the builder of a configuration. Raises ValueError for an unknown one, with the known ones."""
    import datasets

    try:
        return datasets.load_dataset_builder(repository, config, revision=commit)
    except ValueError as error:
        configs = datasets.get_dataset_config_names(repository, revision=commit)
        shown = ", ".join(configs[:SHOWN]) + (f" and {len(configs) - SHOWN} more" if len(configs) > SHOWN else "")
        if config is None and len(configs) > 1:
            raise ValueError(f"the dataset {repository} has several configs: name one of {shown}") from error
        if config is not None and config not in configs:
            hint = nearest(config, configs)
            raise ValueError(f"the dataset {repository} has no config {config!r}{hint} (there are {shown})") from error
        raise


def fetched(repository: str, commit: str, names: list[str]) -> tuple[str, list[str]]:
    """(folder, paths) of files that were downloaded, or lay in the cache."""
    with hub_errors(repository, commit):
        folder = snapshot_download(
            repository, repo_type="dataset", revision=commit, allow_patterns=[glob.escape(name) for name in names]
        )
    paths = [os.path.join(folder, name) for name in names]
    if missing := [path for path in paths if not os.path.isfile(path)]:
        raise FileNotFoundError(f"{missing[0]} of the dataset {repository} was not downloaded")
    return folder, paths
