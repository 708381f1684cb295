"""`smol-hf check`: inspect a checkpoint, and compare its results in an isolated process with the results here."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, PretrainedConfig

from smol_hf.auto import AutoTokenizer
from smol_hf.conversion.checking import isolated_check
from smol_hf.conversion.checking.travelling_code import MODULES, outdated_code
from smol_hf.conversion.checkpoint_files import read_json, read_weights, strings_in, weight_files
from smol_hf.conversion.convert import convert
from smol_hf.conversion.formats.registry import OURS
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.conversion.meta_check import compare_with
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.processing.processing_smol_hf import SmolHFProcessor
from smol_hf.support.formatting import counted
from smol_hf.support.hashing import hash_file
from smol_hf.support.tokenizer_of import token_ids
from smol_hf.training.model.sound_checkpoint import nonfinite, refuse_unsound_config

TOLERANCE = 1e-5
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


@dataclass(frozen=True)
class Finding:
    """One line of the report. `good`: False for a fault, None for a fact that is neither good nor bad."""

    name: str
    value: str
    good: bool | None = None


def check(checkpoint: str | Path, *, trust_remote_code: bool = False) -> dict:
    """Check a checkpoint folder: ours, or a native one that `smol-hf convert` reads.

    Args:
        trust_remote_code: run the folder's code even if it differs from the code of this package.

    Returns:
        `checkpoint`, `findings` (see `Finding`) and `good` (no fault was found).
    """
    folder = Path(checkpoint)
    config = read_json(folder / "config.json")
    refuse_unsound_config(config, folder)
    tensors = read_weights(folder)
    findings = [*check_files(folder), *check_weights(tensors), *check_tokens(folder, config, tensors)]
    if config.get("model_type") in OURS:
        findings += [check_names(config, tensors), *check_processor(folder, config), check_code(folder)]
    foreign = foreign_code(folder)
    if any(finding.good is False for finding in findings if finding.name in ("finite", "names and shapes")):
        findings.append(Finding("loads without smol_hf", "not tried: the weights are damaged", False))
    elif foreign and not trust_remote_code:
        reason = f"not tried: {foreign[0]} is not the code installed here; use --trust-remote-code to run it"
        findings.append(Finding("loads without smol_hf", reason, False))
    else:
        findings += check_parity(folder, config)
    return {
        "checkpoint": str(folder),
        "findings": [asdict(finding) for finding in findings],
        "good": all(finding.good is not False for finding in findings),
    }


def check_files(folder: Path) -> list[Finding]:
    sizes = [path.stat().st_size for path in weight_files(folder)]
    findings = [Finding("weights", f"{counted(len(sizes), 'file')}, {sum(sizes) / 1e6:.1f} MB")]
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    findings.append(Finding("pickled files", ", ".join(pickled) or "none", not pickled))
    for path in sorted(folder.glob("*.py")):
        known = "as installed here" if is_installed_here(path) else "not as installed here"
        findings.append(Finding(path.name, f"{hash_file(path)[:16]} {known}"))
    return findings


def check_code(folder: Path) -> Finding:
    """Compare the model code with this release: older code may fail or compute wrongly on newer transformers."""
    try:
        outdated = outdated_code(folder)
    except ConversionError as error:
        return Finding("model code", f"cannot be compared: {error}", False)
    if not outdated:
        return Finding("model code", "as installed here", True)
    return Finding(
        "model code",
        f"{counted(len(outdated), 'file', 'differs/differ')} from this release of smol_hf, first {outdated[0]}: "
        f"smol-hf convert {folder} OUT --refresh-code replaces them",
        False,
    )


def foreign_code(folder: Path) -> list[str]:
    """List code that `trust_remote_code=True` would run and that is not the code of this package.

    That is code in the folder and its subfolders, and classes of other places that a configuration names.
    """
    found = [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*.py"))
        if path.parent != folder or not is_installed_here(path)
    ]
    for path in sorted(folder.glob("*.json")):
        try:
            config = read_json(path)
        except ConversionError:
            continue  # transformers cannot read it as a configuration
        found += [f"{name} in {path.name}" for name in strings_in(config.get("auto_map")) if set(name) & set("/\\-:")]
    return found


def is_installed_here(path: Path) -> bool:
    own = MODULES.get(path.stem)
    return own is not None and own.read_bytes() == path.read_bytes()


def check_weights(tensors: dict) -> list[Finding]:
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})
    broken = nonfinite(tensors.items())
    return [
        Finding("tensors", f"{len(tensors)}, {', '.join(dtypes)}"),
        Finding("finite", f"{len(broken)} are not, first {broken[0]}" if broken else "all", not broken),
    ]


def check_tokens(folder: Path, config: dict, tensors: dict) -> list[Finding]:
    """Compare the ids of special tokens in tokenizer, configuration, generation config and embeddings."""
    if not (folder / "tokenizer_config.json").is_file():
        return [Finding("tokenizer", "none in the folder")]
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, OSError, KeyError, TypeError) as error:
        return [Finding("tokenizer", f"does not load: {error}", False)]
    text = config.get("text_config", config)
    endings = ("embed_tokens.weight", "wte.weight", "token_embedding.weight", "embed_in.weight")
    rows = next((tensor.shape[0] for name, tensor in tensors.items() if name.endswith(endings)), 0)
    findings = [
        Finding(
            "vocabulary",
            f"{counted(len(tokenizer), 'token')}, {counted(rows, 'row')} of embeddings",
            len(tokenizer) <= rows,
        )
    ]
    generation = GenerationConfig.from_pretrained(folder) if (folder / "generation_config.json").is_file() else None
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        own = getattr(tokenizer, name)
        others = {"config": text.get(name, config.get(name))}
        if generation is not None:
            others["generation"] = getattr(generation, name)
        differing = {where: ids for where, ids in others.items() if ids is not None and own not in token_ids(ids)}
        value = f"{own}" + "".join(f", but {ids} in the {where} config" for where, ids in differing.items())
        findings.append(Finding(name, value, not differing))
    ends = generation is not None and generation.eos_token_id is not None
    findings.append(Finding("generation config", "ends answers" if ends else "missing, or without eos_token_id", ends))
    if "image_token_id" in config:
        token, number = tokenizer.convert_ids_to_tokens(config["image_token_id"]), config["image_token_id"]
        findings.append(Finding("image_token_id", f"{number} {token}", token is not None))
    return findings


def check_names(config: dict, tensors: dict) -> Finding:
    """Compare the tensors with the model: transformers replaces missing ones by random numbers."""
    config_class, model_class = OURS[config["model_type"]]
    try:
        with torch.device("meta"):
            model = model_class._from_config(config_class.from_dict(config))
        compare_with(model, tensors)
    except (ConversionError, ValueError, TypeError) as error:
        return Finding("names and shapes", str(error), False)
    return Finding("names and shapes", "all tensors of the model", True)


def check_processor(folder: Path, config: dict) -> list[Finding]:
    if config["model_type"] != SmolHFConfig.model_type:
        return []
    try:
        processor = SmolHFProcessor.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, OSError, KeyError, TypeError) as error:
        return [Finding("processor", f"does not load: {error}", False)]
    model = SmolHFConfig.from_dict(config)
    facts = {
        "tile size": (processor.tile_size, model.image_side),
        "tokens of a tile": (processor.image_seq_len, model.image_seq_len),
        "image token": (processor.image_token_id, model.image_token_id),
    }
    wrong = [f"{name} {own}, but the model has {needed}" for name, (own, needed) in facts.items() if own != needed]
    return [Finding("processor", "; ".join(wrong) or "fits the model", not wrong)]


def check_parity(folder: Path, config: dict) -> list[Finding]:
    """Compare the results in an isolated process with the results here (for a native folder: of its conversion)."""
    with tempfile.TemporaryDirectory() as place:
        ours = folder
        if config.get("model_type") not in OURS:
            ours = Path(place, "ours")
            convert(str(folder), ours)
        _, model_class = OURS[read_json(ours / "config.json")["model_type"]]
        model = model_class.from_pretrained(ours, dtype=torch.float32).eval()
        inputs = example_inputs(model.config)
        if config.get("model_type") == "llava":  # it takes its tiles flat; our model takes both forms
            inputs["pixel_values"] = inputs["pixel_values"].squeeze(0)
        save_file(inputs, Path(place, "inputs"))
        command = [sys.executable, isolated_check.__file__, str(folder), f"{place}/inputs", f"{place}/results"]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": f"{place}/hub"}
        finished = subprocess.run(command, env=environment, capture_output=True, text=True)
        if finished.returncode:
            reason = finished.stderr.strip().splitlines()[-1:] or ["no reason given"]
            return [Finding("loads without smol_hf", reason[0], False)]
        theirs, own = load_file(Path(place, "results")), isolated_check.compute(model, inputs)
    difference = (theirs["logits"] - own["logits"]).abs().max().item()
    same_tokens = torch.equal(theirs["tokens"], own["tokens"])
    return [
        Finding("loads without smol_hf", "yes", True),
        Finding("logits", f"differ by {difference:.2g} at most", difference <= TOLERANCE),
        Finding("greedy tokens", f"{own['tokens'].shape[1]} equal" if same_tokens else "differ", same_tokens),
    ]


def example_inputs(config: PretrainedConfig) -> dict[str, torch.Tensor]:
    """Make twelve tokens, for a vision-language model after one tile of noise; the same in every call."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = config.get_text_config().vocab_size
    text = torch.randint(vocabulary, (1, 12), generator=generator)
    if not isinstance(config, SmolHFConfig):
        return {"input_ids": text}
    text[text == config.image_token_id] = (config.image_token_id + 1) % vocabulary
    image = torch.full((1, config.image_seq_len), config.image_token_id)
    pixels = torch.randn((1, 1, 3, config.image_side, config.image_side), generator=generator)
    return {"input_ids": torch.cat([image, text], dim=1), "pixel_values": pixels}
