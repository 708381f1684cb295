"""Every key that a recipe inherits from TRL's `SFTConfig` and `DPOConfig` and from transformers.

A key works, or it is refused with a reason. `INHERITED` is the only declaration: checks, resumption and the page
docs/recipe_keys.md read it.
"""

from __future__ import annotations

from dataclasses import Field, fields
from typing import Any

from trl import DPOConfig, SFTConfig

from smol_hf.training.recipe.keys import Key, OnResume

CHANGE, ROWS, FREE = OnResume.CHANGE, OnResume.ROWS, OnResume.FREE


def refused(reason: str, **options: Any) -> Key:
    """A key that can only have its default. So nothing is to be compared when a run is resumed."""
    return Key(FREE, train=reason, dpo=reason, **options)


PUBLISH = (
    "would upload training states, and a model that does not load: "
    "when the run is done, use smol-hf publish <output_dir>/checkpoint OWNER/NAME --license LICENCE"
)
OWN_LOSS = "has no effect: the model computes its own loss"
METRICS = "has no effect: an evaluation returns losses only, no predictions"
LOADER = "has no effect: the data engine makes the batches (dataloader_num_workers sets its workers)"
COLUMN = "has no effect: samples are read by adapters (key adapter), or by text_key from documents"
ENCODED = "has no effect: samples are encoded before TRL sees them"
PARALLEL = "is not supported: several processes train with DDP (accelerate launch --num_processes N)"
SCRIPT = "has no effect: the command says what is done"
LAUNCHER = "has no effect: accelerate launch sets it"
LIGER = "is not supported: the models compute label-only logits without Liger kernels"
MEMORY = "is not supported: use gradient_checkpointing to save memory"
EXPERTS = "is not supported: models with experts get no auxiliary loss"
LOG_LEVELS = ("detail", "debug", "info", "warning", "error", "critical", "passive")
VALIDATED = ("loss", "perplexity", "bits_per_byte", "eval_loss", "eval_perplexity", "eval_bits_per_byte")
DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")
BEST = "load_best_model_at_end: true or save_strategy: best"

INHERITED: dict[str, Key] = {
    # The run.
    "output_dir": Key(FREE),
    "seed": Key(recorded=True, least=0, below=2**32),
    "data_seed": Key(least=0, below=2**32),
    "full_determinism": Key(FREE),
    "resume_from_checkpoint": Key(FREE),
    "trust_remote_code": Key(FREE),
    "do_train": refused(SCRIPT),
    "do_eval": refused(SCRIPT),
    "do_predict": refused(SCRIPT),
    "debug": refused(
        "is not supported: steps that are not finite are skipped and named in skipped_steps.jsonl", allowed=(None,)
    ),
    "skip_memory_metrics": refused("has no effect: smol-hf estimate tells the memory of a step"),
    # Steps and batches.
    "per_device_train_batch_size": Key(ROWS, recorded=True, least=1),
    "gradient_accumulation_steps": Key(ROWS, recorded=True, least=1),
    "num_train_epochs": Key(recorded=True, least=0),
    "max_steps": Key(CHANGE, recorded=True, least=-1),
    "auto_find_batch_size": refused("would change the rows of a step in the middle of a run: set the batch size"),
    "average_tokens_across_devices": Key(dpo="has no effect: DPO averages pairs, not tokens"),
    # Optimizer and schedule.
    "learning_rate": Key(CHANGE, recorded=True),
    "lr_scheduler_type": Key(CHANGE, recorded=True),
    "lr_scheduler_kwargs": Key(CHANGE),
    "warmup_steps": Key(CHANGE, recorded=True, least=0),
    "optim": Key(recorded=True),
    "optim_args": Key(),
    "optim_target_modules": refused("belongs to GaLore and APOLLO, which are not supported"),
    "weight_decay": Key(CHANGE, recorded=True, least=0),
    "adam_beta1": Key(CHANGE, recorded=True, least=0, below=1),
    "adam_beta2": Key(CHANGE, recorded=True, least=0, below=1),
    "adam_epsilon": Key(CHANGE, least=0),
    "max_grad_norm": Key(CHANGE, recorded=True, least=0),
    "neftune_noise_alpha": Key(CHANGE, above=0),
    "label_smoothing_factor": Key(train=OWN_LOSS, dpo="has no effect: DPO's key is label_smoothing"),
    # Precision, memory, speed.
    "bf16": Key(CHANGE, recorded=True),
    "fp16": Key(),
    "bf16_full_eval": refused("has no effect: evaluation computes in the precision of the training"),
    "fp16_full_eval": refused("has no effect: evaluation computes in the precision of the training"),
    "tf32": Key(CHANGE),
    "use_cpu": Key(FREE),
    "activation_checkpointing": Key(FREE),
    "gradient_checkpointing": Key(FREE),
    "activation_checkpointing_kwargs": refused(
        "is not supported: checkpointing is never reentrant", allowed=({"use_reentrant": False},)
    ),
    "gradient_checkpointing_kwargs": refused(
        "is not supported: checkpointing is never reentrant", allowed=({"use_reentrant": False},)
    ),
    "activation_offloading": refused(MEMORY),
    "torch_empty_cache_steps": Key(FREE, least=1),
    "torch_compile": Key(FREE),
    "torch_compile_backend": Key(FREE),
    "torch_compile_mode": Key(FREE),
    "use_liger_kernel": refused(LIGER),
    "liger_kernel_config": refused(LIGER),
    "use_cache": refused("has no effect: training needs no cache"),
    "router_aux_loss_coef": refused(EXPERTS),
    # The log.
    "logging_strategy": Key(FREE),
    "logging_steps": Key(FREE, above=0, strategy=("logging_strategy", "steps")),
    "logging_first_step": Key(FREE),
    "logging_nan_inf_filter": refused("would hide a loss that is not a number: leave it false", allowed=(False,)),
    "log_on_each_node": refused("has no effect: the first process writes the log"),
    "log_level": Key(FREE, values=LOG_LEVELS),
    "log_level_replica": Key(FREE, values=LOG_LEVELS),
    "disable_tqdm": Key(FREE),
    "include_num_input_tokens_seen": refused(
        "has no effect: the log counts tokens as total_tokens", allowed=(False, "no")
    ),
    "report_to": Key(FREE),
    "run_name": Key(FREE, needs="report_to"),
    "project": Key(FREE, needs="report_to: trackio"),
    "trackio_space_id": Key(FREE, needs="report_to: trackio"),
    "trackio_bucket_id": Key(FREE, needs="report_to: trackio"),
    "trackio_static_space_id": Key(FREE, needs="report_to: trackio"),
    # Evaluation.
    "eval_strategy": Key(FREE),
    "eval_steps": Key(FREE, above=0, strategy=("eval_strategy", "steps")),
    "eval_delay": Key(FREE, least=0, needs="eval_strategy"),
    "eval_on_start": Key(FREE, needs="eval_strategy"),
    "per_device_eval_batch_size": Key(FREE, least=1, strategy=("eval_strategy", "steps", "epoch")),
    "prediction_loss_only": refused(METRICS),
    "eval_do_concat_batches": refused(METRICS),
    "eval_use_gather_object": refused(METRICS),
    "eval_accumulation_steps": refused(METRICS),
    "include_for_metrics": refused(METRICS),
    "batch_eval_metrics": refused(METRICS),
    "label_names": refused(METRICS),
    # Checkpoints.
    "save_strategy": Key(FREE),
    "save_steps": Key(FREE, above=0, strategy=("save_strategy", "steps")),
    "save_total_limit": Key(FREE, least=1),
    "save_only_model": refused("would leave out what a resumed run needs: the result is in checkpoint/ anyway"),
    "save_on_each_node": refused("is not supported: nodes share output_dir"),
    "enable_jit_checkpoint": refused("would lose the batch that is being trained"),
    "load_best_model_at_end": Key(FREE, needs="eval_strategy"),
    "metric_for_best_model": Key(FREE, needs=BEST, values=VALIDATED),
    "greater_is_better": Key(FREE, needs=BEST),
    "ignore_data_skip": refused("has no effect: a resumed run goes on at its place in the data"),
    "restore_callback_states_from_checkpoint": refused("has no effect: no callback has a state"),
    # The Hub.
    "push_to_hub": refused(PUBLISH),
    "hub_token": refused(PUBLISH),
    "hub_private_repo": refused(PUBLISH),
    "hub_model_id": refused(PUBLISH),
    "hub_strategy": refused(PUBLISH),
    "hub_always_push": refused(PUBLISH),
    "hub_revision": refused(PUBLISH),
    # Loading of batches.
    "dataloader_num_workers": Key(FREE, least=0),
    "dataloader_drop_last": Key(train=LOADER),
    "dataloader_pin_memory": Key(FREE, train=LOADER),
    "dataloader_persistent_workers": Key(FREE, train=LOADER, needs="dataloader_num_workers"),
    "dataloader_prefetch_factor": Key(FREE, train=LOADER, least=1, needs="dataloader_num_workers"),
    "dataloader_multiprocessing_context": Key(FREE, train=LOADER, needs="dataloader_num_workers"),
    "dataloader_in_order": refused("would make a resumed run see other batches"),
    "remove_unused_columns": Key(
        train="would remove the columns that the collator reads: leave it false",
        dpo="has no effect: the data has the columns of DPO only",
    ),
    "train_sampling_strategy": Key(
        train="has no effect: the data engine orders the samples (sample_packing makes rows of like length)",
        values=("random", "sequential"),
    ),
    "length_column_name": refused("has no effect: lengths are measured"),
    "accelerator_config": refused("is not supported: a batch has per_device_train_batch_size rows of each process"),
    # Several processes.
    "ddp_find_unused_parameters": Key(FREE),
    "ddp_bucket_cap_mb": Key(FREE, least=1),
    "ddp_broadcast_buffers": Key(FREE),
    "ddp_static_graph": refused("is not supported: which parameters get gradients may change in a run"),
    "ddp_backend": Key(FREE),
    "ddp_timeout": Key(FREE, least=1),
    "local_rank": refused(LAUNCHER),
    "fsdp": refused(PARALLEL),
    "fsdp_config": refused(PARALLEL),
    "deepspeed": refused(PARALLEL),
    "parallelism_config": refused(PARALLEL),
    # TRL's own: model and data.
    "model_init_kwargs": refused("has no effect: use dtype and attn_implementation"),
    "chat_template_path": refused("comes after the data was prepared: use chat_template"),
    "dataset_text_field": refused(COLUMN),
    "dataset_kwargs": refused("must keep skip_prepare_dataset: true, and has no other effect"),
    "dataset_num_proc": refused(ENCODED),
    "eos_token": refused("has no effect: the chat template says what ends an answer"),
    "pad_token": refused("has no effect: the tokenizer has its own"),
    "max_length": Key(
        recorded=True, train="cuts samples, images included: use context_length, which never cuts", least=2
    ),
    "truncation_mode": refused("has no effect: nothing is ever cut"),
    "shuffle_dataset": refused("has no effect: samples are always drawn in a random order"),
    "packing": refused("is TRL's for text: use sample_packing: true"),
    "packing_strategy": refused("is TRL's for text: use sample_packing: true"),
    "eval_packing": refused("is TRL's for text: use sample_packing: true"),
    "padding_free": Key(
        train="is TRL's for text: use sample_packing: true",
        dpo="is not supported by TRL's DPO at present: leave it out",
    ),
    "pad_to_multiple_of": Key(train="has no effect: the collator pads to the longest row", least=1),
    "completion_only_loss": refused("has no effect: the answers of a conversation are what is trained"),
    "assistant_only_loss": refused("has no effect: the answers of a conversation are what is trained"),
    "loss_type": Key(recorded=True, train=OWN_LOSS),
    # DPO.
    "beta": Key(recorded=True, above=0),
    "loss_weights": Key(recorded=True),
    "label_smoothing": Key(
        recorded=True, least=0, most=0.5, needs="a loss_type of exo_pair, robust, aot or aot_unpaired"
    ),
    "ld_alpha": Key(least=0, most=1),
    "f_divergence_type": Key(values=DIVERGENCES),
    "f_alpha_divergence_coef": Key(needs="f_divergence_type: alpha_divergence"),
    "discopop_tau": Key(above=0, needs="loss_type: discopop"),
    "use_weighting": Key(),
    "disable_dropout": Key(),
    "precompute_ref_log_probs": Key(recorded=True),
    "precompute_ref_batch_size": Key(FREE, least=1, needs="precompute_ref_log_probs: true"),
    "sync_ref_model": Key(),
    "ref_model_mixup_alpha": Key(least=0, most=1, needs="sync_ref_model: true"),
    "ref_model_sync_steps": Key(least=1, needs="sync_ref_model: true"),
}
CLASSES = {"train": SFTConfig, "dpo": DPOConfig}


def inherited_names(command: str) -> list[str]:
    """The keys that the arguments of `train` or `dpo` inherit."""
    return [entry.name for entry in fields(CLASSES[command]) if entry.init]


def key_of(entry: Field) -> Key:
    """The declaration of a field of a recipe's dataclass."""
    return entry.metadata.get("key") or INHERITED.get(entry.name) or Key()
