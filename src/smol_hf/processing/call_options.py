"""The options of a processor call, with their defaults, and the settings that they change."""

from dataclasses import dataclass, fields
from numbers import Real

import numpy as np

from .image_input import shown_value
from .image_pixels import LAYOUTS, as_array, longest_edge_of
from .video_sampling import MOST_FPS

TENSORS = (None, "pt", "np")
SIDES = (None, "left", "right")
PADDINGS = (True, False, "longest", "max_length", "do_not_pad")
TRUNCATIONS = (True, False, "longest_first", "only_first", "do_not_truncate")
CHOICES = {
    "padding": PADDINGS, "padding_side": SIDES, "return_tensors": TENSORS, "truncation": TRUNCATIONS,
    "input_data_format": (None, *LAYOUTS),
}  # fmt: skip
# Option → setting of the processor.
SETTINGS = {
    "size": "longest_edge", "do_image_splitting": "do_image_splitting", "image_seq_len": "image_seq_len",
    "num_frames": "video_max_frames", "fps": "video_fps", "video_size": "video_frame_size",
}  # fmt: skip


@dataclass
class CallOptions:
    """The options of a call.

    Args:
        padding: True or "longest", "max_length" (with `max_length`), or False.
        num_frames, fps: the most frames of a video, and frames per second.
        do_sample_frames: choose frames: by default from files, not from frames in memory.
        video_metadata: see `video_frames.times_of`; a list of them for several videos.
        video_size: {"longest_edge": pixels} to which a frame is resized first; `size` of `videos_kwargs`.
        allow_video_urls: download videos.
        flat_tiles: return the tiles of all rows together, see `batching.stacked_tiles`.
    """

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
    num_frames: int | None = None
    fps: float | None = None
    do_sample_frames: bool | None = None
    video_metadata: list | dict | None = None
    video_size: dict | None = None
    allow_video_urls: bool = False
    flat_tiles: bool = False

    def __post_init__(self):
        for name in ("padding", "truncation", "return_tensors", "input_data_format"):
            value = getattr(self, name)
            setattr(self, name, getattr(value, "value", value))  # transformers' enumerations have a value
        switches = {each.name: (None, True, False) for each in fields(self) if each.type in (bool, bool | None)}
        for name, choices in {**switches, **CHOICES}.items():
            value = getattr(self, name)
            if not isinstance(value, (str, int, np.bool_, type(None))) or value not in choices:
                shown = ", ".join(str(choice) for choice in choices)
                raise ValueError(f"{name} {shown_value(value)}: choose one of {shown}")
        for name, lengths in (("rescale_factor", (1,)), ("image_mean", (1, 3)), ("image_std", (1, 3))):
            value = getattr(self, name)
            numbers = np.ravel(as_array(value))
            is_right = numbers.dtype.kind in "uif" and np.isfinite(numbers).all() and numbers.size in lengths
            if value is not None and not is_right:
                expected = "a number" if lengths == (1,) else "a number, or one for each of three colours"
                raise ValueError(f"{name} {shown_value(value)}: give {expected}")
        for name in ("max_length", "pad_to_multiple_of", "image_seq_len", "num_frames"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"{name} {shown_value(value)} must be a positive whole number")
        if self.fps is not None and not (isinstance(self.fps, Real) and 0 < self.fps <= MOST_FPS):
            raise ValueError(f"fps {shown_value(self.fps)} must be a number above 0, at most {MOST_FPS}")
        self.pads = self.padding not in (False, "do_not_pad")
        self.cuts = self.truncation not in (False, "do_not_truncate")
        if self.padding == "max_length" and self.max_length is None:
            raise ValueError("padding 'max_length' needs max_length: give a number of tokens")
        if self.do_normalize and (self.image_mean is None or self.image_std is None):
            raise ValueError("do_normalize needs image_mean and image_std: they are the model's (config.image_mean)")

    def settings(self, processor):
        """Return the settings of a `SmolHFProcessor` that this call changes. Raises ValueError for fixed ones."""
        side = processor.tile_size
        if self.max_image_size is not None and longest_edge_of("max_image_size", self.max_image_size) != side:
            raise ValueError(f"max_image_size is fixed, since the encoder reads {side} pixels: omit it")
        changed = {}
        for name, setting in SETTINGS.items():
            value = getattr(self, name)
            if value is not None:
                changed[setting] = longest_edge_of(name, value) if name in ("size", "video_size") else value
        if self.num_frames is not None:
            changed["video_min_frames"] = min(processor.video_min_frames, self.num_frames)
        return {name: value for name, value in changed.items() if getattr(processor, name) != value}
