"""The processor files of a native LLaVA folder."""

from __future__ import annotations

from pathlib import Path

from smol_hf.auto import AutoTokenizer
from smol_hf.conversion.checkpoint_files import read_json, write_json
from smol_hf.conversion.formats.processors import PROBES, render_probe
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.conversion.native.processor_texts import native_template, pixel_settings, write_texts
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.processing.chat_format import FAKE_IMAGE_TOKEN, GLOBAL_IMAGE_TOKEN, IMAGE_TOKEN

WORDS = {"smolvlm": (FAKE_IMAGE_TOKEN + GLOBAL_IMAGE_TOKEN, FAKE_IMAGE_TOKEN), "plain": ("", ""), "crop": ("", "")}
LANCZOS, BICUBIC = 1, 3  # numbers of Pillow's filters


def refuse_other_processors(ours: dict) -> None:
    """Raise ConversionError for tiles or styles that LLaVA's processor does not have.

    Args:
        ours: processor_config.json of our checkpoint.
    """
    style, tile = ours.get("image_style", "smolvlm"), ours["tile_size"]
    if style not in WORDS:
        known = ", ".join(WORDS)
        raise ConversionError(f"the processor's image_style is {style!r}: LLaVA's processor supports {known}")
    edge = ours.get("longest_edge") or tile
    if ours.get("do_image_splitting", True) and edge > tile:
        raise ConversionError(
            f"the processor cuts images into tiles (longest_edge {edge}, tile_size {tile}): LLaVA reads one tile. "
            f"Choose longest_edge {tile} and train with it, or the connector pixel_shuffle"
        )


def write_llava_files(source: Path, folder: Path, config: SmolHFConfig) -> list[str]:
    """Write the processor of our checkpoint `source` as LLaVA's. Return notes about what it cannot express."""
    ours = read_json(source / "processor_config.json")
    style, tile, token = ours.get("image_style", "smolvlm"), ours["tile_size"], ours.get("image_token", IMAGE_TOKEN)
    square = {"height": tile, "width": tile}
    image = {
        "image_processor_type": "CLIPImageProcessor",
        **pixel_settings(config),
        "resample": LANCZOS if style == "smolvlm" else BICUBIC,
        "size": {"shortest_edge": tile} if style == "crop" else square,
        "do_center_crop": style == "crop",
        "crop_size": square,
        "processor_class": "LlavaProcessor",
    }
    keeps_patches_only = config.vision_feature_select_strategy == "default" and config.num_class_tokens
    processor = {
        "image_processor": image,
        "patch_size": config.vision_config.patch_size,
        "image_token": token,
        "num_additional_image_tokens": config.num_class_tokens,
        "vision_feature_select_strategy": "default" if keeps_patches_only else "full",
        "processor_class": "LlavaProcessor",
    }
    before, after = WORDS[style]
    template = native_template(source)
    written = template.replace(token, f"{before}{token}{after}")
    refuse_other_texts(folder, template, written, (token, f"{before}{token}{after}"))
    write_texts(folder, written, "LlavaProcessor", {"image_token": token})
    write_json(folder / "preprocessor_config.json", image)
    write_json(folder / "processor_config.json", processor)
    notes = []
    if style == "smolvlm":
        notes.append(
            "LLaVA's processor resizes an image in one step, ours in two: pixels of images that are not square differ "
            "a little (image_style plain resizes in one step)"
        )
    return notes


def refuse_other_texts(folder: Path, template: str, written: str, change: tuple[str, str]) -> None:
    """Raise ConversionError unless `written` writes the texts of `template`, with the words around an image."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    for probe in PROBES:
        if render_probe(tokenizer, probe, written) != render_probe(tokenizer, probe, template).replace(*change):
            raise ConversionError(
                f"the chat template compares or changes the text {change[0]}: write the words around an image into it"
            )
