"""Keys that a recipe inherits from TRL's `SFTConfig` and `DPOConfig` and from transformers.

A key works, or it is refused with a reason. `SECTIONS` is the only declaration: checks, resumption and the page
docs/recipe_keys.md read it.
"""

from __future__ import annotations

from dataclasses import Field, fields
from typing import Any

from trl.trainer.dpo_config import DPOConfig
from trl.trainer.sft_config import SFTConfig

from smol_hf.training.recipe.keys import Key, OnResume

CHANGE, ROWS, FREE = OnResume.CHANGE, OnResume.ROWS, OnResume.FREE


def same(names: str, key: Key) -> dict[str, Key]:
    """Declare several keys, separated by spaces, in the same way."""
    return dict.fromkeys(names.split(), key)


def refused(reason: str, **options: Any) -> Key:
    """Declare a key that can only have its default, so resumption compares nothing."""
    return Key(FREE, train=reason, dpo=reason, **options)


OWN_LOSS = "has no effect: the model computes its own loss"
LOADER = "has no effect: the data engine makes the batches (dataloader_num_workers sets its workers)"
PACKING = "is TRL's packing of texts: use sample_packing: true"
LOG_LEVELS = ("detail", "debug", "info", "warning", "error", "critical", "passive")
BEST = "load_best_model_at_end: true or save_strategy: best"
FIXED_CHECKPOINTING = refused(
    "is not supported: checkpointing is never reentrant", allowed=({"use_reentrant": False},)
)

SECTIONS: dict[str, dict[str, Key]] = {
    "The run": {
        "seed": Key(recorded=True, least=0, below=2**32),
        "data_seed": Key(least=0, below=2**32),
        **same("output_dir full_determinism resume_from_checkpoint trust_remote_code", Key(FREE)),
        **same("do_train do_eval do_predict", refused("has no effect: the command chooses the task")),
        "debug": refused(
            "is not supported: non-finite steps are skipped and listed in skipped_steps.jsonl", allowed=(None,)
        ),
        "skip_memory_metrics": refused("has no effect: smol-hf estimate predicts the memory of a step"),
    },
    "Steps and batches": {
        **same("per_device_train_batch_size gradient_accumulation_steps", Key(ROWS, recorded=True, least=1)),
        "num_train_epochs": Key(recorded=True, least=0),
        "max_steps": Key(CHANGE, recorded=True, least=-1),
        "auto_find_batch_size": refused("would change the rows of a step during a run: set the batch size"),
        "average_tokens_across_devices": Key(dpo="has no effect: DPO averages pairs, not tokens"),
    },
    "Optimizer and schedule": {
        "learning_rate": Key(CHANGE, recorded=True, least=0),
        "lr_scheduler_type": Key(CHANGE, recorded=True),
        "lr_scheduler_kwargs": Key(CHANGE),
        **same("warmup_steps weight_decay max_grad_norm", Key(CHANGE, recorded=True, least=0)),
        "optim": Key(recorded=True),
        "optim_args": Key(),
        "optim_target_modules": refused("is not supported: it belongs to the optimizers GaLore and APOLLO"),
        **same("adam_beta1 adam_beta2", Key(CHANGE, recorded=True, least=0, below=1)),
        "adam_epsilon": Key(CHANGE, least=0),
        "neftune_noise_alpha": Key(CHANGE, above=0),
        "label_smoothing_factor": Key(train=OWN_LOSS, dpo="has no effect: use label_smoothing, the key of DPO"),
    },
    "Precision, memory and speed": {
        "bf16": Key(CHANGE, recorded=True),
        "fp16": Key(),
        **same("bf16_full_eval fp16_full_eval", refused("has no effect: evaluation uses the precision of training")),
        "tf32": Key(CHANGE),
        **same("use_cpu activation_checkpointing gradient_checkpointing", Key(FREE)),
        **same("activation_checkpointing_kwargs gradient_checkpointing_kwargs", FIXED_CHECKPOINTING),
        "activation_offloading": refused("is not supported: use gradient_checkpointing to save memory"),
        "torch_empty_cache_steps": Key(FREE, least=1),
        **same("torch_compile torch_compile_backend torch_compile_mode", Key(FREE)),
        **same(
            "use_liger_kernel liger_kernel_config",
            refused(
                "is not supported: Liger Kernel changes only models that it knows by name, and those of smol_hf are "
                "not among them; torch_compile: true fuses operations of any model"
            ),
        ),
        "use_cache": refused("has no effect: training needs no key-value cache"),
        "router_aux_loss_coef": refused("is not supported: mixture-of-experts models get no auxiliary loss"),
    },
    "The log": {
        **same("logging_strategy logging_first_step disable_tqdm report_to", Key(FREE)),
        "logging_steps": Key(FREE, above=0, strategy=("logging_strategy", "steps")),
        "logging_nan_inf_filter": refused("would hide a non-finite loss: leave it false", allowed=(False,)),
        "log_on_each_node": refused("has no effect: the first process writes the log"),
        **same("log_level log_level_replica", Key(FREE, values=LOG_LEVELS)),
        "include_num_input_tokens_seen": refused(
            "has no effect: the log counts tokens as total_tokens", allowed=(False, "no")
        ),
        "run_name": Key(FREE, needs="report_to"),
        **same(
            "project trackio_space_id trackio_bucket_id trackio_static_space_id", Key(FREE, needs="report_to: trackio")
        ),
    },
    "Evaluation": {
        "eval_strategy": Key(FREE),
        "eval_steps": Key(FREE, above=0, strategy=("eval_strategy", "steps")),
        "eval_delay": Key(FREE, least=0, needs="eval_strategy"),
        "eval_on_start": Key(FREE, needs="eval_strategy"),
        "per_device_eval_batch_size": Key(FREE, least=1, strategy=("eval_strategy", "steps", "epoch")),
        **same(
            "prediction_loss_only eval_do_concat_batches eval_use_gather_object eval_accumulation_steps "
            "include_for_metrics batch_eval_metrics label_names",
            refused("has no effect: an evaluation returns losses only, no predictions"),
        ),
    },
    "Checkpoints": {
        "save_strategy": Key(FREE),
        "save_steps": Key(FREE, above=0, strategy=("save_strategy", "steps")),
        "save_total_limit": Key(FREE, least=1),
        "save_only_model": refused("would make checkpoints that cannot be resumed: the result is in checkpoint/"),
        "save_on_each_node": refused("is not supported: nodes share output_dir"),
        "enable_jit_checkpoint": refused("would lose the batch of the current step"),
        "load_best_model_at_end": Key(FREE, needs="eval_strategy"),
        "metric_for_best_model": Key(needs=BEST),
        "greater_is_better": Key(needs=BEST),
        "ignore_data_skip": refused("has no effect: a resumed run continues at its position in the data"),
        "restore_callback_states_from_checkpoint": refused("has no effect: early stopping always continues"),
    },
    "The Hub": same(
        "push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision",
        refused(
            "would upload training states, and a model that does not load: after the run, "
            "use smol-hf publish <output_dir>/checkpoint OWNER/NAME --license LICENCE"
        ),
    ),
    "Loading of batches": {
        "dataloader_num_workers": Key(FREE, least=0),
        "dataloader_drop_last": Key(train=LOADER),
        "dataloader_pin_memory": Key(FREE, train=LOADER),
        "dataloader_prefetch_factor": Key(FREE, train=LOADER, least=1, needs="dataloader_num_workers"),
        **same(
            "dataloader_persistent_workers dataloader_multiprocessing_context",
            Key(FREE, train=LOADER, needs="dataloader_num_workers"),
        ),
        "dataloader_in_order": refused("would give a resumed run other batches"),
        "remove_unused_columns": Key(
            train="would remove the columns that the collator reads: leave it false",
            dpo="has no effect: the data has only the columns of DPO",
        ),
        "train_sampling_strategy": Key(
            train="has no effect: the data engine orders the samples (sample_packing groups rows of similar length)",
            values=("random", "sequential"),
        ),
        "length_column_name": refused("has no effect: the run measures the lengths"),
        "accelerator_config": refused(
            "is not supported: each process makes batches of per_device_train_batch_size rows"
        ),
    },
    "Several processes": {
        **same("ddp_find_unused_parameters ddp_broadcast_buffers ddp_backend", Key(FREE)),
        **same("ddp_bucket_cap_mb ddp_timeout", Key(FREE, least=1)),
        "ddp_static_graph": refused("is not supported: the set of trained parameters can change during a run"),
        "local_rank": refused("has no effect: accelerate launch sets it"),
        "fsdp": Key(FREE, allowed=(True, False)),
        **same("fsdp_config deepspeed", Key(FREE)),
        "parallelism_config": refused(
            "is not supported: tensor, context and sequence parallelism would split packed rows and images; use FSDP2"
        ),
    },
    "Model and data of TRL": {
        "model_init_kwargs": refused("has no effect: use dtype and attn_implementation"),
        "chat_template_path": refused("has no effect: use chat_template"),
        "dataset_text_field": refused(
            "has no effect: adapters read samples (key adapter), and text_key names the text of documents"
        ),
        "dataset_kwargs": refused("has no effect: skip_prepare_dataset: true is always set"),
        "dataset_num_proc": refused("has no effect: samples are encoded before TRL gets them"),
        "eos_token": refused("has no effect: the chat template defines the end of an answer"),
        "pad_token": refused("has no effect: the tokenizer has its own"),
        "max_length": Key(
            recorded=True, train="cuts samples, images included: use context_length, which never cuts", least=2
        ),
        "truncation_mode": refused("has no effect: no sample is ever cut"),
        "shuffle_dataset": refused("has no effect: samples are always drawn in a random order"),
        **same("packing packing_strategy eval_packing", refused(PACKING)),
        "padding_free": Key(train=PACKING, dpo="is not supported by TRL's DPO at present: leave it out"),
        "pad_to_multiple_of": Key(train="has no effect: the collator pads to the longest row", least=1),
        **same(
            "completion_only_loss assistant_only_loss", refused("has no effect: a run always trains on the answers")
        ),
        "loss_type": Key(recorded=True, train=OWN_LOSS),
    },
    "DPO": {
        "beta": Key(recorded=True, above=0),
        "loss_weights": Key(recorded=True),
        "label_smoothing": Key(
            recorded=True, least=0, most=0.5, needs="a loss_type of exo_pair, robust, aot or aot_unpaired"
        ),
        "ld_alpha": Key(least=0, most=1),
        "f_divergence_type": Key(values=("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")),
        "f_alpha_divergence_coef": Key(needs="f_divergence_type: alpha_divergence"),
        "discopop_tau": Key(above=0, needs="loss_type: discopop"),
        **same("use_weighting disable_dropout sync_ref_model", Key()),
        "precompute_ref_log_probs": Key(recorded=True),
        "precompute_ref_batch_size": Key(FREE, least=1, needs="precompute_ref_log_probs: true"),
        "ref_model_mixup_alpha": Key(least=0, most=1, needs="sync_ref_model: true"),
        "ref_model_sync_steps": Key(least=1, needs="sync_ref_model: true"),
    },
}
INHERITED = {name: key for section in SECTIONS.values() for name, key in section.items()}


def inherited_names(command: str) -> list[str]:
    """Return the keys that the arguments of `train` or `dpo` inherit."""
    return [entry.name for entry in fields(DPOConfig if command == "dpo" else SFTConfig) if entry.init]


def key_of(entry: Field) -> Key:
    """Return the declaration of a field of a recipe's dataclass."""
    return entry.metadata.get("key") or INHERITED.get(entry.name) or Key()
