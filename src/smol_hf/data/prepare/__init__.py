"""Data of any shape → folders that our adapters and other programs read.

Read in this order: `download` and `archives`, `folder` (the command `prepare`), `writing` (the samples of a source),
`records` and `writers` (one sample), `shards` (a part of the rows per process), `datatrove_step`.
"""

from smol_hf.data.prepare.folder import prepare

__all__ = ["prepare"]
