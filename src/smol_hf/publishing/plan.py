"""What a publication would do, known before anything is asked of the Hub or written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from smol_hf.conversion.checkpoint_files import ADAPTER_CONFIG, read_json
from smol_hf.publishing.card_edits import CARD, changed_lines, edits_of, front_matter, read_card
from smol_hf.publishing.contents import LARGE, Contents, PublishError, is_text, look_into
from smol_hf.publishing.disclosures import LOCAL_PATH, local_paths, secrets
from smol_hf.publishing.model_card import is_hub_id

MAIN = "main"
SHOWN = 8


@dataclass(frozen=True)
class Publication:
    """A checkpoint and where it goes.

    Args:
        edits: new text of files that change before they are uploaded.
        problems: why it cannot be published as it is; each says what to do.
        warnings: what a person may want to know first.
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
        """A line for each file that changes, followed by its lines before and after."""
        lines = []
        for name, text in self.edits.items():
            lines.append(f"{self.contents.folder / name}:")
            path = self.contents.folder / name
            lines += changed_lines(path.read_text(encoding="utf-8") if path.is_file() else "", text)
        return lines

    def size_of(self, name: str) -> int:
        """Bytes of a file, as it will be."""
        return len(self.edits[name].encode()) if name in self.edits else (self.contents.folder / name).stat().st_size

    def goes_by_lfs(self, name: str) -> bool:
        """What the Hub does by default; in the end it decides."""
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
    """Look at a checkpoint folder as it would be published to `repository` (owner/name). Nothing is written or sent.

    Raises:
        PublishError: when there is nothing that could be published: see `look_into` and `edits_of`. What can be
            mended is in `problems` instead.
    """
    refuse_bad_names(repository, branch)
    contents = look_into(folder)
    edits = edits_of(contents, repository, license=license, shorten_paths=shorten_paths)
    card = edits.get(CARD) or read_card(contents)
    named = front_matter(card, contents.folder / CARD).get("license")
    licenses = tuple(str(each) for each in (named if isinstance(named, list) else [named]) if each)
    problems = []
    if not licenses:
        problems.append(
            f"{contents.folder / CARD} names no licence: give --license apache-2.0 (or another identifier of the "
            "Hub), or write `license:` into its front matter"
        )
    if found := secrets(contents):
        problems.append(f"a token or key would be public: {listed(found)}. Remove it, and revoke it where it was seen")
    if not allow_paths and not shorten_paths and (found := local_paths(contents)):
        problems.append(
            f"paths of this machine would be public: {listed(found)}. --shorten-paths writes them without their "
            "folders, --allow-paths publishes them as they are"
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
        warnings=tuple(doubts(contents, card)),
    )


def refuse_bad_names(repository: str, branch: str) -> None:
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise PublishError(f"{repository!r} is no repository: it has the form OWNER/NAME ({error})") from error
    if "/" not in repository:
        raise PublishError(f"{repository!r} is no repository: it has the form OWNER/NAME")
    if not branch.strip() or any(sign in branch for sign in " ~^:?*[\\") or ".." in branch:
        raise PublishError(f"{branch!r} is no name of a branch")


def listed(found: Sequence) -> str:
    shown = ", ".join(f"{each.where} ({each.text})" for each in found[:SHOWN])
    return shown + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")


def missing_code(contents: Contents) -> list[str]:
    """Modules that a configuration names, and that nobody would find."""
    missing = {}
    for name in contents.files:
        if name.endswith("config.json"):
            for reference in references(read_json(contents.folder / name).get("auto_map")):
                module = reference.partition(".")[0] + ".py"
                if "--" not in reference and module not in contents.files:
                    missing.setdefault(module, name)
    return [f"{contents.folder / each} is missing, which {name} names in auto_map" for each, name in missing.items()]


def references(auto_map) -> list[str]:
    if isinstance(auto_map, dict):
        auto_map = list(auto_map.values())
    if isinstance(auto_map, (list, tuple)):
        return [text for each in auto_map for text in references(each)]
    return [auto_map] if isinstance(auto_map, str) else []


def unreachable_base(contents: Contents) -> list[str]:
    """An adapter is loaded over its base, which others must be able to fetch."""
    if not contents.is_adapter:
        return []
    path = contents.folder / ADAPTER_CONFIG
    base = read_json(path).get("base_model_name_or_path")
    if isinstance(base, str) and "/" in base and is_hub_id(base) and not LOCAL_PATH.search(base):
        return []
    return [
        f"{path}: base_model_name_or_path is {json.dumps(base)}, which nobody else has: publish the base first, and "
        f"write its OWNER/NAME there and into {CARD}; or publish the merged checkpoint instead"
    ]


def doubts(contents: Contents, card: str) -> list[str]:
    found = []
    if not any(name in contents.files for name in ("tokenizer_config.json", "tokenizer.json")):
        found.append("there is no tokenizer in the folder: the model cannot be used with text")
    if "No evaluation is reported" in card:
        found.append("the card reports no evaluation")
    if "recipe.yaml" not in contents.files:
        found.append("there is no recipe.yaml: nobody can tell how it was trained")
    return found
