"""Write `docs/recipe_keys.md`, and the help of the recipe keys (`recipe_keys.json`), from their declarations.

python docs/recipe_keys.py > docs/recipe_keys.md
"""

import json
import sys
from dataclasses import Field, fields
from typing import Any

from smol_hf.training.recipe import recipes
from smol_hf.training.recipe.arguments import DPOArguments, SmolTrainingArguments
from smol_hf.training.recipe.data_arguments import DataArguments, PreferenceArguments
from smol_hf.training.recipe.inherited_keys import SECTIONS, inherited_names, key_of
from smol_hf.training.recipe.key_help import FILE
from smol_hf.training.recipe.keys import ALL, TRAIN, Key, Runs, default_of, in_words, own_keys
from smol_hf.training.recipe.model_arguments import LoraArguments, ModelArguments

ADAPTERS = {entry.name for entry in fields(LoraArguments)}
INTRODUCTION = """# Keys of a recipe

This page is generated: `python docs/recipe_keys.py > docs/recipe_keys.md`.

A key works, or it is refused with the reason given here. A refused key may have its default value. Values outside the
bounds are refused. `pretrain` has the keys of `train`.

The column "runs" lists the kinds of runs in which a key works: over conversations or documents (`train`, `pretrain`),
or over preferences (`dpo`). Other runs refuse it.

The last column gives the effect of another value on a resumed run. A resumed run also refuses a changed local file of
`chat_template`, `adapter`, `tokenizer` or `model` (weights: with adapters and in `dpo`).
"""
OURS = {
    "The model": ModelArguments,
    "The data of `smol-hf train`": DataArguments,
    "The preferences of `smol-hf dpo`": PreferenceArguments,
    "The training with `smol-hf train`": SmolTrainingArguments,
    "Adapters": LoraArguments,
}
INHERITED_TITLE = """## Inherited keys

`train` inherits these keys from TRL's `SFTConfig`, and `dpo` from `DPOConfig`. Both inherit the keys of transformers'
`TrainingArguments`. "–": the command does not have the key.
"""


def meaning(entry: Field) -> str:
    """Return the help of a key of ours, with its values or bounds."""
    key, text = key_of(entry), entry.metadata["help"]
    if not all(str(value) in text for value in key.values):
        text += f" One of {', '.join(map(str, key.values))}."
    bounds = in_words(key.bounds)
    return f"{text} {bounds.capitalize()}." if bounds else text


def page() -> str:
    """Return the page in Markdown."""
    parts = [INTRODUCTION]
    for title, arguments in OURS.items():
        parts += [f"## {title}\n", *own_table(arguments), ""]
    parts.append(INHERITED_TITLE)
    for title, keys in SECTIONS.items():
        parts += [f"### {title}\n", *inherited_table(keys), ""]
    return "\n".join(parts)


def own_table(arguments: type) -> list[str]:
    rows = ["| key | default | meaning | runs | on resume |", "|---|---|---|---|---|"]
    every = (
        ALL
        if arguments in (ModelArguments, LoraArguments)
        else Runs.PREFERENCES
        if arguments is PreferenceArguments
        else TRAIN
    )
    for entry, key in own_keys(arguments):
        if entry.name in ADAPTERS and arguments is not LoraArguments:
            continue  # ModelArguments inherits them
        runs = "all" if every in key.runs else str(key.runs)
        cells = [shown(default_of(entry)), escaped(meaning(entry)), runs, key.resume.value]
        rows.append(f"| `{entry.name}` | {' | '.join(cells)} |")
    return rows


def inherited_table(keys: dict[str, Key]) -> list[str]:
    rows = ["| key | default | `train`, `pretrain` | `dpo` | on resume |", "|---|---|---|---|---|"]
    entries = {**DPOArguments.__dataclass_fields__, **SmolTrainingArguments.__dataclass_fields__}
    for name, key in sorted(keys.items()):
        cells = [
            treatment(key, getattr(key, command)) if name in inherited_names(command) else "–"
            for command in ("train", "dpo")
        ]
        on_resume = key.resume.value if any(cell.startswith("works") for cell in cells) else "–"
        rows.append(f"| `{name}` | {shown(default_of(entries[name]))} | {' | '.join([*cells, on_resume])} |")
    return rows


def treatment(key: Key, reason: str) -> str:
    if reason:
        return f"refused: {escaped(reason)}"
    conditions = [in_words(key.bounds), " or ".join(map(str, key.values)), f"with {key.needs}" if key.needs else ""]
    if key.strategy:
        conditions.append(f"with {key.strategy[0]}: {' or '.join(key.strategy[1:])}")
    conditions = [each for each in conditions if each]
    return f"works ({', '.join(conditions)})" if conditions else "works"


def in_yaml(value: Any) -> str:
    """Return a default as in a recipe; "" for none."""
    value = getattr(value, "value", value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return "" if value is None else str(value)


def shown(value: Any) -> str:
    return f"`{in_yaml(value)}`" if in_yaml(value) else ""


def escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def help_file() -> str:
    """Return the content of recipe_keys.json, which `key_help` reads."""

    def keys_of(classes: tuple[type, ...], runs: Runs) -> dict[str, Any]:
        own, others = {}, []
        entries = [entry for arguments in classes for entry in fields(arguments)]
        for entry in sorted(entries, key=lambda entry: entry.name in ADAPTERS):
            if "key" in entry.metadata and runs & key_of(entry).runs:
                default = in_yaml(default_of(entry))
                own[entry.name] = meaning(entry) + (f" Default: {default}." if default not in ("", "[]") else "")
            else:
                others.append(entry.name)
        return {"own": own, "others": " ".join(others)}

    commands = {"train": (recipes.ARGUMENT_CLASSES, TRAIN), "dpo": (recipes.PREFERENCE_CLASSES, Runs.PREFERENCES)}
    return json.dumps({name: keys_of(*each) for name, each in commands.items()}, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(help_file(), encoding="utf-8")
    sys.stdout.write(page())
