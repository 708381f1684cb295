"""Every key that a recipe inherits from TRL's `SFTConfig` and `DPOConfig` and from transformers: it works, or it is
refused with a reason.

`INHERITED` is the only declaration: `inherited_checks` compares a recipe with it, docs/recipe_keys.md is made from it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from trl import DPOConfig, SFTConfig


@dataclass(frozen=True)
class InheritedKey:
    """How `train` (and `pretrain`) and `dpo` treat a key.

    Attributes:
        train, dpo: why the key is refused; "" = it works.
        least, above, below, most: bounds of a number.
        needs: name in `inherited_checks.CONDITIONS` of what the key needs to have an effect.
        allowed: other values that are accepted, since they say what is done anyway.
        values: if given, the only values that work.
    """

    train: str = ""
    dpo: str = ""
    least: float | None = None
    above: float | None = None
    below: float | None = None
    most: float | None = None
    needs: str | None = None
    allowed: tuple = ()
    values: tuple = ()


def works(**options) -> InheritedKey:
    return InheritedKey(**options)


def refused(reason: str, **options) -> InheritedKey:
    return InheritedKey(train=reason, dpo=reason, **options)


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
BEST = "load_best_model_at_end: true or save_strategy: best"

INHERITED: dict[str, InheritedKey] = {
    # The run.
    "output_dir": works(),
    "seed": works(least=0, below=2**32),
    "data_seed": works(least=0, below=2**32),
    "full_determinism": works(),
    "resume_from_checkpoint": works(),
    "trust_remote_code": works(),
    "do_train": refused(SCRIPT),
    "do_eval": refused(SCRIPT),
    "do_predict": refused(SCRIPT),
    "debug": refused(
        "is not supported: steps that are not finite are skipped and named in skipped_steps.jsonl", allowed=(None,)
    ),
    "skip_memory_metrics": refused("has no effect: smol-hf estimate tells the memory of a step"),
    # Steps and batches.
    "per_device_train_batch_size": works(least=1),
    "gradient_accumulation_steps": works(least=1),
    "num_train_epochs": works(least=0),
    "max_steps": works(least=-1),
    "auto_find_batch_size": refused("would change the rows of a step in the middle of a run: set the batch size"),
    "average_tokens_across_devices": InheritedKey(dpo="has no effect: DPO averages pairs, not tokens"),
    # Optimizer and schedule.
    "learning_rate": works(),
    "lr_scheduler_type": works(),
    "lr_scheduler_kwargs": works(),
    "warmup_steps": works(least=0),
    "optim": works(),
    "optim_args": works(),
    "optim_target_modules": refused("belongs to GaLore and APOLLO, which are not supported"),
    "weight_decay": works(least=0),
    "adam_beta1": works(least=0, below=1),
    "adam_beta2": works(least=0, below=1),
    "adam_epsilon": works(least=0),
    "max_grad_norm": works(least=0),
    "neftune_noise_alpha": works(above=0),
    "label_smoothing_factor": InheritedKey(train=OWN_LOSS, dpo="has no effect: DPO's key is label_smoothing"),
    # Precision, memory, speed.
    "bf16": works(),
    "fp16": works(),
    "bf16_full_eval": refused("has no effect: evaluation computes in the precision of the training"),
    "fp16_full_eval": refused("has no effect: evaluation computes in the precision of the training"),
    "tf32": works(),
    "use_cpu": works(),
    "activation_checkpointing": works(),
    "gradient_checkpointing": works(),
    "activation_checkpointing_kwargs": refused(
        "is not supported: checkpointing is never reentrant", allowed=({"use_reentrant": False},)
    ),
    "gradient_checkpointing_kwargs": refused(
        "is not supported: checkpointing is never reentrant", allowed=({"use_reentrant": False},)
    ),
    "activation_offloading": refused(MEMORY),
    "torch_empty_cache_steps": works(least=1),
    "torch_compile": works(),
    "torch_compile_backend": works(),
    "torch_compile_mode": works(),
    "use_liger_kernel": refused(LIGER),
    "liger_kernel_config": refused(LIGER),
    "use_cache": refused("has no effect: training needs no cache"),
    "router_aux_loss_coef": refused(EXPERTS),
    # The log.
    "logging_strategy": works(),
    "logging_steps": works(above=0),
    "logging_first_step": works(),
    "logging_nan_inf_filter": refused("would hide a loss that is not a number: leave it false", allowed=(False,)),
    "log_on_each_node": refused("has no effect: the first process writes the log"),
    "log_level": works(values=LOG_LEVELS),
    "log_level_replica": works(values=LOG_LEVELS),
    "disable_tqdm": works(),
    "include_num_input_tokens_seen": refused(
        "has no effect: the log counts tokens as total_tokens", allowed=(False, "no")
    ),
    "report_to": works(),
    "run_name": works(needs="report_to"),
    "project": works(needs="report_to: trackio"),
    "trackio_space_id": works(needs="report_to: trackio"),
    "trackio_bucket_id": works(needs="report_to: trackio"),
    "trackio_static_space_id": works(needs="report_to: trackio"),
    # Evaluation.
    "eval_strategy": works(),
    "eval_steps": works(above=0),
    "eval_delay": works(least=0, needs="eval_strategy"),
    "eval_on_start": works(needs="eval_strategy"),
    "per_device_eval_batch_size": works(least=1),
    "prediction_loss_only": refused(METRICS),
    "eval_do_concat_batches": refused(METRICS),
    "eval_use_gather_object": refused(METRICS),
    "eval_accumulation_steps": refused(METRICS),
    "include_for_metrics": refused(METRICS),
    "batch_eval_metrics": refused(METRICS),
    "label_names": refused(METRICS),
    # Checkpoints.
    "save_strategy": works(),
    "save_steps": works(above=0),
    "save_total_limit": works(least=1),
    "save_only_model": refused("would leave out what a resumed run needs: the result is in checkpoint/ anyway"),
    "save_on_each_node": refused("is not supported: nodes share output_dir"),
    "enable_jit_checkpoint": refused("would lose the batch that is being trained"),
    "load_best_model_at_end": works(needs="eval_strategy"),
    "metric_for_best_model": works(needs=BEST, values=VALIDATED),
    "greater_is_better": works(needs=BEST),
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
    "dataloader_num_workers": works(least=0),
    "dataloader_drop_last": InheritedKey(train=LOADER),
    "dataloader_pin_memory": InheritedKey(train=LOADER),
    "dataloader_persistent_workers": InheritedKey(train=LOADER, needs="dataloader_num_workers"),
    "dataloader_prefetch_factor": InheritedKey(train=LOADER, least=1, needs="dataloader_num_workers"),
    "dataloader_multiprocessing_context": InheritedKey(train=LOADER, needs="dataloader_num_workers"),
    "dataloader_in_order": refused("would make a resumed run see other batches"),
    "remove_unused_columns": InheritedKey(
        train="would remove the columns that the collator reads: leave it false",
        dpo="has no effect: the data has the columns of DPO only",
    ),
    "train_sampling_strategy": InheritedKey(
        train="has no effect: the data engine orders the samples (sample_packing makes rows of like length)",
        values=("random", "sequential"),
    ),
    "length_column_name": refused("has no effect: lengths are measured"),
    "accelerator_config": refused("is not supported: a batch has per_device_train_batch_size rows of each process"),
    # Several processes.
    "ddp_find_unused_parameters": works(),
    "ddp_bucket_cap_mb": works(least=1),
    "ddp_broadcast_buffers": works(),
    "ddp_static_graph": refused("is not supported: which parameters get gradients may change in a run"),
    "ddp_backend": works(),
    "ddp_timeout": works(least=1),
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
    "max_length": InheritedKey(train="cuts samples, images included: use context_length, which never cuts", least=2),
    "truncation_mode": refused("has no effect: nothing is ever cut"),
    "shuffle_dataset": refused("has no effect: samples are always drawn in a random order"),
    "packing": refused("is TRL's for text: use sample_packing: true"),
    "packing_strategy": refused("is TRL's for text: use sample_packing: true"),
    "eval_packing": refused("is TRL's for text: use sample_packing: true"),
    "padding_free": InheritedKey(
        train="is TRL's for text: use sample_packing: true",
        dpo="is not supported by TRL's DPO at present: leave it out",
    ),
    "pad_to_multiple_of": InheritedKey(train="has no effect: the collator pads to the longest row", least=1),
    "completion_only_loss": refused("has no effect: the answers of a conversation are what is trained"),
    "assistant_only_loss": refused("has no effect: the answers of a conversation are what is trained"),
    "loss_type": InheritedKey(train=OWN_LOSS),
    # DPO.
    "beta": works(above=0),
    "loss_weights": works(),
    "label_smoothing": works(least=0, most=0.5, needs="a loss_type of exo_pair, robust, aot or aot_unpaired"),
    "ld_alpha": works(least=0, most=1),
    "f_divergence_type": works(),
    "f_alpha_divergence_coef": works(needs="f_divergence_type: alpha_divergence"),
    "discopop_tau": works(above=0, needs="loss_type: discopop"),
    "use_weighting": works(),
    "disable_dropout": works(),
    "precompute_ref_log_probs": works(),
    "precompute_ref_batch_size": works(least=1, needs="precompute_ref_log_probs: true"),
    "sync_ref_model": works(),
    "ref_model_mixup_alpha": works(least=0, most=1, needs="sync_ref_model: true"),
    "ref_model_sync_steps": works(least=1, needs="sync_ref_model: true"),
}
CLASSES = {"train": SFTConfig, "dpo": DPOConfig}


def inherited_names(command: str) -> list[str]:
    """The keys that the arguments of `train` or `dpo` inherit."""
    return [entry.name for entry in fields(CLASSES[command]) if entry.init]
