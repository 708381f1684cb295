"""Training on preferences with TRL's `DPOTrainer` (Rafailov et al. 2023)."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

from datasets import Dataset
from trl.trainer.dpo_trainer import DPOTrainer

from smol_hf.data.conversation import SampleError
from smol_hf.data.report.skipped import SkippedSamples
from smol_hf.data.sources.location import open_location
from smol_hf.data.sources.source import Source
from smol_hf.data.stream.record_use import describe_ignored
from smol_hf.data.stream.stream import obey_parent
from smol_hf.support.formatting import counted
from smol_hf.text.preferences import PreferenceEncoder, Preferences, read_preferences
from smol_hf.training.checkpoint.saving import WholeCheckpoints
from smol_hf.training.loader import FILE_NAME as DATA_STATE
from smol_hf.training.log.console import LogCallback
from smol_hf.training.log.mixture_report import FILE_NAME as MIXTURE
from smol_hf.training.log.skipped_steps import NonFiniteError
from smol_hf.training.model.composition import is_text_only
from smol_hf.training.model.lora import lora_config, rank_warning
from smol_hf.training.model.text_composition import build_language_model
from smol_hf.training.recipe.arguments import DPOArguments
from smol_hf.training.recipe.data_arguments import PreferenceArguments
from smol_hf.training.recipe.values import RecipeError
from smol_hf.training.run import Run
from smol_hf.training.validation.early_stopping import early_stopping

DEFAULT_LENGTH = 1024  # of a model that does not limit its positions
METRICS = ("loss", "rewards/margins", "rewards/accuracies")  # of the last step, printed at the end


class PreferenceTrainer(WholeCheckpoints, DPOTrainer):
    """TRL's trainer on pairs that are already token ids. `run_state` is the `run.json` of each checkpoint."""

    def __init__(self, *, run_state: dict, **kwargs):
        self.run_state = run_state
        super().__init__(**kwargs)

    def _prepare_dataset(self, dataset, *args, **kwargs):
        """Return the pairs unchanged: TRL would tokenise texts, with special tokens in them, and cut them."""
        return dataset

    def get_train_dataloader(self):
        loader: Any = super().get_train_dataloader()  # accelerate's wrapper, whose own loader starts the workers
        obey_parent(loader.base_dataloader)
        return loader

    def get_eval_dataloader(self, eval_dataset=None):
        loader: Any = super().get_eval_dataloader(eval_dataset)
        obey_parent(loader.base_dataloader)
        return loader

    def write_state(self, folder, gathered):
        """Write the step, from which the position in the data follows."""
        state = json.dumps({"step": self.state.global_step})
        (folder / DATA_STATE).write_text(state, encoding="utf-8")


class PreferenceLog(LogCallback):
    """A log that ends the run at a loss that is not finite."""

    def on_log(self, args, state, control, logs, **kwargs):
        super().on_log(args, state, control, logs, **kwargs)
        if not math.isfinite(logs.get("loss", 0)):
            raise NonFiniteError(f"step {state.global_step}: the loss is {logs['loss']}: lower the learning rate")


class PreferenceRun(Run):
    """Pairs of a preferred and a rejected answer."""

    arguments: DPOArguments
    data_arguments: PreferenceArguments
    pairs: Preferences
    validation: Preferences | None = None
    validation_source: Source | None = None

    def check(self):
        if self.model_arguments.model is None:
            raise RecipeError("model is missing: name the language model that learns, a folder or a Hub id")
        if self.arguments.evaluates != self.data_arguments.validates:
            raise RecipeError("eval_strategy and validation_data (or validation_split) need each other")
        super().check()

    def open(self):
        keys = self.data_arguments
        of_hub: dict[str, Any] = {
            "config": keys.dataset_config, "revision": keys.dataset_revision, "download": keys.dataset_download,
        }  # fmt: skip
        self.source = open_location(keys.data, split=keys.dataset_split, **of_hub).source
        keys.dataset_revision = of_hub["revision"] = self.source.revision  # for the saved recipe
        if keys.validation_data is not None:
            self.validation_source = open_location(keys.validation_data, split=keys.validation_split).source
        elif keys.validation_split is not None:
            self.validation_source = open_location(keys.data, split=keys.validation_split, **of_hub).source

    def build(self):
        keys, trusts = self.model_arguments, self.arguments.trust_remote_code
        if not is_text_only(keys, False, trusts):
            raise RecipeError(
                f"{keys.model} is a vision-language model, but preferences are text-only: name a language model"
            )
        model, tokenizer = build_language_model(keys, (), chat=True, trust_remote_code=trusts)
        positions: int = getattr(model.config.get_text_config(), "max_position_embeddings", None) or DEFAULT_LENGTH
        length = self.arguments.max_length or positions
        if "max_length" in self.recipe and length > positions:
            raise RecipeError(f"max_length {length} is more than the {positions} positions of the model")
        self.arguments.max_length = min(length, positions)
        self.encoder = PreferenceEncoder(tokenizer, min(length, positions))
        self.peft_config = lora_config(keys, model, tokenizer=tokenizer) if keys.use_peft else None
        return model, tokenizer

    def measure(self):
        ignored = self.data_arguments.ignore_fields
        self.pairs = read_preferences(self.source, self.encoder, ignored)
        found = {self.source.name: self.pairs}
        if self.validation_source is not None:
            self.validation = read_preferences(self.validation_source, self.encoder, ignored)
            found[f"validation: {self.source.name}"] = self.validation
        self.skipped.keeps_earlier = False  # all records were read again
        settle(self.skipped, found)

    def facts(self):
        return {"data_fingerprint": self.source.fingerprint, "samples": self.pairs.total, "failed_sources": {}}

    def trainer(self):
        needs_reference = self.peft_config is None and not self.arguments.precompute_ref_log_probs
        return PreferenceTrainer(
            model=self.model,
            ref_model=copy.deepcopy(self.model) if needs_reference else None,
            args=self.arguments,
            train_dataset=Dataset.from_dict(self.pairs.rows),
            eval_dataset=Dataset.from_dict(self.validation.rows) if self.validation is not None else None,
            processing_class=self.processor,
            callbacks=[PreferenceLog(self.output_dir), *early_stopping(self.arguments)],
            peft_config=self.peft_config,
            run_state=self.run_state,
        )

    def describe(self, trainer, changes):
        how = (
            "turns of a conversation"
            if self.encoder.chat is not None
            else "continuations of a text (no chat template)"
        )
        lines = [f"{counted(self.pairs.usable, 'pair')} from {self.source.name}, {how}; {self.skipped.summary()}"]
        if warning := rank_warning(trainer.model, self.model_arguments.lora_r):
            lines.append(warning)
        return [*lines, *describe_ignored(self.pairs.ignored), *changes]

    def save_shares(self, trainer=None):
        rows, used = self.pairs.total, self.pairs.usable
        sources = [{"name": self.source.name, "rows": rows, "samples": used, "realised_share": 1.0}]
        text = json.dumps({"sources": sources}, indent=1) + "\n"
        (self.output_dir / MIXTURE).write_text(text, encoding="utf-8")

    def result(self, trainer):
        logged = [entry for entry in trainer.state.log_history if "loss" in entry]
        result = {name: logged[-1][name] for name in METRICS} if logged else {}
        return result | {"steps": trainer.state.global_step, "checkpoint": str(self.output_dir / "checkpoint")}


def settle(skipped: SkippedSamples, found: dict[str, Preferences]) -> None:
    """Decide by the skipped samples whether the run may begin. Raises SampleError, see `SkippedSamples.settle`."""
    for name, each in found.items():
        for fault in (*each.faults, *each.left_out):
            fault.source = name
        skipped.faults += each.faults
        skipped.left_out += each.left_out
    skipped.settle(
        {name: each.total for name, each in found.items()}, max(each.longest_run for each in found.values())
    )
    for name, each in found.items():
        if not each.usable:
            raise SampleError(name, f"holds no usable pair; {skipped.summary()}")
