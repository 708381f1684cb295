"""A recipe's data keys → the plan of its rows, measured before the run if possible."""

from __future__ import annotations

import itertools
import math
import operator
from dataclasses import replace
from typing import Any

from accelerate import PartialState
from rich.console import Console
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from smol_hf.data.conversation import SampleError
from smol_hf.data.mixture.mixture import FIRST_RECORDS, MOST_SURVEYED, Data, without_unusable
from smol_hf.data.report.skipped import SkippedSamples
from smol_hf.data.sources.source import BlockCache
from smol_hf.data.stream.preparation import SampleWork
from smol_hf.data.stream.record_use import describe_unknown, unknown_share
from smol_hf.data.stream.size_cache import digest_images, measured
from smol_hf.data.stream.stream import Plan, check_shares
from smol_hf.data.stream.survey import Measured, count_rows, survey_first
from smol_hf.support.formatting import duration
from smol_hf.support.tokenizer_of import is_language_model
from smol_hf.text.chat import TextChatWork
from smol_hf.text.documents.token_source import TokenCount, TokenWork
from smol_hf.training.log.console import ProgressLines
from smol_hf.training.model.chat_template import chat_of
from smol_hf.training.recipe.arguments import SmolTrainingArguments
from smol_hf.training.recipe.data_arguments import DataArguments
from smol_hf.training.recipe.values import RecipeError, recipe_errors
from smol_hf.training.sources import entry_of, open_entries, open_one, with_revisions
from smol_hf.training.validation.held_out import keep_sources, most_rows, note_rows, without_held_out

DEFAULT_CONTEXT_LENGTH = 2048
GIVE_UP_AFTER = 20  # faults of a source of which a lane has seen nothing usable


def open_data(arguments: DataArguments, seed: int, *, whole: bool = False) -> Data:
    """Open the sources of `data`. Raises FileNotFoundError, SampleError, ValueError.

    Args:
        whole: with the samples that `eval_fraction` holds out.
    """
    if arguments.mixture is not None:
        data = open_entries(arguments, arguments.mixture, seed)
        arguments.mixture = with_revisions(arguments.mixture, data)
    else:
        data = open_one(arguments, entry_of(arguments), seed)
        arguments.dataset_revision = data.sources[0].revision  # for the saved recipe
    if arguments.eval_fraction and not whole:
        data = without_held_out(data, arguments.eval_fraction, arguments.stopping)
    return data


def check_lanes(lanes: int, training: SmolTrainingArguments, processes: int, is_resumed: bool = False) -> None:
    """Raise RecipeError if the processes and their workers cannot share the data lanes evenly."""
    try:
        check_shares(lanes, processes, training.dataloader_num_workers, fixed=is_resumed)
    except ValueError as error:
        raise RecipeError(str(error)) from error


def context_length(asked: int | None, config: PretrainedConfig) -> int:
    """Return the asked length, or the model's positions up to 2048. Raises RecipeError for too few positions."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or DEFAULT_CONTEXT_LENGTH
    if asked is None:
        return min(positions, DEFAULT_CONTEXT_LENGTH)
    if asked > positions:
        raise RecipeError(
            f"context_length {asked} is more than the {positions} positions of the language model "
            "(text_config.max_position_embeddings)"
        )
    return asked


def set_video_keys(processor, arguments: DataArguments) -> None:
    """Give the processor the recipe's keys of videos; others keep its values.

    Raises:
        RecipeError: for keys that contradict each other, and for a text-only model.
    """
    names = ("video_fps", "video_max_frames", "video_min_frames", "video_frame_size", "video_style")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if given and is_language_model(processor):
        raise RecipeError(f"{' and '.join(given)} have no effect on a text-only model: leave them out")
    for name, value in given.items():
        setattr(processor, name, value)
    if given:
        with recipe_errors("the frames of videos cannot be chosen"):
            _ = processor.video_sampling


def refuse_unreadable(data: Data, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise RecipeError if a text-only model can read none of the first records.

    It cannot if all show images or videos, or if all are plain texts and it has no chat template.
    """
    first = list(data.conversations(10))
    if first and all(each.media for each in first):
        raise RecipeError(
            f"the model is text-only, it has no image encoder, but {first[0].sample_id} shows an image or a video: "
            "smol-hf compose adds an image encoder"
        )
    if first and tokenizer.chat_template is None and all(each.document is not None for each in first):
        raise RecipeError(
            f"{first[0].sample_id} is a plain text, but the model has no chat template, which train needs: train "
            "plain texts with smol-hf pretrain, or name a template, such as chat_template: chatml"
        )


def plan_of(data: Data, processor, arguments: DataArguments, training: SmolTrainingArguments, lanes: int) -> Plan:
    """Return the plan of a run's rows."""
    assert arguments.context_length is not None  # it is known once the model is built
    work: Any = TokenWork()
    if arguments.documents is None:
        if is_text_only := is_language_model(processor):
            refuse_unreadable(data, processor)
        work = (TextChatWork if is_text_only else SampleWork)(
            chat_of(processor) if is_text_only else processor,
            arguments.context_length,
            data.readers,
            too_long=arguments.too_long,
            image_resizing=arguments.image_resizing,
        )
    is_packed = arguments.sample_packing or arguments.documents is not None
    return Plan(
        data.sources,
        data.weights,
        work,
        arguments.context_length,
        seed=training.data_seed if training.data_seed is not None else training.seed,
        rounds=None if training.max_steps > 0 else math.ceil(training.num_train_epochs),
        lanes=lanes,
        pool_size=arguments.packing_pool if is_packed else 1,
        max_tiles=arguments.max_tiles_per_row,
        give_up_after=GIVE_UP_AFTER if arguments.on_failed_source == "reweight" else None,
    )


def measure_data(
    plan: Plan,
    data: Data,
    arguments: DataArguments,
    skipped: SkippedSamples,
    console: Console | None = None,
    validation: Data | None = None,
) -> tuple[Plan, Data]:
    """Measure the data if it is local and not too large, and decide by its faults whether the run may begin.

    Args:
        console: for the progress, which only the main process shows.
        validation: samples that are validated on. Their faults count too.

    Returns:
        The plan and the data, without the unusable sources of a mixture if the recipe allows it.

    Raises:
        SampleError: see `SkippedSamples.settle`; and for data without any record.
    """
    left = f" to train on: eval_fraction {arguments.eval_fraction} holds out all" if arguments.eval_fraction else ""
    nothing = SampleError("data", f"the data holds no sample{left}")
    if not sum(len(source) for source in data.sources):
        raise nothing
    both = [data] if validation is None else [data, validation]
    if not data.surveyed:
        skipped.expect({source.name: len(source) for each in both for source in each.sources})
        data.found = survey_first(data.samples(FIRST_RECORDS, local_only=True), data.readers)
        digest_images(data.found, arguments.verify_images)
        return plan, data
    state = PartialState()
    progress = ProgressLines(console if state.is_main_process else None)
    measurable = [each for each in both if each.surveyed]
    total, count = (
        sum(int(sum(source.block_sizes)) for each in measurable for source in each.sources),
        itertools.count(1),
    )

    def advance() -> None:
        done = next(count)
        progress.show(lambda seconds: describe_progress(done, total, seconds))

    for each in measurable:
        each.found = measured(
            replace(plan, sources=each.sources, weights=each.weights, work=plan.work.with_readers(each.readers)),
            verify_images=arguments.verify_images,
            advance=advance,
            leads=state.is_local_main_process,
            wait=state.wait_for_everyone,
        )
        note_rows(each)
    if not data.found.total:
        raise nothing
    if data.entries:
        data = without_unusable(data, arguments.stopping, arguments.on_failed_source)
        work = plan.work.with_readers(data.readers)
        plan = replace(plan, sources=data.sources, weights=data.weights, work=work)
    if validation is not None and arguments.eval_fraction:
        keep_sources(validation, {source.name for source in data.sources})
    both = [data] if validation is None else [data, validation]
    sizes = {}
    for each in both:
        names = [source.name for source in each.sources]
        sizes |= each.found.sizes(names) if each.surveyed else dict(zip(names, map(len, each.sources)))
        skipped.faults += each.found.faults
        skipped.left_out += each.found.left_out
    skipped.settle(sizes, max(each.found.longest_run for each in both))
    if unknown_share(data.found.use) > arguments.max_unknown_fraction:
        limit = f"This is more than max_unknown_fraction {arguments.max_unknown_fraction}"
        raise SampleError("data", "\n".join([*describe_unknown(data.found.use), limit]))
    return plan, data


def describe_progress(done: int, total: int, seconds: float) -> str:
    rate = done / seconds
    return (
        f"measuring the data: {done:,} of {total:,} records, {rate:,.0f} per second, "
        f"{duration((total - done) / rate)} left"
    )


def rows_of_the_run(plan: Plan, data: Data, epochs: float, processes: int = 1) -> int:
    """Return the number of rows of the epochs, if each process takes as many as the one with the most.

    It is an upper limit for data that was not measured: packing makes fewer rows.
    """
    rounds = max(math.ceil(epochs), 1)
    by_lane = None
    if data.found.total:
        known = Measured(plan.sources, data.found)
        by_lane = count_rows(replace(plan, work=known), rounds, known)
    elif isinstance(plan.work, TokenWork) and sum(map(len, plan.sources)) <= MOST_SURVEYED:
        by_lane = count_rows(replace(plan, work=TokenCount()), rounds, BlockCache(plan.sources))
    if by_lane is not None:
        rows = processes * max(sum(by_lane[process::processes]) for process in range(processes))
    else:
        rows = math.ceil(rounds * sum(map(operator.mul, map(most_rows, data.sources), data.weights)))
    return max(1, math.ceil(rows * epochs / rounds))
