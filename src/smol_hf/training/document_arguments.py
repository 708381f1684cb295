"""The keys of a recipe that say which documents a language model reads."""

from __future__ import annotations

from dataclasses import dataclass, field

# What belongs to documents alone.
OF_DOCUMENTS = (
    "text_key", "document_separator", "max_documents", "validation_documents", "validation_fraction",
    "documents_cache",
)  # fmt: skip


@dataclass
class DocumentArguments:
    """Plain texts to learn from, instead of conversations."""

    documents: str | None = field(
        default=None,
        metadata={
            "help": "Plain texts instead of data, for a language model alone: a text file, a folder or pattern of "
            "such, .jsonl, .json and .parquet files, owner/name on the Hub. They are tokenised once."
        },
    )
    text_key: str = field(default="text", metadata={"help": "Where the text of a record stands."})
    document_separator: str | None = field(
        default=None,
        metadata={
            "help": r"What stands between the documents of a text file (\n is a line break); by default it is one."
        },
    )
    max_documents: int | None = field(default=None, metadata={"help": "Read the first so many documents alone."})
    validation_documents: str | None = field(
        default=None, metadata={"help": "Other documents to validate on; none of documents is held out then."}
    )
    validation_fraction: float = field(
        default=0.05,
        metadata={
            "help": "Share of the documents that is held out (at most 4 MB): whole ones, of fewer than 100 each one's "
            "end."
        },
    )
    documents_cache: str | None = field(
        default=None, metadata={"help": "Folder of tokenised documents; below HF_HOME by default."}
    )

    def check_documents(self) -> None:
        """Raises ValueError for keys that do not fit together."""
        fields = DocumentArguments.__dataclass_fields__
        given = [name for name in OF_DOCUMENTS if getattr(self, name) != fields[name].default]
        if self.documents is None and given:
            raise ValueError(f"{' and '.join(given)} belong to documents, which are not given")
        for name in ("documents", "validation_documents"):
            if getattr(self, name) == "":
                raise ValueError(f"{name} is empty: name a text file, a folder or a dataset of the Hub")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"validation_fraction is {self.validation_fraction}: it is a share from 0 to below 1")
        if self.max_documents is not None and self.max_documents < 1:
            raise ValueError(f"max_documents is {self.max_documents}: it must be at least 1")
        if self.documents is not None and self.context_length == 1:
            raise ValueError(
                "context_length is 1: a token is predicted from the one before it, so it must be at least 2"
            )
        if self.document_separator == "":
            raise ValueError("document_separator is empty: say what stands between two documents")
