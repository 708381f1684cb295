"""Data of any shape → folders that our own adapters, and others, read again."""

from smol_hf.data.prepare.folder import prepare

__all__ = ["prepare"]
