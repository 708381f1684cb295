"""Additions to a native folder of transformers 5, so that transformers 4.57 and other engines read it.

They are rotary settings under their old names (otherwise mlx-vlm and transformers 4.57 use a wrong default without an
error), the architecture name for llama.cpp's converter and vLLM, the processor, and a card.
"""

from __future__ import annotations

from pathlib import Path

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from smol_hf.conversion.checkpoint_files import read_json, write_json
from smol_hf.conversion.native.card import write_card
from smol_hf.conversion.native.llava_files import write_llava_files
from smol_hf.conversion.native.smolvlm_files import write_smolvlm_files
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig

PROCESSORS = {"smolvlm": write_smolvlm_files, "llava": write_llava_files}

# About a language model inside LLaVA.
NOTES = {"gemma": "transformers 4.57 scales the features of images for gemma, so answers differ there: use 5.x"}


def finish_native_folder(source: Path, folder: Path, config) -> list[str]:
    """Complete `folder`, written by the native class, from our checkpoint `source`.

    Returns notes about what a native folder cannot express.
    """
    native = read_json(folder / "config.json")
    text = native.get("text_config", native)
    add_older_rope_names(text)
    model_type = native["model_type"]
    if isinstance(config, SmolHFConfig):
        architecture = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[text["model_type"]]
        text["architectures"] = ["VLlama3ForCausalLM"] if model_type == "smolvlm" else [architecture]
    write_json(folder / "config.json", native)
    notes = [note for name, note in NOTES.items() if model_type == "llava" and text["model_type"] == name]
    if isinstance(config, SmolHFConfig) and (source / "processor_config.json").is_file():
        notes += PROCESSORS[model_type](source, folder, config)
    write_card(source, folder, native)
    return notes


def add_older_rope_names(text: dict) -> None:
    """Add the names of transformers 4 for `rope_parameters` to a configuration of a language model."""
    rope = dict(text.get("rope_parameters") or {})
    older = {name: rope.pop(name) for name in ("rope_theta", "partial_rotary_factor") if name in rope}
    if text["model_type"] == "gpt_neox":
        names = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
        older |= {names[name]: value for name, value in older.items()}
    if rope.get("rope_type", "default") != "default":
        older["rope_scaling"] = rope
    text |= older
