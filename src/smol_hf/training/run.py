"""One run from a recipe: data → model → training → the folder that anyone can load."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from accelerate import PartialState
from rich.console import Console
from transformers import set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from smol_hf.data.collator import SmolCollator
from smol_hf.data.conversation import Conversation, SampleError
from smol_hf.data.dataset import build_dataset, conversations_from_file, fingerprint
from smol_hf.data.embedded import build_pages
from smol_hf.data.skipped import SkippedSamples
from smol_hf.training.arguments import DataArguments, ModelArguments, SmolTrainingArguments
from smol_hf.training.checkpoints import CheckpointError, choose_checkpoint
from smol_hf.training.composition import build_model_and_processor
from smol_hf.training.console import LogCallback
from smol_hf.training.lora import add_adapters, freeze_what_has_no_adapter
from smol_hf.training.lora_arguments import LoraArguments
from smol_hf.training.parts import count_parameters
from smol_hf.training.preview import print_parameter_table
from smol_hf.training.recipes import ARGUMENT_CLASSES, RecipeError
from smol_hf.training.trainer import SmolTrainer

DEFAULT_CONTEXT_LENGTH = 2048
# Of the training arguments, those without which a resumed run would see other samples.
REPEATED = (
    "seed",
    "optim",
    "data_seed",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
)
PACKAGES = ("smol_hf", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "safetensors")


def load_conversations(arguments: DataArguments, seed: int) -> Iterable[Conversation | SampleError]:
    """The samples that `data` names, in the order of the file (or of the page builder)."""
    if arguments.data == "digits":
        pages = build_pages(
            arguments.num_pages,
            seed=seed,
            split="train",
            page_size=arguments.page_size,
            turns=arguments.turns_per_page,
        )
        return (page.conversation for page in pages)
    return conversations_from_file(arguments.data, arguments.image_folder)


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
    the training time), `log.jsonl`, `checkpoint-<step>/`, and where there is a reason `skipped.jsonl` and
    `skipped_steps.jsonl`.

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
        conversations = list(load_conversations(data_arguments, arguments.seed))
    usable = [conversation for conversation in conversations if isinstance(conversation, Conversation)]
    with recipe_errors("the model cannot be built"):
        model, processor = build_model_and_processor(
            model_arguments, usable, trust_remote_code=arguments.trust_remote_code
        )
        if model_arguments.use_peft:
            freeze_what_has_no_adapter(model_arguments, arguments)
            model = add_adapters(model, model_arguments, arguments.part_learning_rates(), processor.tokenizer)
    data_arguments.context_length = context_length(data_arguments.context_length, model)
    skipped = SkippedSamples(
        data_arguments.on_bad_sample,
        data_arguments.max_skipped_fraction,
        output_dir / "skipped.jsonl",
        writes_plan=main_process,
        keeps_earlier=checkpoint is not None,
    )
    dataset = build_dataset(
        conversations,
        processor,
        context_length=data_arguments.context_length,
        skipped=skipped,
        verify_images=data_arguments.verify_images and data_arguments.data != "digits",
    )
    run_state = {
        "data_fingerprint": fingerprint(dataset, read_images=data_arguments.verify_images),
        "samples": len(dataset),
        "seed": arguments.seed,
        "repeats": what_must_repeat(model_arguments, data_arguments, arguments),
        "versions": versions(),
    }
    if checkpoint is not None:
        check_same_run(checkpoint, run_state)

    trainer = SmolTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        processing_class=processor,
        data_collator=SmolCollator(
            processor, packing=data_arguments.sample_packing, on_bad_sample=data_arguments.on_bad_sample
        ),
        callbacks=[LogCallback(output_dir)],
        run_state=run_state,
        skipped=skipped,
    )
    trainer.remove_callback(PrinterCallback)
    if arguments.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
    counts = count_parameters(model)
    if main_process:
        console.print(f"{len(dataset):,} samples from {data_arguments.data}; {skipped.summary()}", soft_wrap=True)
        console.print(describe_pictures(processor), soft_wrap=True)
        print_parameter_table(counts, trainer.freeze_schedule)
        output_dir.mkdir(parents=True, exist_ok=True)
        resolved = resolve_recipe(recipe, model_arguments, data_arguments, arguments)
        (output_dir / "recipe.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False), encoding="utf-8")
        write_run(output_dir, run_state)

    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
    run_state |= {
        "train_seconds": time.perf_counter() - started,
        "steps": trainer.state.global_step,
        "parameters": {part: count["total"] for part, count in counts.items()},
    }
    if main_process:
        write_run(output_dir, run_state)
    return trainer


def refuse_model_in_the_way(model: str | None, output_dir: Path) -> None:
    """Raises RecipeError when the run would overwrite the model that it begins with, or begins with an adapter."""
    if model is None:
        return
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


def context_length(asked: int | None, model) -> int:
    """The recipe's, or the language model's positions, at most 2048. Raises RecipeError when there are too few."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or DEFAULT_CONTEXT_LENGTH
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


def what_must_repeat(
    model_arguments: ModelArguments, data_arguments: DataArguments, arguments: SmolTrainingArguments
) -> dict:
    """The values that decide which samples a step sees and which tensors a checkpoint holds."""
    values = {**vars(model_arguments), "sample_packing": data_arguments.sample_packing}
    del values["attn_implementation"]
    values |= {name: getattr(arguments, name) for name in REPEATED}
    values["processes"] = PartialState().num_processes
    values["frozen parts"] = sorted(part for part, rate in arguments.part_learning_rates().items() if rate == 0)
    return json.loads(json.dumps(values, default=str))


def write_run(output_dir: Path, run_state: dict) -> None:
    (output_dir / "run.json").write_text(json.dumps(run_state, indent=1) + "\n", encoding="utf-8")


def check_same_run(checkpoint: Path, run_state: dict) -> None:
    """Raises CheckpointError, naming what changed, when going on would not repeat the interrupted run."""
    before = json.loads((checkpoint / "run.json").read_text(encoding="utf-8"))
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
