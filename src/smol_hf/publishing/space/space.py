"""Plan a Space for a checkpoint: a Gradio app that does not need smol_hf, requirements, metadata and examples."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import SpaceCard, SpaceCardData

from smol_hf.conversion.checkpoint_files import locate, read_json
from smol_hf.conversion.formats.registry import OURS
from smol_hf.inference.examples import as_settings, examples_of
from smol_hf.publishing.card_edits import CARD, front_matter
from smol_hf.publishing.contents import PublishError
from smol_hf.publishing.model_card import has_chat_template, is_hub_id, name_of
from smol_hf.publishing.plan import refuse_bad_names
from smol_hf.support.resources import resource_path

GRADIO = "6.31.0"  # version that a Space installs
SETTINGS = "space.json"
FACTS = ["*.json", "*.jinja", "recipe.yaml", CARD]  # files of a model without weights and code
# Kind of the model → emoji, short description (at most 60 characters), beginning of the README.
KINDS = {
    "image": ("🔎", "A small model that answers questions about images", "A page to ask about images: the demo"),
    "chat": ("💬", "A small language model to chat with", "A page to chat with a language model: the demo"),
    "text": ("📝", "A small language model that continues texts", "A page that continues texts: the demo"),
}


@dataclass(frozen=True)
class Space:
    """The files of a Space.

    Args:
        repository: owner/name of the Space; None for a local page.
        model_id: its model, a repository of the Hub or a local folder.
        files: path → content.
        note: the source of the examples, in one line.
    """

    repository: str | None
    model_id: str
    revision: str | None
    files: dict[str, bytes]
    note: str = ""

    @property
    def front_matter(self) -> str:
        return self.files[CARD].decode().split("---\n")[1]

    @property
    def settings(self) -> dict:
        return json.loads(self.files[SETTINGS])

    def write(self, folder: str | Path) -> Path:
        """Write its files. Raise FileExistsError if the folder contains something other than a Space of smol_hf."""
        folder = Path(folder)
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / SETTINGS).is_file()):
            raise FileExistsError(f"{folder} contains something other than a Space of smol_hf: choose another folder")
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder


def plan_space(
    checkpoint: str,
    repository: str | None = None,
    *,
    space_name: str | None = None,
    revision: str | None = None,
    license: str | None = None,
    token: str | None = None,
    examples: str | None = None,
) -> Space:
    """Plan the Space of a model. Nothing is written or sent.

    Args:
        checkpoint: its folder, or its repository on the Hub, whose configuration is downloaded.
        repository: the model on the Hub that the Space runs; by default `checkpoint` itself.
        space_name: owner/name of the Space; by default the model's with `-space` appended.
        revision: a branch, tag or commit of the model.
        license: of the Space; by default the licence in the model's card.
        examples: a file of prompts, or `none`; by default samples of the training data of a run on this machine.

    Raises:
        FileNotFoundError, SampleError: if the file of examples cannot be read.
        PublishError: if the Hub does not allow a name.
        ConversionError: if the model is unavailable, or its configuration cannot be read.
    """
    model_id = repository or checkpoint
    on_the_hub = not Path(model_id).is_dir()
    if on_the_hub:
        space_name = space_name or f"{model_id}-space"
        for name in (model_id, space_name):
            refuse_bad_names(name, revision or "main")
    elif space_name or revision:
        raise PublishError(
            f"{model_id} is a local folder: a Space on the Hub needs a model on the Hub; give OWNER/NAME"
        )
    folder = locate(checkpoint, revision=revision, token=token, files=FACTS)
    config = read_json(folder / "config.json")
    kind = "image" if config.get("vision_config") else "chat" if has_chat_template(folder) else "text"
    title = name_of(model_id)
    offered = examples_of(folder, shows_images=kind == "image", file=examples)
    entries, images = as_settings(offered.found)
    settings = {
        "model_id": model_id if on_the_hub else str(Path(model_id).resolve()),
        "revision": revision,
        "title": title,
        "examples": entries,
    }
    template = resource_path("hub_templates", "space")
    files = {path.name: path.read_bytes() for path in sorted(template.iterdir()) if path.suffix in (".py", ".css")}
    requirements = (template / "requirements.txt").read_text(encoding="utf-8")
    if kind == "image":
        requirements += "av>=15\n"  # for videos
    if kind == "image" and config.get("model_type") not in OURS:
        requirements += "num2words\ntorchvision\n"  # for processors of transformers' own models
    files["requirements.txt"] = requirements.encode()
    files[SETTINGS] = (json.dumps(settings, indent=1, ensure_ascii=False) + "\n").encode()
    card = render_card(kind, title, model_id, license or license_of(folder), on_the_hub, offered.of_digits)
    files[CARD] = card.encode()
    files = {name: files[name] for name in sorted(files)} | images
    return Space(space_name, settings["model_id"], revision, files, offered.note)


def license_of(folder: Path) -> str | None:
    path = folder / CARD
    return front_matter(path.read_text(encoding="utf-8"), path).get("license") if path.is_file() else None


def render_card(
    kind: str, title: str, model_id: str, license: str | None, on_the_hub: bool, shows_digits: bool
) -> str:
    """Write README.md of the Space; its front matter configures the Space."""
    emoji, description, what = KINDS[kind]
    data = SpaceCardData(
        title=title,
        emoji=emoji,
        colorFrom="indigo",
        colorTo="blue",
        sdk="gradio",
        sdk_version=GRADIO,
        app_file="app.py",
        pinned=False,
        short_description=description,
        license=license,
        models=[model_id] if on_the_hub and is_hub_id(model_id) else None,
        tags=["smol_hf"],
    )
    model = f"[{model_id}](https://huggingface.co/{model_id})" if on_the_hub else f"`{title}`"
    template_path = str(resource_path("hub_templates", "space", "README.md.jinja"))
    card = SpaceCard.from_template(
        data, template_path=template_path, title=title, what=what, model=model, digits=shows_digits
    )
    return str(card).rstrip() + "\n"
