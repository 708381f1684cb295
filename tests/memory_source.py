"""A data source whose rows are in memory."""

import hashlib

from smol_hf.data.sources.source import MadeSource


class MemorySource(MadeSource):
    """`rows`: (where, record) pairs; a record may be a finished `Conversation`."""

    def __init__(self, name, rows, *, fingerprint=None):
        fingerprint = fingerprint or hashlib.sha256(repr(list(rows)).encode()).hexdigest()
        super().__init__(name, len(rows), rows.__getitem__, fingerprint=fingerprint)
        self.rows = rows
