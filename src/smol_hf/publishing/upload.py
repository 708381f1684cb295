"""Publish on the Hub: create repository and branch, commit all files, and verify the result.

All files are in one commit, so a branch never contains half a checkpoint. Large files are sent first, by hash: after
an interrupted upload, the next one sends only missing files.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile

from smol_hf.conversion.checkpoint_files import ADAPTER_CONFIG, INDEXES, read_json
from smol_hf.publishing.contents import NETWORK_ERRORS, HTTPError, PublishError
from smol_hf.publishing.plan import MAIN, Publication
from smol_hf.support.atomic import atomic_file
from smol_hf.support.formatting import one_line

if TYPE_CHECKING:
    from smol_hf.publishing.space.space import Space

LOG_IN = "log in with `hf auth login`, set HF_TOKEN, or give --token; the token needs write access"
AGAIN = "Run the command again: files that arrived are not sent again"
OF_THE_HUB = (".gitattributes",)


@dataclass(frozen=True)
class Published:
    """A published checkpoint or Space.

    Args:
        is_new: False if nothing had changed; then there is no new commit.
        private: whether the model's repository is private.
        revision: the branch, or the branch of the pull request.
        verified: number of files whose hashes were compared.
        others: further files of the repository.
    """

    url: str
    commit: str
    is_new: bool
    private: bool
    revision: str = MAIN
    verified: int = 0
    others: tuple[str, ...] = ()


def publish(publication: Publication, *, token: str | None = None, replace_weights: bool = False) -> Published:
    """Write the edits to the folder, upload it, and compare the hashes on the Hub with the files.

    Args:
        token: of the Hub; by default the token of this login.
        replace_weights: in the same commit, delete earlier weights that these files do not overwrite.

    Raises:
        PublishError: if the publication has problems, the Hub refuses, the repository has other weights, the files on
            the Hub differ from those that were sent, or the upload was interrupted (a new call continues it).
    """
    if publication.problems:
        raise PublishError("\n".join(publication.problems))
    api, repository, branch = HfApi(token=token), publication.repository, publication.branch
    with hub_errors(repository, "prepared"):
        before = prepare(api, publication)
        old = old_weights(api, publication)
    if old and not replace_weights:
        raise PublishError(
            f"{repository} has other weights, which could be loaded instead of these: {', '.join(old)}. "
            "Delete them in the same commit with --replace-weights, or choose another --branch"
        )
    write_edits(publication)
    folder = publication.contents.folder
    additions = [CommitOperationAdd(name, str(folder / name)) for name in publication.contents.files]
    with hub_errors(repository, "written to"):
        commit = api.create_commit(
            repository,
            operations=[*additions, *map(CommitOperationDelete, old)],
            commit_message=publication.message,
            revision=branch,
            create_pr=publication.create_pr,
            parent_commit=before.sha,
        )
    with hub_errors(repository, "checked"):
        found = api.verify_repo_checksums(repository, local_dir=folder, revision=commit.oid)
    not_as_sent = {entry["path"] for entry in found.mismatches} | set(found.extra_paths)
    wrong = [name for name in publication.contents.files if name in not_as_sent]
    if wrong:
        raise PublishError(
            f"{repository} at {commit.oid} differs from what was sent: {', '.join(wrong)}. Run the command again; a "
            ".gitignore in the repository may hide files"
        )
    return Published(
        url=commit.pr_url or f"{api.endpoint}/{repository}" + ("" if branch == MAIN else f"/tree/{branch}"),
        revision=commit.pr_revision or branch,
        commit=commit.oid,
        is_new=commit.oid != before.sha,
        private=bool(before.private),
        verified=len(publication.contents.files),
        others=tuple(name for name in found.missing_paths if name not in OF_THE_HUB),
    )


def publish_space(
    space: Space, *, private: bool = False, message: str | None = None, token: str | None = None
) -> Published:
    """Create the Space if it is missing, and send its files; other files in it are kept.

    Raises:
        PublishError: if the Space has no name, its model is not on the Hub, or the Hub refuses.
    """
    if space.repository is None:
        raise PublishError(
            f"{space.model_id} is a local folder: publish it first, then its Space with the same OWNER/NAME"
        )
    api, name = HfApi(token=token), space.repository
    with hub_errors(name, "prepared"):
        try:
            model = api.model_info(space.model_id, revision=space.revision)
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            where = f"{space.model_id} (revision {space.revision})" if space.revision else space.model_id
            raise PublishError(
                f"{where} is not on the Hub, or this login cannot see it: publish the model first "
                f"(smol-hf publish CHECKPOINT {space.model_id} --yes)"
            ) from error
    with hub_errors(name, "written to"):
        api.create_repo(name, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
        before = api.space_info(name)
        if private and not before.private:
            raise PublishError(f"{name} exists and is public: make it private first, or leave out --private")
        commit = api.create_commit(
            name,
            repo_type="space",
            operations=[CommitOperationAdd(path, content) for path, content in space.files.items()],
            commit_message=message or f"The Space of {space.model_id}, by smol_hf",
            parent_commit=before.sha,
        )
    return Published(
        url=f"{api.endpoint}/spaces/{name}",
        commit=commit.oid,
        is_new=commit.oid != before.sha,
        private=bool(model.private),
    )


def prepare(api: HfApi, publication: Publication) -> ModelInfo:
    """Create repository and branch if they are missing, and return their state before the upload."""
    repository, branch = publication.repository, publication.branch
    if not publication.create_pr:
        api.create_repo(repository, private=publication.private, exist_ok=True)
    if publication.private and not api.model_info(repository).private:
        raise PublishError(
            f"{repository} exists and is public: make it private at {api.endpoint}/{repository}/settings, choose "
            "another name, or leave out --private"
        )
    if branch != MAIN and not branch.startswith("refs/") and not publication.create_pr:
        api.create_branch(repository, branch=branch, exist_ok=True)
    return api.model_info(repository, revision=branch)


def old_weights(api: HfApi, publication: Publication) -> list[str]:
    """Name weights on the branch that the new files do not overwrite, and that transformers may load instead."""
    names = [
        entry.path
        for entry in api.list_repo_tree(publication.repository, revision=publication.branch)
        if isinstance(entry, RepoFile)
    ]
    weights = [name for name in names if name.endswith((".safetensors", "pytorch_model.bin")) or name in INDEXES]
    return sorted(set(weights) - set(publication.contents.files))


def write_edits(publication: Publication) -> None:
    """Write each file in one step: after an interruption the folder can be published again."""
    for name, text in publication.edits.items():
        with atomic_file(publication.contents.folder / name) as path:
            path.write_text(text, encoding="utf-8", newline="\n")


def loading_lines(publication: Publication, revision: str) -> str:
    """Write five lines of Python that load the publication."""
    repository, contents = json.dumps(publication.repository), publication.contents
    at = "" if revision == MAIN else f", revision={json.dumps(revision)}"
    is_vlm = "processor_config.json" in contents.files
    model, texts = ("ImageTextToText", "Processor") if is_vlm else ("CausalLM", "Tokenizer")
    if contents.is_adapter:
        base = json.dumps(read_json(contents.folder / ADAPTER_CONFIG)["base_model_name_or_path"])
        lines = [
            "from peft import PeftModel",
            f"from transformers import AutoModelFor{model}",
            "",
            f"base = AutoModelFor{model}.from_pretrained({base}, trust_remote_code=True)",
            f"model = PeftModel.from_pretrained(base, {repository}{at})",
        ]
    else:
        code = ", trust_remote_code=True" if any(name.endswith(".py") for name in contents.files) else ""
        lines = [
            f"from transformers import AutoModelFor{model}, Auto{texts}",
            "",
            f"checkpoint = {repository}",
            f"{texts.lower()} = Auto{texts}.from_pretrained(checkpoint{at}{code})",
            f"model = AutoModelFor{model}.from_pretrained(checkpoint{at}{code})",
        ]
    return "\n".join(lines)


@contextlib.contextmanager
def hub_errors(repository: str, action: str) -> Iterator[None]:
    """Turn errors of the Hub's client into a PublishError on one line that says what to do."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise PublishError(f"HF_HUB_OFFLINE is set, so {repository} cannot be reached: unset it") from error
    except HfHubHTTPError as error:
        raise PublishError(f"{repository} could not be {action}: {reason_of(error, repository)}") from error
    except RuntimeError as error:  # of a thread that sent a file
        cause = error.__cause__ if isinstance(error.__cause__, NETWORK_ERRORS) else error
        reason = reason_of(cause, repository) if isinstance(cause, HfHubHTTPError) else one_line(cause)
        raise PublishError(
            f"the upload to {repository} was interrupted ({one_line(error).rstrip('.')}: {reason}). {AGAIN}"
        ) from error
    except (HTTPError, ConnectionError, TimeoutError) as error:
        raise PublishError(
            f"{repository} could not be {action}: {HfApi().endpoint} does not answer ({type(error).__name__}: "
            f"{one_line(error)}). {AGAIN}"
        ) from error


def reason_of(error: HfHubHTTPError, repository: str) -> str:
    status = error.response.status_code
    said = one_line(error.server_message).rstrip(".") if error.server_message else error.response.reason_phrase
    answer = f"the Hub answered {status} ({said})"
    changed = "the repository was changed meanwhile; run the command again"
    advice = {
        401: LOG_IN,
        403: f"this login has no write access; join {repository.split('/')[0]}, or use a token with write access",
        404: f"the repository or branch is missing, or this login cannot see it; {LOG_IN}",
        409: changed,
        412: changed,
    }
    return f"{answer}: {advice[status]}" if status in advice else answer
