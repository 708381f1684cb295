"""What must be as it was for a resumed run to be the one that was interrupted."""

from __future__ import annotations

import json
from pathlib import Path

from accelerate import PartialState

from smol_hf.data.failed_sources import other_failures
from smol_hf.training.arguments import SmolTrainingArguments
from smol_hf.training.checkpoints import CheckpointError
from smol_hf.training.data_arguments import DataArguments
from smol_hf.training.model_arguments import ModelArguments

# Of the training arguments, those without which a resumed run would see other samples.
REPEATED = ("seed", "optim", "data_seed", "num_train_epochs")
REPEATED_OF_DATA = (
    "sample_packing", "packing_pool", "max_tiles_per_row", "context_length", "adapter", "filters", "mixture",
    "stopping", "on_failed_source", "too_long", "image_resizing", "fetch_images", "fetch_timeout", "max_image_bytes",
)  # fmt: skip


def rows_of_a_step(arguments: SmolTrainingArguments) -> int:
    """Rows that all processes together read between two steps of the optimizer."""
    rows = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    return rows * PartialState().num_processes


def what_must_repeat(
    model_arguments: ModelArguments, data_arguments: DataArguments, arguments: SmolTrainingArguments
) -> dict:
    """The values that decide which samples a step sees and which tensors a checkpoint holds."""
    values = {**vars(model_arguments), **{name: getattr(data_arguments, name) for name in REPEATED_OF_DATA}}
    del values["attn_implementation"]
    values |= {name: getattr(arguments, name) for name in REPEATED}
    values["rows of a step"] = rows_of_a_step(arguments)
    values["frozen parts"] = sorted(part for part, rate in arguments.part_learning_rates().items() if rate == 0)
    return json.loads(json.dumps(values, default=str))


def check_same_run(checkpoint: Path, run_state: dict) -> None:
    """Raises CheckpointError, naming what changed, when going on would not repeat the interrupted run."""
    before = json.loads((checkpoint / "run.json").read_text(encoding="utf-8"))
    if changed := other_failures(before.get("failed_sources", {}), run_state["failed_sources"]):
        raise CheckpointError(
            f"{checkpoint.name} was trained on other sources of the mixture: {'; '.join(changed)}. Bring back those "
            "of then, or start anew in another output_dir (--model goes on from its weights)"
        )
    old, new = before["data_fingerprint"], run_state["data_fingerprint"]
    if old != new:
        raise CheckpointError(
            f"{checkpoint.name} was trained on other data (fingerprint {old[:12]}…, now {new[:12]}…): "
            "the order of samples would not go on where it stopped. Start anew in another output_dir"
        )
    old, new = before.get("repeats", {}), run_state["repeats"]
    changed = [f"{name} {old[name]!r} → {new[name]!r}" for name in old if name in new and old[name] != new[name]]
    if changed:
        raise CheckpointError(
            f"{checkpoint.name} was made by another recipe: {'; '.join(changed)}. Going on would not continue that "
            "run: take the old values, or start anew in another output_dir (--model goes on from its weights)"
        )
