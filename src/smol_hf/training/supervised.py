"""Next-token training with `SmolTrainer`, on the answers of conversations or on plain texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers.trainer_utils import IntervalStrategy

from smol_hf.data.collator import SmolCollator
from smol_hf.data.conversation import SampleError
from smol_hf.data.mixture.failed_sources import refuse_disagreement
from smol_hf.data.mixture.mixture import Data
from smol_hf.data.mixture.shares import PlannedMixture
from smol_hf.data.report.shortened_samples import ShortenedSamples
from smol_hf.data.stream.stream import Plan
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.modeling.configuration_smol_hf_text import SmolHFTextConfig
from smol_hf.support.tokenizer_of import is_language_model, tokenizer_of
from smol_hf.training.checkpoint.fingerprints import document_fingerprints, fingerprint, source_fingerprints
from smol_hf.training.checkpoint.same_run import rows_of_a_step
from smol_hf.training.data import (
    check_lanes,
    context_length,
    measure_data,
    open_data,
    plan_of,
    rows_of_the_run,
    set_video_keys,
)
from smol_hf.training.document_data import DocumentData, TokenisedDocuments
from smol_hf.training.loader import load_data_state
from smol_hf.training.log.console import LogCallback
from smol_hf.training.log.mixture_report import describe_failed, print_shares, save_mixture
from smol_hf.training.log.startup_summary import (
    describe_images,
    describe_samples,
    describe_turns,
    describe_videos,
    describe_vocabulary,
    parameter_table,
    warnings_of,
)
from smol_hf.training.model.composition import build_model_and_processor, texts_of
from smol_hf.training.model.lora import add_adapters, freeze_what_has_no_adapter
from smol_hf.training.model.packed_rows import describe_attention, refuse_seeing_others
from smol_hf.training.model.parts import refuse_changing_features
from smol_hf.training.model.plain_model import cached_features
from smol_hf.training.recipe.arguments import SmolTrainingArguments
from smol_hf.training.recipe.data_arguments import DataArguments
from smol_hf.training.recipe.values import RecipeError, recipe_errors
from smol_hf.training.run import Run
from smol_hf.training.sources import open_validation
from smol_hf.training.trainer import SmolTrainer
from smol_hf.training.validation.early_stopping import (
    best_of,
    check_metric,
    describe_end,
    early_stopping,
    refuse_needed_validation,
)
from smol_hf.training.validation.held_out import describe_validation
from smol_hf.training.validation.measure import Validation, validation_of

OURS = (SmolHFConfig.model_type, SmolHFTextConfig.model_type)
TOKENIZER_SAMPLES = 10_000  # of the data, from which a recipe without a tokenizer gets one


class SupervisedRun(Run):
    """Rows of a data plan, stacked by `SmolCollator`."""

    arguments: SmolTrainingArguments
    data_arguments: DataArguments
    data: Data
    plan: Plan
    validation: Validation | None = None
    of_documents = False

    def texts(self) -> Iterable[str]:
        """Return the texts that a tokenizer is trained on if the recipe names none."""
        raise NotImplementedError

    def build(self):
        keys = self.model_arguments
        model, processor = build_model_and_processor(
            keys, self.texts(), documents=self.of_documents, trust_remote_code=self.arguments.trust_remote_code
        )
        if self.packs:
            cause = "documents" if self.of_documents else "sample_packing"
            refuse_seeing_others(getattr(model, "language_model", model), cause)
        if keys.use_peft:
            freeze_what_has_no_adapter(keys, self.arguments)
            model = add_adapters(model, keys, self.arguments.part_learning_rates(), tokenizer_of(processor))
        if keys.cache_image_features:
            refuse_changing_features(model.config, self.arguments.part_learning_rates())
        self.data_arguments.context_length = context_length(self.data_arguments.context_length, model.config)
        return model, processor

    def setup(self):
        super().setup()
        self.lanes, self.states = self.data_arguments.data_lanes, {}
        if is_resumed := self.checkpoint is not None:
            self.lanes, self.states = load_data_state(self.checkpoint)
        check_lanes(self.lanes, self.arguments, PartialState().num_processes, is_resumed)

    def name_unusable(self) -> None:
        """Name the unusable samples of the plan."""

    def source_fingerprints(self) -> dict[str, str]:
        return source_fingerprints(self.data)

    def measure(self):
        arguments, processes = self.arguments, PartialState().num_processes
        self.plan = plan_of(self.data, self.processor, self.data_arguments, arguments, self.lanes)
        self.name_unusable()
        if self.validation is not None:
            check_metric(arguments, self.validation.metrics)
        self.mixture = PlannedMixture.of(self.data)
        refuse_disagreement(gather_object([[each.name for each in self.mixture.failed]]))
        epochs = 1 if arguments.max_steps > 0 else arguments.num_train_epochs
        rows = rows_of_the_run(self.plan, self.data, epochs, processes)
        self.rows_per_epoch = -(-rows // max(1, round(epochs)))
        self.ends_with_the_data = arguments.max_steps <= 0
        if self.ends_with_the_data:
            arguments.max_steps = -(-rows // rows_of_a_step(arguments))
            with recipe_errors("the schedule does not fit the data"):
                arguments.check_schedule(arguments.max_steps)
        arguments.count_intervals()

    def facts(self):
        return {
            "data_fingerprint": fingerprint(self.data, read_images=self.data_arguments.verify_images),
            "source_fingerprints": self.source_fingerprints(),
            "samples": self.data.found.total or sum(len(source) for source in self.data.sources),
            "failed_sources": {each.name: each.reason for each in self.mixture.failed},
        }

    @property
    def packs(self) -> bool:
        return self.of_documents or self.data_arguments.sample_packing

    def collator(self, row_length: int | None = None) -> SmolCollator:
        ours = self.model.config.model_type in OURS
        return SmolCollator(self.processor, packing=self.packs, row_length=row_length, locate=ours)

    def trainer(self):
        shortened = self.output_dir / "shortened.jsonl"
        trainer = SmolTrainer(
            model=self.model,
            args=self.arguments,
            plan=self.plan,
            data_states=self.states,
            rows_per_epoch=self.rows_per_epoch,
            processing_class=self.processor,
            data_collator=self.collator(),
            callbacks=[
                LogCallback(self.output_dir, self.run_state["failed_sources"]),
                *early_stopping(self.arguments),
            ],
            run_state=self.run_state,
            skipped=self.skipped,
            shortened=ShortenedSamples(shortened, self.checkpoint is not None, writes=self.is_main_process),
            mixture=self.mixture,
            validation=self.validation,
            max_unknown=None if self.data.found.total else self.data_arguments.max_unknown_fraction,
        )
        if self.model_arguments.cache_image_features:
            trainer.data_collator.image_features = cached_features(trainer)
        return trainer

    def describe_data(self) -> list[str]:
        """Return sentences about the samples and their use."""
        raise NotImplementedError

    def describe(self, trainer, changes):
        lines = [*self.describe_data(), *changes, *describe_turns(self.plan.work), *self.mixture.other_sizes()]
        if self.mixture.failed:
            lines += describe_failed(self.mixture)
        if not is_language_model(self.processor):
            lines.append(describe_images(self.processor))
            if any(use.videos for use in self.data.found.use.values()):
                lines.append(describe_videos(self.processor))
        autocast = torch.bfloat16 if self.arguments.bf16 else torch.float16 if self.arguments.fp16 else None
        lines.append(describe_attention(self.model, self.packs, self.arguments.device, autocast or self.model.dtype))
        if (features := trainer.data_collator.image_features) is not None:
            lines.append(features.describe(self.data.found.tiles))
        lines += warnings_of(self.arguments, self.model, self.model_arguments.lora_r)
        return [*lines, parameter_table(trainer.model, trainer.freeze_schedule)]

    def save_shares(self, trainer=None):
        save_mixture(self.output_dir, self.mixture, None if trainer is None else trainer.counters)
        if trainer is not None and len(self.mixture.names) > 1:
            print_shares(self.console, self.mixture, trainer.counters)

    def finish(self, trainer) -> dict[str, Any]:
        facts = {"tokens_per_second": trainer.counters.rate()}
        if (features := trainer.data_collator.image_features) is not None:
            found, computed = (sum(each) for each in zip(*gather_object([(features.found, features.computed)])))
            if self.is_main_process:
                self.console.print(features.describe_use(found, computed))
        if self.validation is not None:
            if trainer.validated is None:
                trainer.evaluate()
            facts["validation"] = trainer.validated
            facts |= best_of(trainer.state, self.arguments)
            for line in describe_end(trainer.state, self.arguments) if self.is_main_process else ():
                self.console.print(line)
        if not trainer.counters.gather()["samples"]:
            raise SampleError("data", f"no sample could be trained on: {self.skipped.summary()}")
        return facts


class ConversationRun(SupervisedRun):
    """Answers of an assistant, in conversations with or without images."""

    validation_data: Data | None = None

    def check(self):
        super().check()
        if not self.data_arguments.validates and self.arguments.eval_strategy != IntervalStrategy.NO:
            raise RecipeError(
                f"eval_strategy {IntervalStrategy(self.arguments.eval_strategy).value} has nothing to evaluate: set "
                "eval_fraction, eval_data or eval_mixture (documents have validation_fraction)"
            )

    def open(self):
        self.data = open_data(self.data_arguments, self.arguments.seed)
        self.validation_data = open_validation(self.data, self.data_arguments, self.arguments.seed)

    def build(self):
        model, processor = super().build()
        set_video_keys(processor, self.data_arguments)
        return model, processor

    def texts(self):
        return texts_of(self.data.conversations(TOKENIZER_SAMPLES))

    def name_unusable(self):
        keys, held_out = self.data_arguments, self.validation_data
        self.plan, self.data = measure_data(self.plan, self.data, keys, self.skipped, self.console, held_out)
        if held_out is not None:
            self.validation = validation_of(self.plan, held_out, keys, self.arguments.dataloader_num_workers)
            if self.validation is None:
                refuse_needed_validation(self.arguments)
                self.arguments.eval_strategy = IntervalStrategy.NO

    def describe_data(self):
        steps = self.arguments.max_steps if self.ends_with_the_data else None
        lines = describe_samples(self.data, self.data_arguments, self.skipped, steps)
        return lines + describe_validation(self.data, self.validation_data, self.data_arguments.eval_fraction)


class DocumentRun(SupervisedRun):
    """Plain texts, tokenised once before the run. A part of them is held out for validation."""

    of_documents = True
    tokenised: TokenisedDocuments

    def open(self):
        self.documents = DocumentData.open(self.data_arguments)

    def texts(self):
        return self.documents.texts()

    def measure(self):
        with recipe_errors("the documents cannot be tokenised"):
            self.tokenised = self.documents.tokenise(self.processor, self.data_arguments, self.console)
        self.tokenised.settle(self.skipped)
        self.data, self.validation = self.tokenised.data(), self.tokenised.validation()
        if self.validation is None:
            self.arguments.eval_strategy = IntervalStrategy.NO
        super().measure()

    def source_fingerprints(self):
        return document_fingerprints(self.documents)

    def collator(self, row_length=None):
        """Stack rows of documents, which are full. Flash attention takes one row of any length."""
        in_one = "flash" in self.model_arguments.attn_implementation
        return super().collator(None if in_one else self.data_arguments.context_length)

    def describe_data(self):
        lines = self.tokenised.describe(self.skipped)
        return [*lines, describe_vocabulary(self.processor, self.model.config)]

    def result(self, trainer):
        facts, validated = self.run_state, self.run_state.get("validation") or {}
        return {
            "validation_loss": validated.get("loss"),
            "perplexity": validated.get("perplexity"),
            "bits_per_byte": validated.get("bits_per_byte"),
            "tokens_per_second": facts["tokens_per_second"] and round(facts["tokens_per_second"], 1),
            "parameters": sum(facts["parameters"].values()),
            "steps": facts["steps"],
            "seconds": round(facts["train_seconds"], 2),
            "checkpoint": str(self.output_dir / "checkpoint"),
        }
