"""Publish a Space on the Hub, in one commit."""

from __future__ import annotations

from dataclasses import dataclass

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from smol_hf.publishing.contents import PublishError
from smol_hf.publishing.space.space import Space
from smol_hf.publishing.upload import hub_errors


@dataclass(frozen=True)
class PublishedSpace:
    """A published Space. `is_new`: False if nothing had changed. `needs_token`: its model is private."""

    url: str
    commit: str
    is_new: bool
    needs_token: bool


def publish_space(
    space: Space, *, private: bool = False, message: str | None = None, token: str | None = None
) -> PublishedSpace:
    """Create the Space if it is missing, and send its files; other files in it are kept.

    Raises:
        PublishError: if the Space has no name, its model is not on the Hub, or the Hub refuses.
    """
    if space.repository is None:
        raise PublishError(
            f"{space.model_id} is a local folder: publish it first, then its Space with the same OWNER/NAME"
        )
    api, name = HfApi(token=token), space.repository
    try:
        with hub_errors(name, "prepared"):
            model = api.model_info(space.model_id, revision=space.revision)
    except PublishError as error:
        if isinstance(error.__cause__, (RepositoryNotFoundError, RevisionNotFoundError)):
            where = f"{space.model_id} (revision {space.revision})" if space.revision else space.model_id
            raise PublishError(
                f"{where} is not on the Hub, or this login cannot see it: publish the model first "
                f"(smol-hf publish CHECKPOINT {space.model_id} --yes)"
            ) from error
        raise
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
    return PublishedSpace(
        url=f"{api.endpoint}/spaces/{name}",
        commit=commit.oid,
        is_new=commit.oid != before.sha,
        needs_token=bool(model.private),
    )
