"""Policy of each key of a recipe for a run that is resumed: it must repeat, it may change, or it has no effect."""

from __future__ import annotations

import enum


class OnResume(enum.Enum):
    """What a resumed run does with another value of a key."""

    REPEAT = "must repeat"  # another value is refused
    CHANGE = "may change"  # from the checkpoint's step on; the run and its card record it
    DATA = "compared by the fingerprint of the data"  # other data is refused, another path to the same is not
    ROWS = "rows of a step must repeat"  # their product with the number of processes is compared
    FREE = "may change, without an effect on what is learned"  # not recorded


# The schedule and the optimizer's settings. A schedule that keeps a state cannot follow other values.
OF_THE_SCHEDULE = (
    "learning_rate", "vision_learning_rate", "connector_learning_rate", "text_learning_rate", "lr_scheduler_type",
    "lr_scheduler_kwargs", "warmup_steps", "decay_steps", "vision_warmup_steps", "unfreeze_vision_at_step",
)  # fmt: skip
STATEFUL_SCHEDULES = ("reduce_lr_on_plateau", "greedy")

KEYS = {
    OnResume.REPEAT: (
        # the model
        "model", "preset", "vision_config", "text_config", "connector_type", "scale_factor", "vision_feature_layer",
        "tokenizer", "tokenizer_vocab_size", "chat_template", "rope_theta", "max_position_embeddings", "longest_edge",
        "do_image_splitting", "enlarge_images", "dtype", "image_mean", "image_std", "use_peft", "lora_parts", "lora_r",
        "lora_alpha", "lora_dropout", "lora_target_modules", "lora_trainable_tokens", "use_dora", "use_rslora",
        "load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type", "use_bnb_nested_quant",
        # the samples of a step
        "adapter", "filters", "ignore_fields", "mixture", "stopping", "on_failed_source", "too_long", "image_resizing",
        "max_image_bytes", "context_length", "sample_packing", "packing_pool",
        "max_tiles_per_row", "data_lanes", "seed", "data_seed", "num_train_epochs", "max_length", "truncation_mode",
        "max_documents", "text_key", "document_separator", "validation_fraction", "train_sampling_strategy",
        "dataloader_drop_last", "auto_find_batch_size", "shuffle_dataset", "packing", "packing_strategy",
        "padding_free", "pad_to_multiple_of", "length_column_name", "dataset_text_field", "dataset_kwargs",
        "chat_template_path",
        # the optimizer's kind, whose state is in the checkpoint
        "optim", "optim_args", "optim_target_modules", "fp16", "fsdp", "fsdp_config", "deepspeed",
        "parallelism_config",
        # the loss
        "loss_type", "loss_weights", "beta", "label_smoothing", "label_smoothing_factor", "ld_alpha",
        "f_divergence_type", "f_alpha_divergence_coef", "use_weighting", "discopop_tau", "sync_ref_model",
        "ref_model_mixup_alpha", "ref_model_sync_steps", "precompute_ref_log_probs", "completion_only_loss",
        "assistant_only_loss", "router_aux_loss_coef", "average_tokens_across_devices", "disable_dropout",
        "model_init_kwargs", "label_names", "eos_token", "pad_token",
    ),
    OnResume.CHANGE: (
        *OF_THE_SCHEDULE, "max_steps", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm",
        "bf16", "tf32", "neftune_noise_alpha", "max_nonfinite_steps", "on_bad_sample", "max_skipped_fraction",
        "max_skipped_in_a_row", "validation_documents", "validation_data", "validation_split",
    ),
    OnResume.DATA: (
        "documents", "data", "dataset_config", "dataset_split", "dataset_revision", "data_root", "image_folder",
        "num_pages", "page_size", "turns_per_page",
    ),
    OnResume.ROWS: ("per_device_train_batch_size", "gradient_accumulation_steps"),
    OnResume.FREE: (
        # where and how fast it is computed
        "attn_implementation", "dataset_download", "documents_cache", "verify_images", "use_cpu",
        "gradient_checkpointing", "gradient_checkpointing_kwargs", "activation_checkpointing",
        "activation_checkpointing_kwargs", "activation_offloading", "torch_compile", "torch_compile_backend",
        "torch_compile_mode", "use_liger_kernel", "liger_kernel_config", "use_cache", "torch_empty_cache_steps",
        "full_determinism", "accelerator_config", "dataloader_num_workers", "dataloader_pin_memory",
        "dataloader_persistent_workers", "dataloader_prefetch_factor", "dataloader_multiprocessing_context",
        "dataloader_in_order", "dataset_num_proc", "precompute_ref_batch_size", "remove_unused_columns",
        "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph", "ddp_backend",
        "ddp_timeout", "local_rank", "skip_memory_metrics", "debug", "trust_remote_code",
        # what is written and measured
        "output_dir", "logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node",
        "logging_nan_inf_filter", "include_num_input_tokens_seen", "log_level", "log_level_replica", "disable_tqdm",
        "report_to", "run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id",
        "eval_strategy", "eval_steps", "eval_delay", "per_device_eval_batch_size", "prediction_loss_only",
        "eval_on_start", "eval_do_concat_batches", "eval_use_gather_object", "eval_accumulation_steps",
        "include_for_metrics", "batch_eval_metrics", "eval_packing", "bf16_full_eval", "fp16_full_eval",
        "save_only_model", "save_strategy", "save_steps", "save_on_each_node", "save_total_limit", "num_checkpoints",
        "enable_jit_checkpoint", "push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy",
        "hub_always_push", "hub_revision", "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
        "ignore_data_skip", "restore_callback_states_from_checkpoint", "resume_from_checkpoint", "do_train", "do_eval",
        "do_predict",
    ),
}  # fmt: skip
ON_RESUME = {key: policy for policy, keys in KEYS.items() for key in keys}
