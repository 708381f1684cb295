"""The options of a processor call: those of transformers' processors, each applied or refused by name.

They are given by name, or grouped as `text_kwargs`, `images_kwargs` and `common_kwargs`.
"""

import re
from dataclasses import dataclass, fields
from difflib import get_close_matches

from .image_pixels import longest_edge_of

OF_TEMPLATES = (
    "add_generation_prompt", "continue_final_message", "return_assistant_tokens_mask", "tools", "documents",
    "chat_template", "tokenize", "return_dict", "processor_kwargs",
)  # fmt: skip
GROUPS = ("text_kwargs", "images_kwargs", "common_kwargs")
TENSORS = (None, "pt", "np")
SIDES = (None, "left", "right")
PADDINGS = (True, False, "longest", "max_length", "do_not_pad")
# Fixed options, with their only value. Another value is an error.
ALWAYS = {
    "do_convert_rgb": True, "do_resize": True, "do_pad": True, "is_split_into_words": False,
    "return_token_type_ids": False, "return_overflowing_tokens": False, "return_special_tokens_mask": False,
    "return_offsets_mapping": False, "split_special_tokens": False, "add_special_tokens": False,
    "do_center_crop": False, "return_row_col_info": False, "data_format": "channels_first", "device": "cpu",
    "stride": 0, "text_pair": None, "text_target": None, "text_pair_target": None, "crop_size": None,
    "pad_size": None, "default_to_square": None, "return_text_replacement_offsets": False,
}  # fmt: skip
WITHOUT_EFFECT = ("verbose", "disable_grouping")  # do not change results, in transformers too


@dataclass
class CallOptions:
    """The options of a call. `padding`: True or "longest", "max_length" (with `max_length`), or False."""

    return_tensors: str | None = None
    padding: bool | str = True
    padding_side: str | None = None
    pad_to_multiple_of: int | None = None
    max_length: int | None = None
    truncation: bool | str = False
    return_attention_mask: bool = True
    return_length: bool = False
    return_mm_token_type_ids: bool = False
    size: dict | None = None
    max_image_size: dict | None = None
    do_image_splitting: bool | None = None
    image_seq_len: int | None = None
    do_rescale: bool | None = None
    rescale_factor: float = 1 / 255
    do_normalize: bool | None = None
    image_mean: list | float | None = None
    image_std: list | float | None = None
    input_data_format: str | None = None

    def __post_init__(self):
        for name in ("padding", "truncation", "return_tensors", "input_data_format"):
            value = getattr(self, name)
            setattr(self, name, getattr(value, "value", value))  # transformers' enumerations have a value
        for name, choices in (("padding", PADDINGS), ("padding_side", SIDES), ("return_tensors", TENSORS)):
            if getattr(self, name) not in choices:
                shown = ", ".join(str(choice) for choice in choices)
                raise ValueError(f"{name} {getattr(self, name)!r}: choose one of {shown}")
        for name in ("max_length", "pad_to_multiple_of", "image_seq_len"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} {value!r} must be a positive whole number")
        self.pads = self.padding not in (False, "do_not_pad")
        self.cuts = self.truncation not in (False, "do_not_truncate")
        if self.padding == "max_length" and self.max_length is None:
            raise ValueError("padding 'max_length' needs max_length: give a number of tokens")
        if self.do_normalize and (self.image_mean is None or self.image_std is None):
            raise ValueError("do_normalize needs image_mean and image_std: they are the model's (config.image_mean)")

    def settings(self, processor):
        """Return the settings of a `SmolHFProcessor` that this call changes. Raises ValueError for fixed ones."""
        changed = {}
        for name, value in (("size", self.size), ("max_image_size", self.max_image_size)):
            if value is not None:
                changed[name] = longest_edge_of(name, value)
        if changed.pop("max_image_size", processor.tile_size) != processor.tile_size:
            raise ValueError(f"max_image_size is fixed, since the encoder reads {processor.tile_size} pixels: omit it")
        if "size" in changed:
            changed["longest_edge"] = changed.pop("size")
        for name in ("do_image_splitting", "image_seq_len"):
            if getattr(self, name) is not None:
                changed[name] = getattr(self, name)
        return {name: value for name, value in changed.items() if getattr(processor, name) != value}


KNOWN = {*ALWAYS, *WITHOUT_EFFECT, *(each.name for each in fields(CallOptions)), "resample", "image_seq_length"}


def read_options(given, settings):
    """Read `CallOptions` from keyword arguments; None means that an option is not given.

    Args:
        settings: the tokenizer's, which are the defaults of padding.

    Raises:
        TypeError: for an unknown name.
        ValueError: for a name that is given twice, and for an unsupported value.
    """
    flat = {}
    for name, value in given.items():
        for inner, its_value in (value or {}).items() if name in GROUPS else ((name, value),):
            if inner in flat and (name in GROUPS or inner in given):
                if name == "common_kwargs" and flat[inner] == its_value:
                    continue
                raise ValueError(f"{inner} is given twice, as an argument and within {name}: remove one")
            flat[inner] = its_value
    for name in flat:
        if name not in KNOWN:
            raise TypeError(f"the processor takes no {name!r}{did_you_mean(name)}")
    flat = {name: value for name, value in flat.items() if value is not None}
    of_tokenizer = ["padding", "pad_to_multiple_of"]
    if flat.get("padding", settings.get("padding")) == "max_length":
        of_tokenizer.append("max_length")
    flat = {**{name: settings[name] for name in of_tokenizer if settings.get(name) is not None}, **flat}
    for name, only in ALWAYS.items():
        value = flat.pop(name, only)
        if getattr(value, "value", value) != only and str(value) != str(only):
            rule = "is not supported" if not only else f"is always {only!r}"
            raise ValueError(f"{name} {value!r}: {name} {rule} in this processor: omit it")
    for name in WITHOUT_EFFECT:
        flat.pop(name, None)
    if flat.pop("resample", 1) not in (1, "lanczos"):
        raise ValueError("resample: the model was trained on images resized with LANCZOS: omit it")
    if "image_seq_length" in flat:
        flat.setdefault("image_seq_len", flat.pop("image_seq_length"))
    return CallOptions(**flat)


def options_and_variables(given, template):
    """Split keyword arguments into (options, variables of the chat template). Raises TypeError for other names."""
    options, variables = {}, {}
    for name, value in given.items():
        is_option = name in KNOWN or name in GROUPS
        if not is_option and not re.search(rf"\b{re.escape(name)}\b", template):
            raise TypeError(f"neither the processor nor its chat template knows {name!r}{did_you_mean(name)}")
        (options if is_option else variables)[name] = value
    return options, variables


def did_you_mean(name):
    close = get_close_matches(name, (*KNOWN, *OF_TEMPLATES), n=1)
    return f": did you mean {close[0]!r}?" if close else ""
