"""Learning from preferences with TRL's `DPOTrainer` (Rafailov et al. 2023): data → model → training → the folder that
anyone can load."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import yaml
from accelerate import PartialState
from datasets import Dataset
from rich.console import Console
from transformers import PretrainedConfig, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl import DPOTrainer

from smol_hf.data.conversation import SampleError
from smol_hf.data.engine.source import Source
from smol_hf.data.engine.stream import start_worker
from smol_hf.data.preferences import COLUMNS, PreferenceEncoder, Preferences, read_preferences
from smol_hf.data.record_use import describe_ignored
from smol_hf.data.skipped import SkippedSamples
from smol_hf.data.sources import open_location
from smol_hf.support.formatting import duration
from smol_hf.training.checkpoints import choose_checkpoint, step_of
from smol_hf.training.composition import is_text_alone
from smol_hf.training.console import LogCallback
from smol_hf.training.hardware import hardware
from smol_hf.training.interruption import train_until_stopped
from smol_hf.training.loader import FILE_NAME as DATA_STATE
from smol_hf.training.lora import lora_config, rank_warning
from smol_hf.training.lora_arguments import LoraArguments
from smol_hf.training.mixture_report import FILE_NAME as MIXTURE
from smol_hf.training.model_arguments import ModelArguments
from smol_hf.training.parts import count_parameters
from smol_hf.training.preference_arguments import DPOArguments, PreferenceArguments
from smol_hf.training.recipes import RecipeError
from smol_hf.training.run import recipe_errors, refuse_model_in_the_way
from smol_hf.training.run_record import versions, write_run
from smol_hf.training.same_run import check_same_run, settings_for_resume
from smol_hf.training.saving import WholeCheckpoints
from smol_hf.training.text_composition import build_language_model
from smol_hf.training.trainer import NonFiniteError

ARGUMENT_CLASSES = (ModelArguments, PreferenceArguments, DPOArguments)
# Of `ModelArguments`, those that mean something here.
OF_THE_MODEL = ("model", "chat_template", "dtype", "attn_implementation", "use_peft")
SHOWN = (
    "beta", "loss_type", "loss_weights", "label_smoothing", "max_length", "precompute_ref_log_probs", "seed",
    "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "optim", "adam_beta1",
    "adam_beta2", "per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "max_steps",
    "num_train_epochs", "bf16", "output_dir",
)  # fmt: skip


class PreferenceTrainer(WholeCheckpoints, DPOTrainer):
    """TRL's trainer on pairs that are token ids already.

    Args:
        run_state: what is saved as `run.json` in each checkpoint.
    """

    def __init__(self, *, run_state: dict, **kwargs):
        self.run_state = run_state
        super().__init__(**kwargs)

    def _prepare_dataset(self, dataset, *args, **kwargs):
        """TRL would tokenise texts, special tokens of their writers included, and cut them."""
        return dataset

    def get_train_dataloader(self):
        loader = super().get_train_dataloader()
        loader.worker_init_fn = partial(start_deaf_worker, loader.worker_init_fn)
        return loader

    def write_state(self, folder, gathered):
        """Where the run is in its data follows from the step."""
        state = json.dumps({"step": self.state.global_step})
        (folder / DATA_STATE).write_text(state, encoding="utf-8")


def start_deaf_worker(start: Callable[[int], None] | None, worker: int) -> None:
    """Set up a data worker that ignores signals which its parent did not send."""
    start_worker(worker)
    if start is not None:
        start(worker)


class PreferenceLog(LogCallback):
    """The log of a run, whose lines say how far the answers are apart."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        super().on_log(args, state, control, logs={key: logs[key] for key in logs if key != "eval_loss"}, **kwargs)
        if "eval_loss" in logs and state.is_world_process_zero:
            self.console.print(f"step {state.global_step}  validation {apart(logs, 'eval_')}", soft_wrap=True)
        if not math.isfinite(logs.get("loss", 0)):
            raise NonFiniteError(f"step {state.global_step}: the loss is {logs['loss']}: a lower learning rate helps")

    def progress(self, state, logs: dict) -> str:
        done = state.global_step - self.first_step
        left = (time.perf_counter() - self.started) / max(done, 1) * (state.max_steps - state.global_step)
        return (
            f"step {state.global_step:>{len(str(state.max_steps))}}/{state.max_steps}  {apart(logs)}  "
            f"lr {logs['learning_rate']:.1e}  {duration(left)} left"
        )


def apart(logs: dict, prefix: str = "") -> str:
    return (
        f"loss {logs[f'{prefix}loss']:.4f}  margin {logs[f'{prefix}rewards/margins']:.4f}  "
        f"chosen preferred {logs[f'{prefix}rewards/accuracies']:.0%}"
    )


def train(
    recipe: dict, model_arguments: ModelArguments, data_arguments: PreferenceArguments, arguments: DPOArguments
) -> PreferenceTrainer:
    """Run the recipe, from the beginning or from a checkpoint, and return the trainer with the trained model.

    Writes into `output_dir`: `recipe.yaml`, `run.json`, `log.jsonl`, `mixture.json`, `checkpoint-<step>/`, and
    `skipped.jsonl` where records were left out.

    Raises:
        RecipeError, SampleError, CheckpointError, NonFiniteError: see there; each says what to do.
        Interrupted: when a signal ended the training, after a checkpoint was saved.
    """
    console = Console(highlight=False, markup=False)
    writes = PartialState().is_main_process
    output_dir = Path(arguments.output_dir)
    if model_arguments.model is None:
        raise RecipeError("model is missing: name the language model that learns preferences, a folder or a Hub id")
    if arguments.evaluates != data_arguments.validates:
        raise RecipeError("eval_strategy and validation_data (or validation_split) need each other")
    refuse_model_in_the_way(model_arguments.model, output_dir)
    checkpoint, messages = choose_checkpoint(output_dir, arguments.resume_from_checkpoint)
    for message in messages if writes else ():
        console.print(message)
    set_seed(arguments.seed)
    with recipe_errors("the data cannot be opened"):
        source, validation_source = open_sources(data_arguments)
    with recipe_errors("the model cannot be built"):
        if not is_text_alone(model_arguments, False, arguments.trust_remote_code):
            raise RecipeError(f"{model_arguments.model} sees pictures, and these preferences are of texts alone")
        model, tokenizer = build_language_model(
            model_arguments, (), chat=True, trust_remote_code=arguments.trust_remote_code
        )
        arguments.max_length = longest_pair(arguments.max_length, model.config, asked="max_length" in recipe)
        encoder = PreferenceEncoder(tokenizer, arguments.max_length)
        peft_config = lora_config(model_arguments, model, tokenizer=tokenizer) if model_arguments.use_peft else None
    pairs, validation = read_preferences(source, encoder, data_arguments.ignore_fields), None
    if validation_source is not None:
        validation = read_preferences(validation_source, encoder, data_arguments.ignore_fields)
    skipped = SkippedSamples(
        data_arguments.on_bad_sample,
        data_arguments.max_skipped_fraction,
        output_dir / "skipped.jsonl",
        writes=writes,
        max_in_a_row=data_arguments.max_skipped_in_a_row,
    )
    settle(skipped, {source.name: pairs} | ({f"validation: {source.name}": validation} if validation else {}))
    run_state = {
        "data_fingerprint": source.fingerprint,
        "samples": pairs.total,
        "failed_sources": {},
        "seed": arguments.seed,
        **settings_for_resume(model_arguments, data_arguments, arguments),
        "versions": versions(),
    }
    changes = check_same_run(checkpoint, run_state) if checkpoint is not None else []

    needs_reference = peft_config is None and not arguments.precompute_ref_log_probs
    trainer = PreferenceTrainer(
        model=model,
        ref_model=copy.deepcopy(model) if needs_reference else None,
        args=arguments,
        train_dataset=dataset_of(pairs),
        eval_dataset=dataset_of(validation) if validation else None,
        processing_class=tokenizer,
        callbacks=[PreferenceLog(output_dir)],
        peft_config=peft_config,
        run_state=run_state,
    )
    trainer.remove_callback(PrinterCallback)
    if arguments.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
    used = len(trainer.train_dataset)
    if writes:
        how = "turns of a conversation" if encoder.chat is not None else "continuations of a text (no chat template)"
        console.print(f"{used:,} pairs from {source.name}, {how}; {skipped.summary()}", soft_wrap=True)
        if warning := rank_warning(trainer.model, model_arguments.lora_r):
            console.print(warning, soft_wrap=True)
        for line in describe_ignored(pairs.ignored):
            console.print(line, soft_wrap=True)
        for change in changes:
            console.print(f"changed from step {step_of(checkpoint):,} on: {change}", soft_wrap=True)
        output_dir.mkdir(parents=True, exist_ok=True)
        resolved = yaml.safe_dump(resolve(recipe, model_arguments, data_arguments, arguments), sort_keys=False)
        (output_dir / "recipe.yaml").write_text(resolved, encoding="utf-8")
        write_run(output_dir, run_state)
        sources = [{"name": source.name, "rows": pairs.total, "samples": used, "realised_share": 1.0}]
        (output_dir / MIXTURE).write_text(json.dumps({"sources": sources}, indent=1) + "\n", encoding="utf-8")

    resumed_at = step_of(checkpoint) if checkpoint is not None else 0  # the folder may be rotated away meanwhile
    started = time.perf_counter()
    train_until_stopped(trainer, checkpoint)
    run_state |= {
        "train_seconds": time.perf_counter() - started,
        "steps": trainer.state.global_step,
        "resumed_at_step": resumed_at,
        "hardware": hardware(),
        "parameters": {part: count["total"] for part, count in count_parameters(trainer.model).items()},
    }
    if writes:
        write_run(output_dir, run_state)
    return trainer


def open_sources(arguments: PreferenceArguments) -> tuple[Source, Source | None]:
    """(to train on, to validate on). Raises what `open_location` does."""
    of_hub = {
        "config": arguments.dataset_config, "revision": arguments.dataset_revision,
        "download": arguments.dataset_download,
    }  # fmt: skip
    source = open_location(arguments.data, split=arguments.dataset_split, **of_hub).source
    arguments.dataset_revision = source.revision  # what the saved recipe names
    if not arguments.validates:
        return source, None
    if arguments.validation_data is not None:
        return source, open_location(arguments.validation_data, split=arguments.validation_split).source
    of_hub["revision"] = source.revision
    return source, open_location(arguments.data, split=arguments.validation_split, **of_hub).source


def longest_pair(max_length: int | None, config: PretrainedConfig, asked: bool) -> int:
    """The recipe's `max_length`, or the model's positions where these are fewer and nobody asked for more."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or DPOArguments.max_length
    if asked and max_length is not None and max_length > positions:
        raise RecipeError(f"max_length {max_length} is more than the {positions} positions of the model")
    return min(max_length or positions, positions)


def settle(skipped: SkippedSamples, found: dict[str, Preferences]) -> None:
    """Let the ledger decide whether the run may begin. Raises SampleError, see `SkippedSamples.settle`."""
    for name, each in found.items():
        for fault in (*each.faults, *each.left_out):
            fault.source = name
        skipped.faults += each.faults
        skipped.left_out += each.left_out
    skipped.settle(
        {name: each.total for name, each in found.items()}, max(each.longest_run for each in found.values())
    )
    for name, each in found.items():
        if not each.rows[COLUMNS[0]]:
            raise SampleError(name, f"holds no pair that can be used; {skipped.summary()}")


def dataset_of(pairs: Preferences) -> Dataset:
    return Dataset.from_dict(pairs.rows)


def resolve(
    recipe: dict, model_arguments: ModelArguments, data_arguments: PreferenceArguments, arguments: DPOArguments
) -> dict:
    """The recipe that repeats this run: what was given, and the keys that matter with the values they had."""
    shown = ("model", "chat_template", "dtype", "attn_implementation")
    if model_arguments.use_peft:
        shown += tuple(LoraArguments.__dataclass_fields__)
    resolved = {name: getattr(model_arguments, name) for name in shown} | vars(data_arguments) | recipe
    for name in SHOWN:
        value = getattr(arguments, name)
        resolved[name] = getattr(value, "value", value)
    resolved.pop("resume_from_checkpoint", None)
    return resolved
