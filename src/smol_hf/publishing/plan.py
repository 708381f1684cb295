"""Plan a publication without asking the Hub or writing files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from smol_hf.conversion.checkpoint_files import ADAPTER_CONFIG, read_json, strings_in
from smol_hf.publishing.card_edits import CARD, changed_lines, edits_of, front_matter
from smol_hf.publishing.contents import LARGE, Contents, PublishError, is_text, look_into
from smol_hf.publishing.disclosures import LOCAL_PATH, local_paths, read_text, secrets
from smol_hf.publishing.model_card import is_hub_id, results_next_to

MAIN = "main"
SHOWN = 8


@dataclass(frozen=True)
class Publication:
    """A checkpoint and its destination.

    Args:
        edits: new text of files that change before they are uploaded.
        problems: reasons not to publish; each says what to do.
        warnings: facts to consider before publishing.
    """

    contents: Contents
    repository: str
    branch: str = MAIN
    private: bool = False
    create_pr: bool = False
    message: str = ""
    licenses: tuple[str, ...] = ()
    edits: dict[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def changes(self) -> list[str]:
        """List each file that changes, followed by its lines before and after."""
        lines = []
        for name, text in self.edits.items():
            lines.append(f"{self.contents.folder / name}:")
            path = self.contents.folder / name
            lines += changed_lines(path.read_text(encoding="utf-8") if path.is_file() else "", text)
        return lines

    def size_of(self, name: str) -> int:
        """Return the bytes of a file after the edits."""
        return len(self.edits[name].encode()) if name in self.edits else (self.contents.folder / name).stat().st_size

    def goes_by_lfs(self, name: str) -> bool:
        """Predict if the Hub stores a file by LFS; the Hub decides."""
        return not is_text(name) or self.size_of(name) >= LARGE

    @property
    def size(self) -> int:
        return sum(map(self.size_of, self.contents.files))


def plan(
    folder: str,
    repository: str,
    *,
    branch: str = MAIN,
    private: bool = False,
    create_pr: bool = False,
    message: str | None = None,
    license: str | None = None,
    shorten_paths: bool = False,
    allow_paths: bool = False,
) -> Publication:
    """Plan to publish a checkpoint folder to `repository` (owner/name). Nothing is written or sent.

    Raises:
        PublishError: if the folder cannot be published. Faults that can be corrected are in `problems` instead.
    """
    refuse_bad_names(repository, branch)
    contents = look_into(folder)
    edits = edits_of(contents, repository, license=license, shorten_paths=shorten_paths)
    card = edits.get(CARD) or read_text(contents, CARD)
    named = front_matter(card, contents.folder / CARD).get("license")
    licenses = tuple(str(each) for each in (named if isinstance(named, list) else [named]) if each)
    problems = []
    if not licenses:
        problems.append(
            f"{contents.folder / CARD} has no licence: give --license apache-2.0 (or another identifier of the "
            "Hub), or write `license:` into its front matter"
        )
    if found := secrets(contents):
        problems.append(f"a token or key would be public: {listed(found)}. Remove it, and revoke it if others saw it")
    if not allow_paths and not shorten_paths and (found := local_paths(contents)):
        problems.append(
            f"paths of this machine would be public: {listed(found)}. Use --shorten-paths to write them without their "
            "folders, or --allow-paths to publish them unchanged"
        )
    problems += missing_code(contents) + unreachable_base(contents)
    if CARD not in contents.files:
        contents = replace(contents, files=(CARD, *contents.files))
    return Publication(
        contents=contents,
        repository=repository,
        branch=branch,
        private=private,
        create_pr=create_pr,
        message=message or f"Upload {repository.split('/')[-1]} with smol_hf",
        licenses=licenses,
        edits=edits,
        problems=tuple(problems),
        warnings=tuple(warnings_about(contents, card)),
    )


def refuse_bad_names(repository: str, branch: str) -> None:
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise PublishError(f"{repository!r} is not a repository: use the form OWNER/NAME ({error})") from error
    if "/" not in repository:
        raise PublishError(f"{repository!r} is not a repository: use the form OWNER/NAME")
    if not branch.strip() or any(sign in branch for sign in " ~^:?*[\\") or ".." in branch:
        raise PublishError(f"{branch!r} is not a valid branch name")


def listed(found: Sequence) -> str:
    shown = ", ".join(map(str, found[:SHOWN]))
    return shown + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")


def missing_code(contents: Contents) -> list[str]:
    """Name modules that a configuration names and that are missing."""
    missing = {}
    for name in contents.files:
        if name.endswith("config.json"):
            for reference in strings_in(read_json(contents.folder / name).get("auto_map")):
                module = reference.partition(".")[0] + ".py"
                if "--" not in reference and module not in contents.files:
                    missing.setdefault(module, name)
    return [f"{contents.folder / each} is missing, which {name} names in auto_map" for each, name in missing.items()]


def unreachable_base(contents: Contents) -> list[str]:
    """Name the base of an adapter if others cannot download it."""
    if not contents.is_adapter:
        return []
    path = contents.folder / ADAPTER_CONFIG
    base = read_json(path).get("base_model_name_or_path")
    if isinstance(base, str) and "/" in base and is_hub_id(base) and not LOCAL_PATH.search(base):
        return []
    return [
        f"{path}: base_model_name_or_path is {json.dumps(base)}, which others cannot download: publish it first, "
        f"and write its OWNER/NAME there and into {CARD}; or publish the merged checkpoint instead"
    ]


def warnings_about(contents: Contents, card: str) -> list[str]:
    found = []
    if not any(name in contents.files for name in ("tokenizer_config.json", "tokenizer.json")):
        found.append("the folder has no tokenizer: the model cannot be used with text")
    _, outdated = results_next_to(contents.folder)
    found += [outdated] if outdated else []
    if "No evaluation is reported" in card:
        found.append("the card reports no evaluation")
    if "recipe.yaml" not in contents.files:
        found.append("recipe.yaml is missing: others cannot know how the model was trained")
    return found
