"""A publication carried out: repository, branch, one commit with every file, and a look at what arrived.

All files come in one commit, so a branch never holds half a checkpoint. Large files are sent before it, under their
hashes: where an upload broke off, the next one sends only what the Hub does not have.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from smol_hf.conversion.checkpoint_files import ADAPTER_CONFIG, INDEXES, read_json
from smol_hf.publishing.contents import PublishError
from smol_hf.publishing.plan import MAIN, Publication
from smol_hf.support.atomic import atomic_file

LOG_IN = "log in with `hf auth login`, set HF_TOKEN, or give --token; the token needs the right to write"
OF_THE_HUB = (".gitattributes",)


@dataclass(frozen=True)
class Published:
    """Where it is now. `revision` is the branch, or that of the pull request; `others` are files that it holds beside
    the `verified` ones. Where nothing had changed, `is_new` is False and there is no new commit."""

    address: str
    revision: str
    commit: str
    is_new: bool
    private: bool
    verified: int
    others: tuple[str, ...]


def publish(publication: Publication, *, token: str | None = None, replace_weights: bool = False) -> Published:
    """Write the edits into the folder, upload it, and compare what the Hub then has with it, hash by hash.

    Args:
        token: of the Hub; by default the one of this login.
        replace_weights: delete weights of an earlier publication that these files do not overwrite, in the same
            commit.

    Raises:
        PublishError: when the publication has problems; when the Hub refuses; when other weights are in the way; when
            the upload broke off (call again: what arrived is not sent again); when what arrived is not what was sent.
    """
    if publication.problems:
        raise PublishError("\n".join(publication.problems))
    api, repository, branch = HfApi(token=token), publication.repository, publication.branch
    with hub_errors(publication, "prepared"):
        before = prepare(api, publication)
        old = old_weights(api, publication)
    if old and not replace_weights:
        raise PublishError(
            f"{repository} holds other weights, which would be loaded beside these or instead of them: "
            f"{', '.join(old)}. --replace-weights deletes them in the same commit; --branch takes another branch"
        )
    write_edits(publication)
    folder = publication.contents.folder
    additions = [CommitOperationAdd(name, str(folder / name)) for name in publication.contents.files]
    with hub_errors(publication, "written to"):
        commit = api.create_commit(
            repository,
            operations=[*additions, *map(CommitOperationDelete, old)],
            commit_message=publication.message,
            revision=branch,
            create_pr=publication.create_pr,
            parent_commit=before.sha,
        )
    with hub_errors(publication, "checked"):
        found = api.verify_repo_checksums(repository, local_dir=folder, revision=commit.oid)
    not_as_sent = {entry["path"] for entry in found.mismatches} | set(found.extra_paths)
    wrong = [name for name in publication.contents.files if name in not_as_sent]
    if wrong:
        raise PublishError(
            f"{repository} at {commit.oid} does not hold what was sent: {', '.join(wrong)}. Call again; a .gitignore "
            "there may hide files"
        )
    revision = commit.pr_revision or branch
    address = commit.pr_url or f"{api.endpoint}/{repository}" + ("" if branch == MAIN else f"/tree/{branch}")
    others = tuple(name for name in found.missing_paths if name not in OF_THE_HUB)
    return Published(
        address=address,
        revision=revision,
        commit=commit.oid,
        is_new=commit.oid != before.sha,
        private=bool(before.private),
        verified=len(publication.contents.files),
        others=others,
    )


def prepare(api: HfApi, publication: Publication) -> ModelInfo:
    """Make the repository and the branch where they are not there yet, and say how they stand before the upload.

    Raises PublishError where a publication that is to be private would be seen by all.
    """
    repository, branch = publication.repository, publication.branch
    if not publication.create_pr:
        api.create_repo(repository, private=publication.private, exist_ok=True)
    if publication.private and not api.model_info(repository).private:
        raise PublishError(
            f"{repository} exists and is public: make it private at {api.endpoint}/{repository}/settings, take "
            "another name, or leave out --private"
        )
    if branch != MAIN and not branch.startswith("refs/") and not publication.create_pr:
        api.create_branch(repository, branch=branch, exist_ok=True)
    return api.model_info(repository, revision=branch)


def old_weights(api: HfApi, publication: Publication) -> list[str]:
    """Weights on the branch that the new files would not overwrite, and that transformers may load instead."""
    names = [
        entry.path
        for entry in api.list_repo_tree(publication.repository, revision=publication.branch)
        if isinstance(entry, RepoFile)
    ]
    weights = [name for name in names if name.endswith((".safetensors", "pytorch_model.bin")) or name in INDEXES]
    return sorted(set(weights) - set(publication.contents.files))


def write_edits(publication: Publication) -> None:
    """Each file whole or not at all: an interrupted upload leaves a folder that can be published again."""
    for name, text in publication.edits.items():
        with atomic_file(publication.contents.folder / name) as path:
            path.write_text(text, encoding="utf-8", newline="\n")


def loading_lines(publication: Publication, revision: str) -> str:
    """Five lines of Python that load what was published."""
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
def hub_errors(publication: Publication, what: str) -> Iterator[None]:
    """What the Hub's client raises, as one line that says what to do."""
    repository = publication.repository
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise PublishError(f"HF_HUB_OFFLINE forbids asking the Hub about {repository}: unset it") from error
    except HfHubHTTPError as error:
        raise PublishError(f"{repository} could not be {what}: {reason_of(error, publication)}") from error
    except RuntimeError as error:  # of a thread that sent a file
        cause = error.__cause__ if isinstance(error.__cause__, (HTTPError, OSError)) else error
        reason = reason_of(cause, publication) if isinstance(cause, HfHubHTTPError) else one_line(cause)
        raise PublishError(
            f"the upload to {repository} broke off ({one_line(error).rstrip('.')}: {reason}). Call again: what "
            "arrived is not sent again"
        ) from error
    except (HTTPError, ConnectionError, TimeoutError) as error:
        raise PublishError(
            f"{repository} could not be {what}: {HfApi().endpoint} does not answer ({type(error).__name__}: "
            f"{one_line(error)}). Call again: what arrived is not sent again"
        ) from error


def reason_of(error: HfHubHTTPError, publication: Publication) -> str:
    status = error.response.status_code
    said = one_line(error.server_message).rstrip(".") if error.server_message else error.response.reason_phrase
    answer = f"the Hub answered {status} ({said})"
    if status == 401 or (isinstance(error, RepositoryNotFoundError) and status != 404):
        return f"{answer}: {LOG_IN}"
    if status == 403:
        owner = publication.repository.split("/")[0]
        return (
            f"{answer}: this login may not write there; does {owner} have you, and has the token the right to write?"
        )
    if status == 404:
        return f"{answer}: there is no such repository or branch, or this login does not see it; {LOG_IN}"
    if status in (409, 412):
        return f"{answer}: something else changed the repository meanwhile; call again"
    return answer


def one_line(error: object) -> str:
    return " ".join(str(error).split())
