"""Tiny runs of the commands that train, and signals that reach them in mid-run."""

import json
import os
import threading
import time

from chat_models import save_base

from smol_hf.training.recipe.recipes import load_arguments
from smol_hf.training.run import train

RECIPE = {
    "vision_config": {
        "model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
    },
    "text_config": {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 256,
    },
    "data": "digits", "num_pages": 40, "context_length": 256, "per_device_train_batch_size": 4, "max_steps": 8,
    "learning_rate": 1e-2, "lr_scheduler_type": "cosine", "warmup_steps": 2, "logging_steps": 1, "save_steps": 4,
    "use_cpu": True, "data_lanes": 4, "seed": 0,
}  # fmt: skip
PAIRS = [{"prompt": f"What is {n}?", "chosen": f"It is {n}.", "rejected": f"It is {n + 1}."} for n in range(8)]


def words(keys):
    """The keys as a command line, without the steps that `save_strategy: no` and others refuse."""
    keys = {key: keys[key] for key in keys if key != "save_steps" or keys.get("save_strategy", "steps") == "steps"}
    written = {key: value if isinstance(value, str) else json.dumps(value) for key, value in keys.items()}
    return [word for key, value in written.items() for word in (f"--{key}", value)]


def train_words(output, **keys):
    return ["train", *words({**RECIPE, "output_dir": str(output), **keys})]


def train_here(output, **keys):
    """The trainer of a run of `RECIPE` in this process, after its end."""
    return train(*load_arguments(train_words(output, **keys)[1:]))


def pretrain_words(output, folder, **keys):
    text = folder / "text.txt"
    if not text.exists():
        text.write_text("".join(f"Line {n} of a text, in which {n % 7} birds sing.\n" for n in range(300)))
    recipe = {
        "preset": "tiny-text", "context_length": 64, "per_device_train_batch_size": 4, "max_steps": 8,
        "documents_cache": str(folder / "caches"), "logging_steps": 1, "use_cpu": True, "eval_strategy": "no",
        "num_checkpoints": None, "save_steps": 100, **keys,
    }  # fmt: skip
    return ["pretrain", "--data", str(text), "--output", str(output), *words(recipe)]


def dpo_words(output, folder, **keys):
    data, base = folder / "pairs.jsonl", folder / "base"
    if not base.exists():
        data.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
        save_base(base, "ours")
    recipe = {
        "model": str(base), "data": str(data), "output_dir": str(output), "max_steps": 8, "learning_rate": 1e-3,
        "logging_steps": 1, "seed": 0, "per_device_train_batch_size": 2, "use_cpu": True, "save_steps": 4,
        "chat_template": "chatml", **keys,
    }  # fmt: skip
    return ["dpo", *words(recipe)]


def signal_after(output, lines, number, process=None):
    """Send a signal once the log of a run has so many lines. To this process by default."""

    def wait():
        log, deadline = output / "log.jsonl", time.monotonic() + 120
        while time.monotonic() < deadline:
            if log.exists() and log.read_text().count("\n") >= lines:
                os.kill(process or os.getpid(), number)
                return
            time.sleep(0.002)

    threading.Thread(target=wait, daemon=True).start()
