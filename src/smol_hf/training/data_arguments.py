"""The keys of a recipe that say which samples, and how they become rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from smol_hf.data.engine.mixing import STOPPING
from smol_hf.data.failed_sources import ON_FAILED
from smol_hf.data.fast_images import IMAGE_RESIZING
from smol_hf.data.images import MAXIMUM_BYTES
from smol_hf.data.shortening import check_losses
from smol_hf.training.argument_values import require_values
from smol_hf.training.document_arguments import DocumentArguments

MOST = {"data_lanes": 4096, "packing_pool": 100_000}


@dataclass
class DataArguments(DocumentArguments):
    """Which samples, and how they become batches."""

    data: str = field(
        default="digits",
        metadata={
            "help": "A .jsonl, .json, .parquet or .tar (webdataset) file, a pattern or a folder of such, a folder of "
            "pictures with captions; any of them also as s3://, gs:// or hf://. owner/name: a dataset of the Hub. "
            "digits: embedded pages."
        },
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Which configuration of a dataset of the Hub; its default one by default."}
    )
    dataset_split: str | None = field(default=None, metadata={"help": "Which split of it; train by default."})
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Its branch, tag or commit; what its main branch stands at by default."}
    )
    dataset_download: bool = field(
        default=False, metadata={"help": "Fetch its files before the run, instead of reading them bit by bit."}
    )
    adapter: str | None = field(
        default=None,
        metadata={
            "help": "What reads a record, such as llava, messages or texts, or a file of yours (cards.py) that "
            "registers one; found by the record's keys by default."
        },
    )
    filters: dict[str, Any] | None = field(
        default=None,
        metadata={"help": "What to leave out: min_ratings, min_images, max_images, max_turns, max_characters, …"},
    )
    ignore_fields: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Fields of records or turns to train without, such as [tools, tool_calls], where a record could "
            "not be used otherwise."
        },
    )
    image_folder: str | None = field(
        default=None, metadata={"help": "Folder that image paths start from; the data file's folder by default."}
    )
    max_image_bytes: int = field(default=MAXIMUM_BYTES, metadata={"help": "Most bytes of an encoded image."})
    mixture: list[dict[str, Any]] | None = field(
        default=None,
        metadata={
            "help": "Several sources instead of data: a list of {data, name, weight or samples, modality, adapter, "
            "filters, ignore_fields, image_folder, available} and, of datasets of the Hub, {config, split, revision, "
            "download}; or the path of a YAML file with such a list. Weight 1 gives each sample once a round, 0.5 "
            "half of them, 2 each twice; samples: so many of them."
        },
    )
    data_root: str | None = field(
        default=None, metadata={"help": "Folder that {data_root} stands for in the paths of a mixture."}
    )
    on_failed_source: str = field(
        default="stop",
        metadata={
            "help": "stop: a source of the mixture that cannot be opened or used is an error. reweight: it is left "
            "out, by name, and the others make up for it."
        },
    )
    stopping: str = field(
        default="quota",
        metadata={
            "help": "When a round of the mixture ends. quota: each source gave weight × its samples. first_exhausted: "
            "one gave all its samples. all_exhausted: each did."
        },
    )
    num_pages: int = field(default=12000, metadata={"help": "Pages of `digits`."})
    page_size: int = field(default=32, metadata={"help": "Pixels of a page's side."})
    turns_per_page: int = field(default=1, metadata={"help": "Questions about each page, at most."})
    context_length: int | None = field(
        default=None,
        metadata={
            "help": "Most tokens of a sample; longer ones are left out, counted and named. By default the positions "
            "of the language model, at most 2048."
        },
    )
    too_long: list[str] = field(
        default_factory=list,
        metadata={
            "help": "What a longer sample may lose to fit, in this order: tiles (a smaller longest_edge), pages "
            "(images of a message after its first), turns (its last questions). shortened.jsonl names such samples."
        },
    )
    image_resizing: str = field(
        default="exact",
        metadata={
            "help": "exact: the pixels of transformers' image processor. fast: one resize, some 4 times faster."
        },
    )
    sample_packing: bool = field(
        default=False,
        metadata={"help": "Fill rows of context_length with whole samples that do not see each other, no padding."},
    )
    packing_pool: int = field(default=128, metadata={"help": "Samples among which rows are packed."})
    max_tiles_per_row: int | None = field(
        default=None, metadata={"help": "Most tiles of a packed row, which bounds the image encoder's memory."}
    )
    data_lanes: int = field(
        default=16,
        metadata={"help": "Streams that processes and their workers share; processes × workers must divide it."},
    )
    on_bad_sample: str = field(
        default="stop", metadata={"help": "stop: a sample that cannot be used is an error. skip: it is left out."}
    )
    max_skipped_fraction: float = field(
        default=0.01,
        metadata={
            "help": "With skip: more unusable samples than this share of a source stop the run; one never does."
        },
    )
    max_skipped_in_a_row: int = field(
        default=100, metadata={"help": "With skip: so many unusable samples with no good one between stop the run."}
    )
    verify_images: bool = field(
        default=False,
        metadata={
            "help": "Decode each image before the run too (about 10 ms per megapixel), so that damaged ones are named "
            "then; by default they are met, counted and named on the way, and no image is decoded twice."
        },
    )

    def __post_init__(self):
        require_values(self)
        if self.stopping not in STOPPING:
            raise ValueError(f"stopping is {self.stopping!r}: choose one of {', '.join(STOPPING)}")
        self.check_documents()
        if self.documents is not None:
            not_theirs = {"data": "digits", "adapter": None, "filters": None, "image_folder": None, "mixture": None,
                          "ignore_fields": []}  # fmt: skip
            given = [name for name, default in not_theirs.items() if getattr(self, name) != default]
            if given:
                raise ValueError(f"documents and {' and '.join(given)} exclude each other: documents are plain texts")
        elif self.mixture is not None:
            alone = {"data": "digits", "adapter": None, "filters": None, "image_folder": None, "dataset_config": None,
                     "dataset_split": None, "dataset_revision": None, "dataset_download": False,
                     "ignore_fields": []}  # fmt: skip
            given = [name for name, default in alone.items() if getattr(self, name) != default]
            if given:
                raise ValueError(f"mixture and {' and '.join(given)} exclude each other: its entries have their own")
        elif self.data == "digits" and (self.dataset_config or self.dataset_split or self.dataset_revision):
            raise ValueError("data is digits, and dataset_config, _split and _revision belong to a dataset of the Hub")
        check_losses(self.too_long)
        if self.image_resizing not in IMAGE_RESIZING:
            raise ValueError(f"image_resizing is {self.image_resizing!r}: choose {' or '.join(IMAGE_RESIZING)}")
        if self.on_failed_source not in ON_FAILED:
            raise ValueError(f"on_failed_source is {self.on_failed_source!r}: choose one of {', '.join(ON_FAILED)}")
        if self.on_bad_sample not in ("stop", "skip"):
            raise ValueError(f"on_bad_sample is {self.on_bad_sample!r}: choose stop or skip")
        if not 0 < self.max_image_bytes <= MAXIMUM_BYTES:
            raise ValueError(f"max_image_bytes is {self.max_image_bytes}: it must be from 1 to {MAXIMUM_BYTES:,}")
        if not 0 <= self.max_skipped_fraction <= 1:
            raise ValueError(f"max_skipped_fraction is {self.max_skipped_fraction}: it is a share from 0 to 1")
        for name in (
            "num_pages", "page_size", "turns_per_page", "context_length", "packing_pool", "max_tiles_per_row",
            "data_lanes", "max_skipped_in_a_row",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1")
        for name, most in MOST.items():
            if getattr(self, name) > most:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at most {most:,}")
