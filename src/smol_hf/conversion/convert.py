"""`smol-hf convert`: convert a foreign checkpoint to ours, or ours to the native class of transformers."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import GenerationConfig, PreTrainedModel

from smol_hf.conversion.checkpoint_files import is_adapter, locate, read_json, read_weights
from smol_hf.conversion.formats.processors import (
    VOCABULARIES,
    copy_tokenizer,
    has_tokenizer,
    image_numbers,
    read_processor,
)
from smol_hf.conversion.formats.registry import OURS, Format, native_format, source_format
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.conversion.meta_check import model_of
from smol_hf.conversion.native.folder import finish_native_folder
from smol_hf.conversion.native.llava_files import refuse_other_processors
from smol_hf.conversion.single_file import SINGLE_FILES, read_single_file
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.modeling.modeling_smol_hf import SmolHFForConditionalGeneration
from smol_hf.modeling.modeling_smol_hf_text import SmolHFForCausalLM
from smol_hf.processing.plain_tokenizer import write_portable_tokenizer_config
from smol_hf.support.atomic import atomic_folder
from smol_hf.support.formatting import one_line
from smol_hf.support.tokenizer_of import is_language_model


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
    """Convert `source` into the folder `output`; the direction follows from its config.

    Args:
        source: folder, `.pt` or `.gguf` file, or Hub id.
        to: for a checkpoint of ours, "native" (default) or the name of a format.
        tokenizer: folder or Hub id of the tokenizer to save with the model, for a source without one (nanoGPT). Or
            the `meta.pkl` of a character-level nanoGPT, which is also found next to the `.pt` file.
        num_attention_heads, rope_theta: facts that the tensors of a plain `.pt` file do not show.

    Returns:
        `source`, `target` (kinds), `output`, `tensors`, `parameters` (per part and `total`), `notes` (missing
        files, and settings that the target cannot express), `seconds`.

    Raises:
        ConversionError: with the reason. Nothing is written then.
        FileExistsError: if `output` is not empty.
    """
    started = time.monotonic()
    output = Path(output).expanduser()
    check_output(output)
    fetch = {"revision": revision, "token": token, "local_files_only": local_files_only}
    path = locate(source, **fetch)
    texts = locate(tokenizer, **fetch) if tokenizer else path
    check_output(output, path, texts)
    if tokenizer and not ((texts.is_file() and path.is_file()) or has_tokenizer(texts)):
        raise ConversionError(f"--tokenizer {tokenizer}: no tokenizer found; expected {' or '.join(VOCABULARIES)}")
    if not path.is_file() and (num_attention_heads is not None or rope_theta is not None):
        raise ConversionError("--num-attention-heads and --rope-theta are for .pt files: a folder has its config")
    config_json = {} if path.is_file() else read_config_json(path)
    kind = ("gguf" if path.suffix == ".gguf" else "pt") if path.is_file() else config_json.get("model_type")
    processor = ours = native = None
    notes: list[str] = []
    if kind in OURS:
        native, model, ours = export(path, config_json, to or "native")
        target = native.name
    else:
        if to not in (None, "smol_hf"):
            raise ConversionError(f"--to {to}: convert the foreign checkpoint to ours first, then ours to {to}")
        if path.is_file():
            own = texts if tokenizer else None
            model, processor, notes = read_single_file(path, own, num_attention_heads, rope_theta)
        else:
            found = source_format(config_json)
            kind = found.name
            model, processor = read_foreign(path, config_json, found, texts)
        target = model.config.model_type
    with atomic_output(output) as incomplete:
        if native is not None:
            native.save(model, incomplete)
        else:
            model.save_pretrained(incomplete)
        if processor is not None:
            processor.save_pretrained(incomplete)
        else:
            copy_tokenizer(texts, incomplete)
        if is_language_model(processor):
            write_portable_tokenizer_config(incomplete)
        write_generation_config(path, incomplete)
        if native is not None:
            with unusable_values(path / "processor_config.json"):
                notes += finish_native_folder(path, incomplete, ours)
    return {
        "source": kind,
        "target": target,
        "output": str(output),
        "tensors": len(model.state_dict()),
        "parameters": parameters_per_part(model),
        "notes": [*notes, *missing_files(output, config_json)],
        "seconds": round(time.monotonic() - started, 2),
    }


def read_config_json(folder: Path) -> dict:
    """Read config.json. For the output folder of another training program, name the file to convert."""
    files = sorted(path.name for path in folder.iterdir() if path.suffix in SINGLE_FILES)
    if (folder / "config.json").is_file() or not files or is_adapter(folder):
        return read_json(folder / "config.json")
    if "lit_model.pth" in files:
        raise ConversionError(
            f"{folder} is a folder of LitGPT: run `litgpt convert_from_litgpt {folder} OUT` first; a Llama-style "
            "result can be converted"
        )
    raise ConversionError(f"{folder} has no config.json, but {files[0]}: give that file as the source")


def missing_files(output: Path, config: dict) -> list[str]:
    """Say which files generation needs and `output` lacks, and which option adds them."""
    if has_tokenizer(output):
        return []
    is_vlm = read_json(output / "config.json").get("vision_config") is not None
    what = "processor and no tokenizer" if is_vlm else "tokenizer"
    name = config.get("lm_tokenizer") or "NAME"
    meta = "" if config else " (of a character-level nanoGPT: the meta.pkl of its data)"
    return [f"it has no {what}, so it cannot generate text: convert again with --tokenizer {name}{meta}"]


def check_output(output: Path, *sources: Path) -> None:
    """Raise FileExistsError if `output` is not empty, and ConversionError if it is inside a source."""
    output = output.expanduser().resolve()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} exists and is not empty: choose another folder")
    if above := next((parent for parent in output.parents if parent.exists() and not parent.is_dir()), None):
        raise NotADirectoryError(f"{output} is inside the file {above}: choose another folder")
    for source in sources:
        if source.is_dir() and source.expanduser().resolve() in (output, *output.parents):
            raise ConversionError(f"{output} is inside {source}: choose an output outside the source")


def read_foreign(path: Path, config_json: dict, found: Format, texts: Path):
    """Return our model, and its processor if it is a vision-language model with a tokenizer in `texts`."""
    with unusable_values(path / "config.json"):
        config = found.read_config(config_json)
    tensors = found.to_ours(read_weights(path), config)
    if not isinstance(config, SmolHFConfig):
        return model_of(SmolHFForCausalLM, config, tensors), None
    if found.name != "nanovlm":
        config.image_mean, config.image_std = image_numbers(path)
    model = model_of(SmolHFForConditionalGeneration, config, tensors)
    processor = read_processor(texts, path, config, found.name)
    if found.name == "nanovlm" and processor is not None:  # only its tokenizer names the end token
        tokenizer, generation = processor.tokenizer, model.generation_config
        generation.eos_token_id = tokenizer.eos_token_id
        generation.pad_token_id = tokenizer.pad_token_id or tokenizer.eos_token_id
    return model, processor


@contextmanager
def unusable_values(path: Path):
    """Turn errors about missing or wrong values of a file of JSON into a ConversionError."""
    try:
        yield
    except ConversionError:
        raise
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        reason = one_line(f"{type(error).__name__}: {error}")
        raise ConversionError(f"{path}: a value is missing or unusable: {reason}") from error


def write_generation_config(source: Path, folder: Path) -> None:
    if (source / "generation_config.json").is_file():
        GenerationConfig.from_pretrained(source).save_pretrained(folder)


def export(path: Path, config_json: dict, to: str):
    """Return (format, model of transformers' class, our configuration)."""
    config_class, _ = OURS[config_json["model_type"]]
    with unusable_values(path / "config.json"):
        config = config_class.from_dict(config_json)
        target = native_format(config, to)
        assert target.write_config is not None and target.to_theirs is not None  # `native_format` saw to it
        native = target.write_config(config)
    refuse = {"smolvlm": refuse_other_image_styles, "llava": refuse_other_processors}.get(target.name)
    if refuse is not None and (path / "processor_config.json").is_file():
        with unusable_values(path / "processor_config.json"):
            refuse(read_json(path / "processor_config.json"))
    model = model_of(target.native_class, native, target.to_theirs(read_weights(path), config))
    return target, model, config


def refuse_other_image_styles(ours: dict) -> None:
    """Raise ConversionError unless SmolVLM's processor has the image style of this processor_config.json."""
    style = ours.get("image_style", "smolvlm")
    if style != "smolvlm":
        raise ConversionError(
            f"the processor's image_style is {style!r}: SmolVLM's processor supports only 'smolvlm'. "
            "The checkpoint of smol_hf itself runs with trust_remote_code"
        )


def parameters_per_part(model: PreTrainedModel) -> dict[str, int]:
    """Count the parameters of each part, tied ones once, and `total`."""
    inner = model if hasattr(model, "connector") else getattr(model, "model", model)
    parts = ("vision_model", "connector", "language_model", "text_model")
    modules = {name: getattr(inner, name) for name in parts if hasattr(inner, name)} | {"total": model}
    numbers = {name: sum(weight.numel() for weight in module.parameters()) for name, module in modules.items()}
    total = numbers.pop("total")
    if numbers and sum(numbers.values()) < total:
        numbers["lm_head"] = total - sum(numbers.values())  # a native class has it outside of its language model
    return numbers | {"total": total}


@contextmanager
def atomic_output(output: Path):
    """Give a folder to write to, which becomes `output` at the end of the block and is removed after an error.

    Raises:
        FileExistsError: if something else was written to `output` meanwhile.
    """
    output = output.expanduser().resolve()
    try:
        with atomic_folder(output) as incomplete:
            yield incomplete
            check_output(output)
    except SafetensorError as error:
        raise OSError(f"{output} could not be written: {error}") from error
