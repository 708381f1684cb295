"""One run from a recipe: data → model → training → the folder that anyone can load."""

from __future__ import annotations

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
from transformers.trainer_utils import IntervalStrategy

from smol_hf.data.collator import SmolCollator
from smol_hf.data.conversation import SampleError
from smol_hf.data.engine.stream import RowStream
from smol_hf.data.failed_sources import refuse_disagreement
from smol_hf.data.mixture import Data
from smol_hf.data.shares import PlannedMixture
from smol_hf.data.shortened_samples import ShortenedSamples
from smol_hf.data.skipped import SkippedSamples
from smol_hf.data.tokenizer_of import is_language_model, tokenizer_of
from smol_hf.training.announcement import describe_pictures, describe_samples, describe_vocabulary, warnings_of
from smol_hf.training.arguments import SmolTrainingArguments
from smol_hf.training.checkpoints import choose_checkpoint, step_of
from smol_hf.training.composition import build_model_and_processor, texts_of
from smol_hf.training.console import LogCallback
from smol_hf.training.data import fingerprint, look_through, open_data, plan_of, rows_of_the_run, trainable
from smol_hf.training.data_arguments import DataArguments
from smol_hf.training.document_data import DocumentData
from smol_hf.training.hardware import hardware
from smol_hf.training.interruption import train_until_stopped
from smol_hf.training.loader import load_data_state
from smol_hf.training.lora import add_adapters, freeze_what_has_no_adapter
from smol_hf.training.mixture_report import print_failed, print_shares, save_mixture
from smol_hf.training.model_arguments import ModelArguments
from smol_hf.training.packed_rows import refuse_seeing_others
from smol_hf.training.parts import count_parameters
from smol_hf.training.preview import print_parameter_table
from smol_hf.training.recipes import RecipeError
from smol_hf.training.run_record import resolve_recipe, versions, write_run
from smol_hf.training.same_run import check_same_run, rows_of_a_step, settings_for_resume
from smol_hf.training.trainer import SmolTrainer
from smol_hf.training.validation import Validation

DEFAULT_CONTEXT_LENGTH = 2048
TOKENIZER_SAMPLES = 10_000  # of the data, from which a recipe without a tokenizer gets one


def train(
    recipe: dict, model_arguments: ModelArguments, data_arguments: DataArguments, arguments: SmolTrainingArguments
) -> SmolTrainer:
    """Run the recipe, from the beginning or from a checkpoint, and return the trainer with the trained model.

    Writes into `output_dir`: `recipe.yaml` (resolved), `run.json` (versions, seed, data fingerprint, and at the end
    the training time), `mixture.json` (planned and realised shares), `log.jsonl`, `checkpoint-<step>/`, and where
    there is a reason `skipped.jsonl`, `shortened.jsonl` and `skipped_steps.jsonl`.

    Raises:
        RecipeError, SampleError, CheckpointError, NonFiniteError: see there; each says what to do.
        Interrupted: when a signal ended the training, after a checkpoint was saved.
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
        data, documents = open_for_run(data_arguments, arguments.seed)
    if main_process and model_arguments.model is None and model_arguments.tokenizer is None:
        console.print("no tokenizer is named: one is trained on the texts of the data")
    with recipe_errors("the model cannot be built"):
        model, processor = build_model_and_processor(
            model_arguments,
            documents.texts() if documents is not None else texts_of(data.conversations(TOKENIZER_SAMPLES)),
            documents=documents is not None,
            trust_remote_code=arguments.trust_remote_code,
        )
        if documents is not None or data_arguments.sample_packing:
            refuse_seeing_others(
                getattr(model, "language_model", model), "sample_packing" if documents is None else "documents"
            )
        if model_arguments.use_peft:
            freeze_what_has_no_adapter(model_arguments, arguments)
            model = add_adapters(model, model_arguments, arguments.part_learning_rates(), tokenizer_of(processor))
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
    tokenised = validation = None
    if documents is not None:
        with recipe_errors("the documents cannot be tokenised"):
            tokenised = documents.tokenise(processor, data_arguments, console)
        tokenised.settle(skipped)
        data, validation = tokenised.data(), tokenised.validation()
    if documents is not None and validation is None:
        arguments.eval_strategy = IntervalStrategy.NO
    refuse_evaluation_of_nothing(arguments, validation)
    lanes, states = (data_arguments.data_lanes, {}) if checkpoint is None else load_data_state(checkpoint)
    plan = plan_of(data, processor, data_arguments, arguments, lanes)
    with recipe_errors("the data cannot be shared"):
        RowStream(plan, 0, PartialState().num_processes, arguments.dataloader_num_workers)
    if tokenised is None:
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
    arguments.count_intervals()
    run_state = {
        "data_fingerprint": fingerprint(data, read_images=data_arguments.verify_images),
        "samples": data.found.total or sum(len(source) for source in data.sources),
        "failed_sources": {each.name: each.reason for each in mixture.failed},
        "seed": arguments.seed,
        **settings_for_resume(model_arguments, data_arguments, arguments),
        "versions": versions(),
    }
    changes = check_same_run(checkpoint, run_state) if checkpoint is not None else []

    trainer = SmolTrainer(
        model=model,
        args=arguments,
        plan=plan,
        data_states=states,
        rows_per_epoch=-(-rows // max(1, round(epochs))),
        processing_class=processor,
        data_collator=collator_of(processor, data_arguments, model_arguments),
        callbacks=[LogCallback(output_dir, run_state["failed_sources"])],
        run_state=run_state,
        skipped=skipped,
        shortened=ShortenedSamples(output_dir / "shortened.jsonl", checkpoint is not None, writes=main_process),
        mixture=mixture,
        validation=validation,
    )
    trainer.remove_callback(PrinterCallback)
    if arguments.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
    counts = count_parameters(model)
    if main_process:
        if tokenised is not None:
            lines = [*tokenised.in_words(skipped), describe_vocabulary(processor, model.config)]
        else:
            lines = describe_samples(
                data, data_arguments, skipped, arguments.max_steps if ends_with_the_data else None
            )
        lines += [f"changed from step {step_of(checkpoint):,} on: {change}" for change in changes]
        for line in [*lines, *mixture.other_sizes()]:
            console.print(line, soft_wrap=True)
        if mixture.failed:
            print_failed(console, mixture)
        if not is_language_model(processor):
            console.print(describe_pictures(processor), soft_wrap=True)
        for line in warnings_of(arguments, model, model_arguments.lora_r):
            console.print(line, soft_wrap=True)
        print_parameter_table(counts, trainer.freeze_schedule)
        output_dir.mkdir(parents=True, exist_ok=True)
        resolved = resolve_recipe(recipe, model_arguments, data_arguments, arguments)
        if ends_with_the_data:
            del resolved["max_steps"]  # it was counted, not asked for
        (output_dir / "recipe.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False), encoding="utf-8")
        write_run(output_dir, run_state)
        save_mixture(output_dir, mixture)

    resumed_at = step_of(checkpoint) if checkpoint is not None else 0  # the folder may be rotated away meanwhile
    started = time.perf_counter()
    train_until_stopped(trainer, checkpoint)
    run_state |= {
        "train_seconds": time.perf_counter() - started,
        "steps": trainer.state.global_step,
        "resumed_at_step": resumed_at,
        "hardware": hardware(),
        "tokens_per_second": trainer.books.rate(),
        "parameters": {part: count["total"] for part, count in counts.items()},
    }
    if validation is not None:
        if trainer.validated_at != trainer.state.global_step or arguments.load_best_model_at_end:
            trainer.evaluate()
        run_state["validation"] = trainer.validated
    trainer.source_books.gather()
    if not trainer.books.gather().samples:
        raise SampleError("data", f"no sample could be trained on: {skipped.summary()}")
    if main_process:
        write_run(output_dir, run_state)
        save_mixture(output_dir, mixture, trainer.source_books)
        if len(mixture.names) > 1:
            print_shares(console, mixture, trainer.source_books)
    return trainer


def open_for_run(arguments: DataArguments, seed: int) -> tuple[Data | None, DocumentData | None]:
    """Conversations, or documents that are to be tokenised."""
    if arguments.documents is not None:
        return None, DocumentData.open(arguments)
    return trainable(open_data(arguments, seed), arguments), None


def collator_of(processor, data_arguments: DataArguments, model_arguments: ModelArguments) -> SmolCollator:
    """Documents fill their rows, so that rows are stacked, but for attention that takes rows of any length in one."""
    if data_arguments.documents is None:
        return SmolCollator(processor, packing=data_arguments.sample_packing)
    in_one = "flash" in model_arguments.attn_implementation
    return SmolCollator(processor, packing=True, row_length=None if in_one else data_arguments.context_length)


def refuse_evaluation_of_nothing(arguments: SmolTrainingArguments, validation: Validation | None) -> None:
    if validation is None and arguments.eval_strategy != IntervalStrategy.NO:
        raise RecipeError(
            f"eval_strategy {arguments.eval_strategy.value} has nothing to evaluate: it needs documents of which some "
            "are held out (validation_fraction), or validation_documents"
        )


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
