"""Data of any shape → folders that our adapters and other programs read."""

from smol_hf.data.prepare.folder import prepare

__all__ = ["prepare"]
