"""The page docs/recipe_keys.md: every key of a recipe, and whether it works.

`python -m smol_hf.training.key_table > docs/recipe_keys.md` writes it again.
"""

from __future__ import annotations

import sys
from dataclasses import fields

from trl import SFTConfig

from smol_hf.training import preference, recipes
from smol_hf.training.argument_values import default_of
from smol_hf.training.arguments import SmolTrainingArguments
from smol_hf.training.inherited_checks import bounds
from smol_hf.training.inherited_keys import INHERITED, InheritedKey, inherited_names
from smol_hf.training.preference_arguments import DPOArguments
from smol_hf.training.resume_policies import ON_RESUME

INTRODUCTION = """# Keys of a recipe

This page is generated: `python -m smol_hf.training.key_table > docs/recipe_keys.md`.

A key works, or it is refused with the reason given here. A refused key may have its default value. Values outside the
bounds are refused. `pretrain` has the keys of `train`. The last column says what a resumed run does with another value
of the key. It also refuses a changed local file of `chat_template`, `adapter`, `tokenizer` or `model` (weights: with
adapters and in `dpo`).
"""
OF_DPO = """## Keys of `smol-hf dpo`

Of the keys of the model, `dpo` uses {model}, and those of adapters (`use_peft`, `lora_...`).
"""
INHERITED_TITLE = """## Inherited keys

`train` inherits them from TRL's `SFTConfig`, `dpo` from `DPOConfig`; both inherit those of transformers'
`TrainingArguments`. "–": the command does not have the key.
"""


def page() -> str:
    """The whole page, in Markdown."""
    inherited = {entry.name for entry in fields(SFTConfig)} - {"output_dir"}
    of_training = own_keys(SmolTrainingArguments, inherited)
    of_preferences = own_keys(preference.PreferenceArguments, set())
    parts = [
        INTRODUCTION,
        "## Keys of `smol-hf train`: the model\n",
        *own_keys(recipes.ModelArguments, set()),
        "\n## Keys of `smol-hf train`: the data\n",
        *own_keys(recipes.DataArguments, set()),
        "\n## Keys of `smol-hf train`: the training\n",
        *of_training,
        "\n" + OF_DPO.format(model=", ".join(f"`{name}`" for name in preference.OF_THE_MODEL)),
        *of_preferences,
        "\n" + INHERITED_TITLE,
        *inherited_keys(),
    ]
    return "\n".join(parts) + "\n"


def own_keys(arguments: type, without: set[str]) -> list[str]:
    rows = ["| key | default | meaning | on resume |", "|---|---|---|---|"]
    for entry in fields(arguments):
        if entry.name not in without:
            cells = [shown(default_of(entry)), escaped(entry.metadata.get("help", "")), ON_RESUME[entry.name].value]
            rows.append(f"| `{entry.name}` | {' | '.join(cells)} |")
    return rows


def inherited_keys() -> list[str]:
    rows = ["| key | default | `train`, `pretrain` | `dpo` | on resume |", "|---|---|---|---|---|"]
    entries = {**DPOArguments.__dataclass_fields__, **SmolTrainingArguments.__dataclass_fields__}
    for name in sorted(INHERITED):
        key = INHERITED[name]
        cells = [
            answer(key, getattr(key, command)) if name in inherited_names(command) else "–"
            for command in ("train", "dpo")
        ]
        on_resume = ON_RESUME[name].value if any(cell.startswith("works") for cell in cells) else "–"
        rows.append(f"| `{name}` | {shown(default_of(entries[name]))} | {' | '.join([*cells, on_resume])} |")
    return rows


def answer(key: InheritedKey, reason: str) -> str:
    if reason:
        return f"refused: {escaped(reason)}"
    conditions = [bounds(key)] if bounds(key) else []
    conditions += [" or ".join(map(str, key.values))] if key.values else []
    conditions += [f"with {key.needs}"] if key.needs else []
    return f"works ({', '.join(conditions)})" if conditions else "works"


def shown(value) -> str:
    value = getattr(value, "value", value)
    return "" if value is None or value == "" else f"`{value}`"


def escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    sys.stdout.write(page())
