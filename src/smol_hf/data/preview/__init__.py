"""A page that shows samples as they will be trained."""

from smol_hf.data.preview.drawing import draw_samples
from smol_hf.data.preview.page import write_page

__all__ = ["draw_samples", "write_page"]
