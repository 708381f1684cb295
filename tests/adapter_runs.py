"""Runs that train adapters on a tiny vision-language model."""

from tiny_runs import words

KINDS = {
    "lora on the text": {},
    "lora on all parts": {"lora_parts": "[text, vision, connector]"},
    "dora, connector whole": {"use_dora": True, "lora_parts": "[text, vision]", "connector_learning_rate": 1e-2},
    "qlora, connector whole": {"load_in_4bit": True, "connector_learning_rate": 1e-2},
    "eight bits": {"load_in_8bit": True, "lora_target_modules": "all-linear"},
    "encoder whole, unfrozen later": {"vision_learning_rate": 1e-2, "unfreeze_vision_at_step": 3},
    "a new token": {"lora_trainable_tokens": '["<end_of_utterance>"]'},
}


def adapter_words(base, output, **keys):
    """The command line of a run over the model in the folder `base`."""
    recipe = {
        "model": str(base), "output_dir": str(output), "use_peft": True, "lora_r": 4, "data": "digits",
        "num_pages": 40, "per_device_train_batch_size": 4, "max_steps": 6, "save_steps": 3, "logging_steps": 1,
        "use_cpu": True, "learning_rate": 1e-2, "lora_dropout": 0.1, **keys,
    }  # fmt: skip
    return words(recipe)
