"""Settings that must not change between a run and its resumption, and the changes of the others."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainingArguments
from trl.trainer.dpo_config import DPOConfig

from smol_hf.data.mixture.failed_sources import other_failures
from smol_hf.data.records.own_file import names_a_file
from smol_hf.data.sources.fingerprints import are_read_whole, digests_of_files
from smol_hf.training.checkpoint.checkpoints import CheckpointError, step_of
from smol_hf.training.recipe.arguments import SmolTrainingArguments
from smol_hf.training.recipe.inherited_checks import MEASURED_SCHEDULES
from smol_hf.training.recipe.inherited_keys import key_of
from smol_hf.training.recipe.keys import OnResume

ANEW = "use the old values, or start anew in another output_dir (--model continues from its weights)"


def rows_of_a_step(arguments: TrainingArguments) -> int:
    """Return the rows that all processes read for one step of the optimizer."""
    rows = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    return rows * PartialState().num_processes


# Batch size × gradient accumulation × processes: they may change, but not their product.
ROWS = "rows of a step"

# All processes log, save and evaluate at the same steps: another number would leave one waiting.
TAKEN_TOGETHER = (
    "logging_strategy", "logging_steps", "eval_strategy", "eval_steps", "eval_delay", "eval_on_start",
    "per_device_eval_batch_size", "save_strategy", "save_steps", "gradient_checkpointing",
)  # fmt: skip

# Files of a local folder that decide about tokens and pixels, and the weights.
OF_THE_PROCESSOR = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt", "*.model", "chat_template.*", "preprocessor_config.json", "processor_config.json",
)  # fmt: skip
OF_THE_WEIGHTS = ("*.safetensors", "*.bin")


def settings_of(policy: OnResume, *arguments) -> dict[str, Any]:
    """Return the values of the keys with this policy as JSON values."""
    values = {
        entry.name: getattr(each, entry.name)
        for each in arguments
        for entry in fields(each)
        if entry.init and key_of(entry).resume == policy
    }
    return json.loads(
        json.dumps({name: getattr(value, "value", value) for name, value in values.items()}, default=str)
    )


def settings_of_a_process(run_state: dict, *arguments) -> dict[str, Any]:
    """Return what all processes of a run must have in common: keys, data, and contents of files.

    Args:
        run_state: entries of `run.json`.
        arguments: the dataclasses of a recipe, the training arguments last.
    """
    digests: dict[str, list[str]] = {}
    for name, digest in sorted(run_state["files"].items()):  # their paths may differ
        digests.setdefault(f"the files of {name.partition(' ')[0]}", []).append(digest)
    together = {name: getattr(arguments[-1], name, None) for name in TAKEN_TOGETHER}
    rows = settings_of(OnResume.ROWS, *arguments)
    data = {"the fingerprint of the data": run_state["data_fingerprint"]}
    return {**run_state["repeats"], **run_state["settings"], **rows, **together, **digests, **data}


def settings_for_resume(*arguments) -> dict[str, Any]:
    """Return the entries of `run.json`: values and files that must repeat, values that may change, no changes yet.

    Args:
        arguments: the dataclasses of a recipe, the training arguments last.
    """
    training = arguments[-1]
    repeats = settings_of(OnResume.REPEAT, *arguments) | {ROWS: rows_of_a_step(training)}
    if repeats.get("vision_feature_layer", -1) is None and repeats["connector_type"] == "pixel_shuffle":
        repeats["vision_feature_layer"] = -1  # its default in earlier releases
    if isinstance(training, SmolTrainingArguments):
        rates = training.part_learning_rates()
        repeats["frozen parts"] = sorted(part for part, rate in rates.items() if rate == 0)
    settings = settings_of(OnResume.CHANGE, *arguments)
    return {"repeats": repeats, "files": digests_of_local_files(*arguments), "settings": settings, "changes": []}


def digests_of_local_files(model, data, training) -> dict[str, str]:
    """Return the digests of the local files that a resumed run reads again, by key and path.

    The weights of `model` count only if they stay in use: under adapters, or as DPO's reference.
    """
    files = {"chat_template": [model.chat_template], "tokenizer": paths_in(model.tokenizer, OF_THE_PROCESSOR)}
    keeps_weights = model.use_peft or isinstance(training, DPOConfig)
    files["model"] = paths_in(model.model, OF_THE_PROCESSOR + (OF_THE_WEIGHTS if keeps_weights else ()))
    named = [getattr(data, "adapter", None), *(each.get("adapter") for each in getattr(data, "mixture", None) or ())]
    files["adapter"] = [each.partition(":")[0] for each in named if each and names_a_file(each)]
    digests = {}
    for key, names in files.items():
        paths = sorted({Path(name) for name in names if name is not None and Path(name).is_file()})
        for path, digest in zip(paths, digests_of_files(paths, whole=are_read_whole(paths)), strict=True):
            digests[f"{key} {path}"] = digest
    return digests


def paths_in(name: str | None, patterns: tuple[str, ...]) -> list[Path]:
    """Return the file of that name, or the matching files of a local folder."""
    if name is None:
        return []
    path = Path(name)
    return [path] if path.is_file() else [each for pattern in patterns for each in path.glob(pattern)]


def check_same_run(checkpoint: Path, run_state: dict) -> list[str]:
    """Compare a run with the one that it resumes, and note its changes in `run_state["changes"]`.

    Returns the changes of this resumption, such as `learning_rate 0.01 → 0.001`. Raises CheckpointError for others.
    """
    before = json.loads((checkpoint / "run.json").read_text(encoding="utf-8"))
    if changed := other_failures(before.get("failed_sources", {}), run_state["failed_sources"]):
        raise CheckpointError(
            f"{checkpoint.name} was trained on other sources of the mixture: {'; '.join(changed)}. Restore them, "
            "or start anew in another output_dir (--model continues from its weights)"
        )
    old, new = before.get("settings", {}), run_state["settings"]
    changes = differences(old, new)
    refused = differences(before.get("repeats", {}), run_state["repeats"])
    schedules = [each.get("lr_scheduler_type") for each in (old, new)]
    if any(schedule in MEASURED_SCHEDULES for schedule in schedules):  # its state ignores new values
        refused |= changes
    if refused:
        rows = ""
        if ROWS in refused:
            keep = f"set global_batch_size: {refused[ROWS][0]} to keep them"
            rows = f" ({ROWS}: batch size × gradient accumulation × processes; {keep})"
        raise CheckpointError(
            f"{checkpoint.name} was made by another recipe: {'; '.join(describe_changes(refused))}{rows}: {ANEW}"
        )
    files, current = before.get("files"), run_state["files"]
    if files is not None and files != current:
        names = sorted(name for name in files | current if files.get(name) != current.get(name))
        raise CheckpointError(
            f"{checkpoint.name} was made with other contents of {', '.join(names)}: restore the files of that run, "
            "or start anew in another output_dir (--model continues from its weights)"
        )
    data, now = before["data_fingerprint"], run_state["data_fingerprint"]
    if data != now:
        raise CheckpointError(
            f"{checkpoint.name} was trained on other data (fingerprint {data[:12]}…, now {now[:12]}…): "
            "restore the data of that run, or start anew in another output_dir"
        )
    step = step_of(checkpoint)
    if (last := new["max_steps"]) is not None and 0 < last < step:
        raise CheckpointError(
            f"max_steps {last} is below step {step} of {checkpoint.name}: set {step} or more steps, or resume from "
            "an earlier checkpoint"
        )
    run_state["changes"] = before.get("changes", [])
    if changes:
        run_state["changes"] = [*run_state["changes"], {"step": step, "changed": changes}]
    return describe_changes(changes)


def differences(old: dict, new: dict) -> dict[str, list]:
    """Return [old, new] of each common key whose values differ."""
    return {name: [old[name], new[name]] for name in old if name in new and old[name] != new[name]}


def describe_changes(changes: dict[str, list]) -> list[str]:
    """Write each change as `name old → new`."""
    return [f"{name} {old!r} → {new!r}" for name, (old, new) in changes.items()]
