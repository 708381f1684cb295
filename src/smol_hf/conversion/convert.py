"""`smol-hf convert`: a checkpoint of another format → ours, or ours → the native class of transformers."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import GenerationConfig, PreTrainedModel

from smol_hf.conversion.checkpoint_files import (
    ADAPTER_CONFIG,
    read_json,
    read_torch_file,
    read_weights,
)
from smol_hf.conversion.formats.nanogpt import read_pt
from smol_hf.conversion.formats.native_folder import finish_native_folder
from smol_hf.conversion.formats.processors import (
    VOCABULARIES,
    copy_tokenizer,
    has_tokenizer,
    image_numbers,
    read_processor,
)
from smol_hf.conversion.formats.registry import Format, native_format, source_format
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.conversion.location import locate
from smol_hf.conversion.meta_check import model_of
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.modeling.configuration_smol_hf_text import SmolHFTextConfig
from smol_hf.modeling.modeling_smol_hf import SmolHFForConditionalGeneration
from smol_hf.modeling.modeling_smol_hf_text import SmolHFForCausalLM
from smol_hf.support.atomic import atomic_folder

TORCH_FILES = (".pt", ".pth", ".bin")


def convert(
    source: str,
    output: str | Path,
    *,
    to: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    tokenizer: str | None = None,
    num_attention_heads: int | None = None,
    rope_theta: float | None = None,
) -> dict:
    """Convert `source` (folder, `.pt` file or Hub id) into the folder `output`; the direction follows from its config.

    Args:
        to: for a checkpoint of ours, "native" or the name of a format; None is "native".
        tokenizer: folder or Hub id of the tokenizer to save with the model, where the source has none (nanoGPT).
        num_attention_heads, rope_theta: what the tensors of a plain `.pt` file do not show.

    Returns:
        `source`, `target` (kinds), `output`, `tensors`, `parameters` (per part and `total`), `notes` (what is
        missing), `seconds`.

    Raises:
        ConversionError: with the reason. Nothing is written then.
        FileExistsError: when `output` holds something already.
    """
    started = time.monotonic()
    output = Path(output)
    refuse_occupied(output)
    fetch = {"revision": revision, "token": token, "local_files_only": local_files_only}
    path = locate(source, **fetch)
    tokenizer_folder = locate(tokenizer, **fetch) if tokenizer else None
    refuse_output_inside(output, path, *([tokenizer_folder] if tokenizer_folder else []))
    if tokenizer_folder is not None and not has_tokenizer(tokenizer_folder):
        raise ConversionError(f"--tokenizer {tokenizer}: no tokenizer there; expected {' or '.join(VOCABULARIES)}")
    if path.is_file():
        if path.suffix not in TORCH_FILES:
            raise ConversionError(f"{path}: a single file must be one of {', '.join(TORCH_FILES)}")
        refuse_target(to)
        config, tensors = read_pt(
            read_torch_file(path), num_attention_heads=num_attention_heads, rope_theta=rope_theta
        )
        kind, target, model = "pt", config.model_type, model_of(SmolHFForCausalLM, config, tensors)
        finish = save_text_files(tokenizer_folder, None)
    else:
        if num_attention_heads is not None or rope_theta is not None:
            raise ConversionError("--num-attention-heads and --rope-theta are for .pt files: a folder has its config")
        refuse_other_trainers(path)
        config_json = read_json(path / "config.json")
        found = source_format(config_json)
        if found is None:
            kind = config_json["model_type"]
            target, model, finish = export(path, config_json, to or "native", tokenizer_folder)
        else:
            refuse_target(to)
            kind, target = found.name, None
            model, finish = read_foreign(path, config_json, found, tokenizer_folder)
            target = model.config.model_type
    with written_whole(output) as incomplete:
        model.save_pretrained(incomplete)
        finish(incomplete, model)
    return {
        "source": kind,
        "target": target,
        "output": str(output),
        "tensors": len(model.state_dict()),
        "parameters": parameters_per_part(model),
        "notes": notes_on(output, config_json if path.is_dir() else {}),
        "seconds": round(time.monotonic() - started, 2),
    }


def refuse_other_trainers(folder: Path) -> None:
    """Raises ConversionError for a folder of a training program without a config.json, with the file to convert."""
    files = sorted(path.name for path in folder.iterdir() if path.suffix in TORCH_FILES)
    if (folder / "config.json").is_file() or not files or (folder / ADAPTER_CONFIG).is_file():
        return
    if "lit_model.pth" in files:
        raise ConversionError(
            f"{folder} is a folder of LitGPT: run `litgpt convert_from_litgpt {folder} OUT` first; a Llama-style "
            "result can be converted"
        )
    raise ConversionError(f"{folder} has no config.json, but {files[0]}: give that file as the source")


def notes_on(output: Path, config: dict) -> list[str]:
    """What the written folder lacks to be asked, and what would add it."""
    if has_tokenizer(output):
        return []
    is_vlm = read_json(output / "config.json").get("vision_config") is not None
    what = "processor and no tokenizer" if is_vlm else "tokenizer"
    name = config.get("lm_tokenizer") or "NAME"
    return [f"it has no {what}, so it cannot be asked: convert again with --tokenizer {name}"]


def refuse_occupied(output: Path) -> None:
    output = output.expanduser().resolve()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} exists and is not empty: choose another place for the result")


def refuse_output_inside(output: Path, *sources: Path) -> None:
    """Raises ConversionError when the result would be written into one of the folders that it is made from."""
    place = output.expanduser().resolve()
    for source in sources:
        if source.is_dir() and source.expanduser().resolve() in (place, *place.parents):
            raise ConversionError(f"{output} is inside {source}: choose an output outside the source")


def refuse_target(to: str | None) -> None:
    if to not in (None, "smol_hf"):
        raise ConversionError(f"--to {to}: a foreign checkpoint is converted to ours first, then ours to {to}")


def read_foreign(path: Path, config_json: dict, found: Format, tokenizer_folder: Path | None):
    with configuration(path):
        config = found.read_config(config_json)
    tensors = found.to_ours(read_weights(path), config)
    texts = tokenizer_folder or path
    if isinstance(config, SmolHFConfig):
        if found.name != "nanovlm":
            config.image_mean, config.image_std = image_numbers(path)
        model = model_of(SmolHFForConditionalGeneration, config, tensors)

        processor = read_processor(texts, path, config, found.name)

        def finish(folder: Path, model: PreTrainedModel) -> None:
            if processor is not None:
                processor.save_pretrained(folder)
            if found.name == "nanovlm" and processor is not None:
                end_with(model, processor.tokenizer)
                model.generation_config.save_pretrained(folder)
            write_generation_config(path, folder, model)

        return model, finish
    return model_of(SmolHFForCausalLM, config, tensors), save_text_files(texts, path)


@contextmanager
def configuration(path: Path):
    """What transformers raises about values that a configuration cannot have becomes a ConversionError."""
    try:
        yield
    except ConversionError:
        raise
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConversionError(f"{path / 'config.json'}: a value cannot be used: {reason}") from error


def end_with(model: PreTrainedModel, tokenizer) -> None:
    """nanoVLM says nowhere where an answer ends: it is where its tokenizer says a text does."""
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id or tokenizer.eos_token_id


def save_text_files(texts: Path | None, source: Path | None) -> Callable[[Path, PreTrainedModel], None]:
    """Beside the weights: the tokenizer of `texts`, and how the model `source` generates."""

    def finish(folder: Path, model: PreTrainedModel) -> None:
        if texts is not None:
            copy_tokenizer(texts, folder)
        if source is not None:
            write_generation_config(source, folder, model)

    return finish


def write_generation_config(source: Path, folder: Path, model: PreTrainedModel) -> None:
    if (source / "generation_config.json").is_file():
        GenerationConfig.from_pretrained(source).save_pretrained(folder)


def export(path: Path, config_json: dict, to: str, tokenizer_folder: Path | None):
    """(target, model of transformers' class, what finishes its folder)."""
    ours = SmolHFConfig if config_json["model_type"] == SmolHFConfig.model_type else SmolHFTextConfig
    with configuration(path):
        config = ours.from_dict(config_json)
        target = native_format(config, to)
        native = target.write_config(config)
    refuse_pictures_without_counterpart(path)
    model = model_of(target.native_class, native, target.to_theirs(read_weights(path), config))

    def finish(folder: Path, model: PreTrainedModel) -> None:
        save_text_files(tokenizer_folder or path, path)(folder, model)
        finish_native_folder(path, folder, config)

    return target.name, model, finish


def refuse_pictures_without_counterpart(path: Path) -> None:
    """Raises ConversionError for a processor that cuts or writes pictures as no native one does."""
    if not (path / "processor_config.json").is_file():
        return
    style = read_json(path / "processor_config.json").get("image_style", "smolvlm")
    if style != "smolvlm":
        raise ConversionError(
            f"the processor's image_style is {style!r}: SmolVLM's own cuts and writes pictures in its own way alone. "
            "The checkpoint runs as it is with trust_remote_code"
        )


def parameters_per_part(model: PreTrainedModel) -> dict[str, int]:
    """Parameters of each part, tied ones counted once, and `total`."""
    parts = ("vision_model", "connector", "language_model")
    inner = model if hasattr(model, "connector") else getattr(model, "model", model)
    counts = {
        name: sum(weight.numel() for weight in getattr(inner, name).parameters())
        for name in (*parts, "text_model")
        if hasattr(inner, name)
    }
    total = sum(weight.numel() for weight in model.parameters())
    return {**counts, "total": total}


@contextmanager
def written_whole(output: Path):
    """A folder beside `output` that takes its place when all went well, and is removed when not.

    Raises:
        FileExistsError: when something else was written to `output` meanwhile.
    """
    output = output.expanduser().resolve()
    try:
        with atomic_folder(output) as incomplete:
            yield incomplete
            refuse_occupied(output)
    except SafetensorError as error:
        raise OSError(f"{output} could not be written: {error}") from error
