"""The options of a processor call: those of transformers' processors, each applied or refused by name.

They are given by name, or grouped as `text_kwargs`, `images_kwargs`, `videos_kwargs` and `common_kwargs`.
"""

import re
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches

from .call_options import CallOptions
from .image_input import shown_value

OF_TEMPLATES = (
    "add_generation_prompt", "continue_final_message", "return_assistant_tokens_mask", "tools", "documents",
    "chat_template", "tokenize", "return_dict", "processor_kwargs",
)  # fmt: skip
GROUPS = ("text_kwargs", "images_kwargs", "videos_kwargs", "common_kwargs")
# Fixed options, with their only value. Another value is an error.
ALWAYS = {
    "do_convert_rgb": True, "do_resize": True, "do_pad": True, "is_split_into_words": False,
    "return_token_type_ids": False, "return_overflowing_tokens": False, "return_special_tokens_mask": False,
    "return_offsets_mapping": False, "split_special_tokens": False, "add_special_tokens": False,
    "do_center_crop": False, "return_row_col_info": False, "data_format": "channels_first", "device": "cpu",
    "stride": 0, "text_pair": None, "text_target": None, "text_pair_target": None, "crop_size": None,
    "pad_size": None, "default_to_square": None, "return_text_replacement_offsets": False,
    "return_metadata": False, "load_audio_from_video": False,
}  # fmt: skip
WITHOUT_EFFECT = ("verbose", "disable_grouping")  # do not change results, in transformers too
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
        for inner, its_value in mapping_of(name, value).items() if name in GROUPS else ((name, value),):
            inner = "video_size" if (name, inner) == ("videos_kwargs", "size") else inner
            if inner in flat and (name in GROUPS or inner in given):
                if name in ("common_kwargs", "videos_kwargs") and flat[inner] == its_value:
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


def mapping_of(name, value):
    """Return a group of options, empty for None. Raises TypeError for another value than a mapping."""
    if value is not None and not isinstance(value, Mapping):
        raise TypeError(f"{name} is {shown_value(value)}: give a mapping of options")
    return value or {}


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
