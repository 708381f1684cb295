"""Keys of a recipe that describe the samples and how they become rows."""

# ruff: noqa: RUF009 (`key` makes a field)
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from smol_hf.data.media.fast_images import IMAGE_RESIZING
from smol_hf.data.media.images import MAXIMUM_BYTES
from smol_hf.data.mixture.failed_sources import ON_FAILED
from smol_hf.data.stream.mixing import STOPPING
from smol_hf.data.stream.shortening import check_losses
from smol_hf.training.recipe.keys import TRAIN, OnResume, Runs, check_values, given, key, refuse_excluded

IN_A_MIXTURE = ("mixture",)  # its entries have their own
OF_RECORDS = ("documents", "mixture")  # documents are plain texts


def of_source(default: Any, text: str, **options: Any) -> Any:
    """A key whose effect on the data is part of their fingerprint."""
    return key(default, text, resume=OnResume.DATA, **options)


def of_conversations(default: Any, text: str, **options: Any) -> Any:
    return key(default, text, runs=Runs.CONVERSATIONS, **options)


def of_documents(default: Any, text: str, **options: Any) -> Any:
    return key(default, text, runs=Runs.DOCUMENTS, **options)


@dataclass
class SourceArguments:
    """Keys of all runs: a dataset of the Hub, and samples that cannot be used."""

    dataset_config: str | None = of_source(
        None, "Configuration of a dataset of the Hub; its default by default.", excluded_by=IN_A_MIXTURE
    )
    dataset_split: str | None = of_source(None, "Split of that dataset; train by default.", excluded_by=IN_A_MIXTURE)
    dataset_revision: str | None = of_source(
        None, "Branch, tag or commit of that dataset; the newest commit of main by default.", excluded_by=IN_A_MIXTURE
    )
    dataset_download: bool = key(
        False,
        "Download the files of that dataset before the run, instead of reading them in parts.",
        resume=OnResume.FREE,
        excluded_by=IN_A_MIXTURE,
    )
    ignore_fields: list[str] = key(
        list,
        "Fields of records or turns to train without, such as [tools, tool_calls], if a record could not be used "
        "otherwise.",
        runs=Runs.CONVERSATIONS | Runs.PREFERENCES,
        excluded_by=OF_RECORDS,
    )
    on_bad_sample: str = key(
        "stop",
        "stop: a sample that cannot be used is an error. skip: it is left out.",
        resume=OnResume.CHANGE,
        values=("stop", "skip"),
    )
    max_skipped_fraction: float = key(
        0.01,
        "With skip: the run stops if a larger share of a source cannot be used. A single sample never stops it.",
        resume=OnResume.CHANGE,
        least=0,
        most=1,
        wanted="it is a share from 0 to 1",
    )
    max_skipped_in_a_row: int = key(
        100,
        "With skip: the run stops after this number of unusable samples in a row.",
        resume=OnResume.CHANGE,
        least=1,
    )


@dataclass
class DocumentArguments(SourceArguments):
    """Keys of runs over plain texts."""

    documents: str | None = of_documents(
        None,
        "Plain texts instead of data, for a text-only model: a text file, a folder or pattern of such, .jsonl, .json "
        "and .parquet files, owner/name on the Hub. They are tokenised once.",
        resume=OnResume.DATA,
    )
    text_key: str = of_documents("text", "Field of a record that holds the text.")
    document_separator: str | None = of_documents(
        None, r"Separator of the documents of a text file (\n is a line break); by default a file is one document."
    )
    max_documents: int | None = of_documents(None, "Read only this number of documents, the first.", least=1)
    validation_documents: str | None = of_documents(
        None, "Other documents to validate on; none of documents is held out then.", resume=OnResume.CHANGE
    )
    validation_fraction: float = of_documents(
        0.05,
        "Share of the documents that is held out (at most 4 MB): whole documents, or with fewer than 100 the end of "
        "each.",
        least=0,
        below=1,
        wanted="it is a share from 0 to below 1",
    )
    documents_cache: str | None = of_documents(
        None, "Folder of tokenised documents; below HF_HOME by default.", resume=OnResume.FREE
    )

    def check_documents(self) -> None:
        """Raises ValueError for keys that do not fit together."""
        if self.documents is None and (names := given(self, lambda key: key.runs == Runs.DOCUMENTS)):
            raise ValueError(f"{' and '.join(names)} belong to documents, which are not given")
        for name in ("documents", "validation_documents"):
            if getattr(self, name) == "":
                raise ValueError(f"{name} is empty: name a text file, a folder or a dataset of the Hub")
        if self.document_separator == "":
            raise ValueError("document_separator is empty: give the text between two documents")


@dataclass
class DataArguments(DocumentArguments):
    """Keys of the samples and rows of `train` and `pretrain`."""

    data: str = of_conversations(
        "digits",
        "A .jsonl, .json, .parquet or .tar (webdataset) file, a pattern or a folder of such, a folder of images with "
        "captions; any of them also as s3://, gs:// or hf://. owner/name: a dataset of the Hub. digits: embedded "
        "pages.",
        resume=OnResume.DATA,
        excluded_by=OF_RECORDS,
    )
    adapter: str | None = of_conversations(
        None,
        "Reader of records, such as llava, messages or texts, or a file of yours (cards.py) that registers one; found "
        "by the record's keys by default.",
        excluded_by=OF_RECORDS,
    )
    filters: dict[str, Any] | None = of_conversations(
        None,
        "Samples to leave out: min_ratings, min_images, max_images, max_turns, max_characters, …",
        excluded_by=OF_RECORDS,
    )
    image_folder: str | None = of_conversations(
        None,
        "Folder that image paths start from; the data file's folder by default.",
        resume=OnResume.DATA,
        excluded_by=OF_RECORDS,
    )
    max_image_bytes: int = of_conversations(
        MAXIMUM_BYTES,
        "Most bytes of an encoded image.",
        least=1,
        most=MAXIMUM_BYTES,
        wanted=f"it must be from 1 to {MAXIMUM_BYTES:,}",
    )
    mixture: list[dict[str, Any]] | None = of_conversations(
        None,
        "Several sources instead of data: a list of {data, name, weight or samples, modality, adapter, filters, "
        "ignore_fields, image_folder, available} and, of datasets of the Hub, {config, split, revision, download}; or "
        "the path of a YAML file with such a list. Weight 1 uses each sample once a round, 0.5 half of them, 2 each "
        "twice; samples: this number of them.",
        excluded_by=("documents",),
    )
    data_root: str | None = of_conversations(
        None, "Folder that replaces {data_root} in the paths of a mixture.", resume=OnResume.DATA
    )
    on_failed_source: str = of_conversations(
        "stop",
        "stop: a source of the mixture that cannot be opened or used is an error. reweight: it is left out and named; "
        "the other sources take its share.",
        values=ON_FAILED,
    )
    stopping: str = of_conversations(
        "quota",
        "End of a round of the mixture. quota: each source gave weight × its samples. first_exhausted: one gave all "
        "its samples. all_exhausted: each did.",
        values=STOPPING,
    )
    num_pages: int = of_conversations(12000, "Pages of `digits`.", resume=OnResume.DATA, least=1)
    page_size: int = of_conversations(32, "Pixels of a page's side.", resume=OnResume.DATA, least=1)
    turns_per_page: int = of_conversations(1, "Questions about each page, at most.", resume=OnResume.DATA, least=1)
    context_length: int | None = key(
        None,
        "Most tokens of a sample; longer samples are left out, counted and named. By default the positions of the "
        "language model, at most 2048.",
        runs=TRAIN,
        least=1,
    )
    too_long: list[str] = of_conversations(
        list,
        "Parts that a longer sample may lose to fit, in this order: tiles (a smaller longest_edge), pages (images of "
        "a message after its first), turns (its last questions). shortened.jsonl names such samples.",
    )
    image_resizing: str = of_conversations(
        "exact",
        "exact: the pixels of transformers' image processor. fast: one resize, about 4 times faster.",
        values=IMAGE_RESIZING,
    )
    sample_packing: bool = of_conversations(
        False, "Fill rows of context_length with whole samples that do not see each other, without padding."
    )
    packing_pool: int = key(128, "Samples from which rows are packed.", runs=TRAIN, least=1, most=100_000)
    max_tiles_per_row: int | None = of_conversations(
        None, "Most tiles of a packed row, which bounds the image encoder's memory.", least=1
    )
    data_lanes: int = key(
        16,
        "Streams that processes and their workers share; processes × workers must divide it.",
        runs=TRAIN,
        least=1,
        most=4096,
    )
    verify_images: bool = of_conversations(
        False,
        "Decode each image before the run too (about 10 ms per megapixel), so that damaged images are named at the "
        "start. By default they are counted and named during the run.",
        resume=OnResume.FREE,
    )

    def __post_init__(self):
        check_values(self)
        self.check_documents()
        if self.documents is not None:
            refuse_excluded(self, "documents", "documents are plain texts")
            if self.context_length == 1:
                raise ValueError(
                    "context_length is 1: a token is predicted from the one before it, so it must be at least 2"
                )
        elif self.mixture is not None:
            refuse_excluded(self, "mixture", "its entries have their own")
        elif self.data == "digits" and (self.dataset_config or self.dataset_split or self.dataset_revision):
            raise ValueError("data is digits, and dataset_config, _split and _revision belong to a dataset of the Hub")
        check_losses(self.too_long)


@dataclass
class PreferenceArguments(SourceArguments):
    """Keys of the preferences of `dpo`."""

    data: str = of_source(
        "preferences.jsonl",
        "Preferences (prompt, chosen, rejected): a file, folder or pattern of .jsonl, .json or .parquet, or "
        "owner/name on the Hub.",
    )
    validation_data: str | None = key(
        None, "Other preferences to evaluate on (eval_strategy says when).", resume=OnResume.CHANGE
    )
    validation_split: str | None = key(
        None,
        "Another split of the same dataset of the Hub to evaluate on; with validation_data, of that.",
        resume=OnResume.CHANGE,
    )

    def __post_init__(self):
        check_values(self)

    @property
    def validates(self) -> bool:
        return self.validation_data is not None or self.validation_split is not None
