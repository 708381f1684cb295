"""One run from a recipe: data → model → training → the folder that anyone can load."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from accelerate import PartialState
from accelerate.utils import gather_object
from rich.console import Console
from transformers import PretrainedConfig, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from smol_hf.data.collator import SmolCollator
from smol_hf.data.conversation import SampleError
from smol_hf.data.engine.stream import RowStream
from smol_hf.data.failed_sources import refuse_disagreement
from smol_hf.data.shares import PlannedMixture
from smol_hf.data.shortened_samples import ShortenedSamples
from smol_hf.data.skipped import SkippedSamples
from smol_hf.training.arguments import SmolTrainingArguments
from smol_hf.training.checkpoints import choose_checkpoint, step_of
from smol_hf.training.composition import build_model_and_processor
from smol_hf.training.console import LogCallback
from smol_hf.training.data import fingerprint, look_through, open_data, plan_of, rows_of_the_run, trainable
from smol_hf.training.data_arguments import DataArguments
from smol_hf.training.hardware import hardware
from smol_hf.training.loader import load_data_state
from smol_hf.training.lora import add_adapters, freeze_what_has_no_adapter
from smol_hf.training.lora_arguments import LoraArguments
from smol_hf.training.mixture_report import print_failed, print_shares, save_mixture
from smol_hf.training.model_arguments import ModelArguments
from smol_hf.training.parts import count_parameters
from smol_hf.training.preview import print_parameter_table
from smol_hf.training.recipes import ARGUMENT_CLASSES, RecipeError
from smol_hf.training.same_run import check_same_run, rows_of_a_step, what_must_repeat
from smol_hf.training.trainer import SmolTrainer

DEFAULT_CONTEXT_LENGTH = 2048
TOKENIZER_SAMPLES = 10_000  # of the data, from which a recipe without a tokenizer gets one
PACKAGES = ("smol_hf", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "safetensors")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def resolve_recipe(recipe: dict, *arguments) -> dict:
    """The recipe that repeats this run: what was given, and every key of ours with the value it had."""
    resolved = dict(recipe)
    model_arguments, data_arguments, training_arguments = arguments
    for values in (model_arguments, data_arguments):
        resolved |= vars(values)
    if not model_arguments.use_peft:
        resolved = {key: value for key, value in resolved.items() if key not in LoraArguments.__dataclass_fields__}
    inherited = {
        name for parent in SmolTrainingArguments.__mro__[1:] for name in getattr(parent, "__annotations__", {})
    }
    ours = set(SmolTrainingArguments.__annotations__) - inherited
    shown = ours | {
        "seed", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "optim",
        "adam_beta1", "adam_beta2", "per_device_train_batch_size", "gradient_accumulation_steps", "max_steps",
        "num_train_epochs", "bf16",
    }  # fmt: skip
    for name in sorted(shown):
        value = getattr(training_arguments, name)
        resolved[name] = getattr(value, "value", value)
    resolved.pop("resume_from_checkpoint", None)
    return {key: resolved[key] for key in sorted(resolved, key=order_of_key)}


def order_of_key(key: str) -> tuple[int, str]:
    for position, arguments in enumerate(ARGUMENT_CLASSES[:2]):
        if key in arguments.__dataclass_fields__:
            return position, str(list(arguments.__dataclass_fields__).index(key)).zfill(3)
    return len(ARGUMENT_CLASSES), key


def train(
    recipe: dict, model_arguments: ModelArguments, data_arguments: DataArguments, arguments: SmolTrainingArguments
) -> SmolTrainer:
    """Run the recipe, from the beginning or from a checkpoint, and return the trainer with the trained model.

    Writes into `output_dir`: `recipe.yaml` (resolved), `run.json` (versions, seed, data fingerprint, and at the end
    the training time), `mixture.json` (planned and realised shares), `log.jsonl`, `checkpoint-<step>/`, and where
    there is a reason `skipped.jsonl`, `shortened.jsonl` and `skipped_steps.jsonl`.

    Raises:
        RecipeError, SampleError, CheckpointError, NonFiniteError: see there; each says what to do.
    """
    console = Console(highlight=False, markup=False)
    main_process = PartialState().is_main_process
    output_dir = Path(arguments.output_dir)
    refuse_model_in_the_way(model_arguments.model, output_dir)
    checkpoint, messages = choose_checkpoint(output_dir, arguments.resume_from_checkpoint)
    if main_process:
        for message in messages:
            console.print(message)

    set_seed(arguments.seed)
    with recipe_errors("the data cannot be built"):
        data = trainable(open_data(data_arguments, arguments.seed), data_arguments)
    with recipe_errors("the model cannot be built"):
        model, processor = build_model_and_processor(
            model_arguments, data.conversations(TOKENIZER_SAMPLES), trust_remote_code=arguments.trust_remote_code
        )
        if model_arguments.use_peft:
            freeze_what_has_no_adapter(model_arguments, arguments)
            model = add_adapters(model, model_arguments, arguments.part_learning_rates(), processor.tokenizer)
    data_arguments.context_length = context_length(data_arguments.context_length, model.config)
    skipped = SkippedSamples(
        data_arguments.on_bad_sample,
        data_arguments.max_skipped_fraction,
        output_dir / "skipped.jsonl",
        writes=main_process,
        keeps_earlier=checkpoint is not None,
        max_in_a_row=data_arguments.max_skipped_in_a_row,
        gives_up=data_arguments.on_failed_source == "reweight",
    )
    lanes, states = (data_arguments.data_lanes, {}) if checkpoint is None else load_data_state(checkpoint)
    plan = plan_of(data, processor, data_arguments, arguments, lanes)
    with recipe_errors("the data cannot be shared"):
        RowStream(plan, 0, PartialState().num_processes, arguments.dataloader_num_workers)
    plan, data = look_through(plan, data, data_arguments, skipped)
    mixture = PlannedMixture.of(data)
    refuse_disagreement(gather_object([[each.name for each in mixture.failed]]))
    epochs = 1 if arguments.max_steps > 0 else arguments.num_train_epochs
    rows = rows_of_the_run(plan, data, epochs, PartialState().num_processes)
    ends_with_the_data = arguments.max_steps <= 0
    if ends_with_the_data:
        arguments.max_steps = -(-rows // rows_of_a_step(arguments))
        with recipe_errors("the schedule does not fit the data"):
            arguments.check_schedule(arguments.max_steps)
    run_state = {
        "data_fingerprint": fingerprint(data, read_images=data_arguments.verify_images),
        "samples": data.found.total or sum(len(source) for source in data.sources),
        "failed_sources": {each.name: each.reason for each in mixture.failed},
        "seed": arguments.seed,
        "repeats": what_must_repeat(model_arguments, data_arguments, arguments),
        "versions": versions(),
    }
    if checkpoint is not None:
        check_same_run(checkpoint, run_state)

    trainer = SmolTrainer(
        model=model,
        args=arguments,
        plan=plan,
        data_states=states,
        rows_per_epoch=-(-rows // max(1, round(epochs))),
        processing_class=processor,
        data_collator=SmolCollator(processor, packing=data_arguments.sample_packing),
        callbacks=[LogCallback(output_dir, run_state["failed_sources"])],
        run_state=run_state,
        skipped=skipped,
        shortened=ShortenedSamples(output_dir / "shortened.jsonl", checkpoint is not None, writes=main_process),
        mixture=mixture,
    )
    trainer.remove_callback(PrinterCallback)
    if arguments.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
    counts = count_parameters(model)
    if main_process:
        usable = run_state["samples"] - len(skipped)
        names = ", ".join(source.name for source in data.sources)
        console.print(f"{usable:,} samples from {names}; {skipped.summary()}", soft_wrap=True)
        if data.found.shortened:
            console.print(f"{data.found.shortened:,} of them lose {' or '.join(data_arguments.too_long)} to fit")
        if not data.surveyed and ends_with_the_data:
            console.print(
                f"the data was not looked through: {arguments.max_steps:,} steps are the most that it makes, and the "
                "schedule is planned for them (packing makes fewer); the run ends with the data",
                soft_wrap=True,
            )
        for line in mixture.other_sizes():
            console.print(line, soft_wrap=True)
        if mixture.failed:
            print_failed(console, mixture)
        console.print(describe_pictures(processor), soft_wrap=True)
        print_parameter_table(counts, trainer.freeze_schedule)
        output_dir.mkdir(parents=True, exist_ok=True)
        resolved = resolve_recipe(recipe, model_arguments, data_arguments, arguments)
        if ends_with_the_data:
            del resolved["max_steps"]  # it was counted, not asked for
        (output_dir / "recipe.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False), encoding="utf-8")
        write_run(output_dir, run_state)
        save_mixture(output_dir, mixture)

    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
    run_state |= {
        "train_seconds": time.perf_counter() - started,
        "steps": trainer.state.global_step,
        "resumed_at_step": step_of(checkpoint) if checkpoint is not None else 0,
        "hardware": hardware(),
        "parameters": {part: count["total"] for part, count in counts.items()},
    }
    trainer.source_books.gather()
    if not trainer.books.gather().samples:
        raise SampleError("data", f"no sample could be trained on: {skipped.summary()}")
    if main_process:
        write_run(output_dir, run_state)
        save_mixture(output_dir, mixture, trainer.source_books)
        if len(mixture.names) > 1:
            print_shares(console, mixture, trainer.source_books)
    return trainer


def refuse_model_in_the_way(model: str | None, output_dir: Path) -> None:
    """Raises RecipeError when the run would overwrite the model that it begins with, or begins with an adapter."""
    if model is None:
        return
    path = Path(model)
    if not path.exists() and (path.is_absolute() or len(path.parts) != 2 or path.parent.is_dir()):
        raise RecipeError(f"there is no checkpoint {model}")  # and no id of the Hub looks so
    if Path(model, "adapter_config.json").is_file():
        raise RecipeError(f"{model} is an adapter: merge it with its base first (smol-hf merge)")
    for name in ("checkpoint", "adapter"):
        if (output_dir / name).resolve() == Path(model).resolve():
            raise RecipeError(f"{model} is what this run would write its result to: choose another output_dir")


@contextmanager
def recipe_errors(problem: str) -> Iterator[None]:
    """What libraries raise about values of the recipe, as one kind of error that a person reads."""
    try:
        yield
    except (RecipeError, SampleError, FileNotFoundError):
        raise
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        ZeroDivisionError,
        ImportError,
        OSError,
        RuntimeError,
    ) as error:
        raise RecipeError(f"{problem}: {type(error).__name__}: {error}") from error


def context_length(asked: int | None, config: PretrainedConfig) -> int:
    """The recipe's, or the language model's positions, at most 2048. Raises RecipeError when there are too few."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or DEFAULT_CONTEXT_LENGTH
    if asked is None:
        return min(positions, DEFAULT_CONTEXT_LENGTH)
    if asked > positions:
        raise RecipeError(
            f"context_length {asked} is more than the {positions} positions of the language model "
            "(text_config.max_position_embeddings)"
        )
    return asked


def describe_pictures(processor) -> str:
    """What becomes of a picture, so that nobody wonders why small writing is not read."""
    tile, tokens, side = processor.tile_size, processor.image_seq_len, processor.tiler.max_tiles_per_side
    if side < 2:
        return f"a picture becomes one tile of {tile} × {tile} pixels, {tokens} tokens"
    return (
        f"a picture is brought to {processor.longest_edge} pixels on its longer side and cut into tiles of "
        f"{tile} × {tile}, {tokens} tokens each, at most {side} × {side} and an overview"
    )


def write_run(output_dir: Path, run_state: dict) -> None:
    (output_dir / "run.json").write_text(json.dumps(run_state, indent=1) + "\n", encoding="utf-8")
