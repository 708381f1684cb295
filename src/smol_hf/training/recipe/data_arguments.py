"""Keys of a recipe for the samples and the rows that they fill."""

# ruff: noqa: RUF009 (`key` makes a field)
from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from smol_hf.data.digits import EMBEDDED
from smol_hf.data.media.fast_images import IMAGE_RESIZING
from smol_hf.data.media.images import MAXIMUM_BYTES
from smol_hf.data.mixture.failed_sources import ON_FAILED
from smol_hf.data.stream.mixing import STOPPING
from smol_hf.data.stream.shortening import check_losses
from smol_hf.data.stream.stream import MOST_LANES
from smol_hf.processing.video_sampling import MOST_FRAMES
from smol_hf.processing.video_text import STYLES
from smol_hf.training.recipe.evaluation_arguments import EvaluationArguments
from smol_hf.training.recipe.keys import TRAIN, OnResume, Runs, check_values, given, key, refuse_excluded

IN_A_MIXTURE = ("mixture",)  # each entry of a mixture has this key
OF_RECORDS = ("documents", "mixture")  # documents are plain texts


of_source = functools.partial(key, resume=OnResume.DATA)  # the fingerprint of the data covers its effect
of_conversations = functools.partial(key, runs=Runs.CONVERSATIONS)
of_documents = functools.partial(key, runs=Runs.DOCUMENTS)


@dataclass
class SourceArguments:
    """Keys of all runs: a dataset of the Hub, and unusable samples."""

    dataset_config: str | None = of_source(
        None, "Configuration of a Hub dataset. Without it, the dataset's default.", excluded_by=IN_A_MIXTURE
    )
    dataset_split: str | None = of_source(None, "Split of a Hub dataset. Without it, train.", excluded_by=IN_A_MIXTURE)
    dataset_revision: str | None = of_source(
        None,
        "Branch, tag or commit of a Hub dataset. Without it, the newest commit of main.",
        excluded_by=IN_A_MIXTURE,
    )
    dataset_download: bool = key(
        False,
        "Download the files of a Hub dataset before the run, instead of streaming them.",
        resume=OnResume.FREE,
        excluded_by=IN_A_MIXTURE,
    )
    ignore_fields: list[str] = key(
        list,
        "Fields of records or turns to ignore, such as [tools, tool_calls], if records with them cannot be used.",
        runs=Runs.CONVERSATIONS | Runs.PREFERENCES,
        excluded_by=OF_RECORDS,
    )
    on_bad_sample: str = key(
        "stop",
        "Policy for unusable samples. stop: end with an error. skip: leave them out and list them in skipped.jsonl.",
        resume=OnResume.CHANGE,
        values=("stop", "skip"),
    )
    max_skipped_fraction: float = key(
        0.01,
        "With on_bad_sample: skip, the largest share of unusable samples of a source. One sample never stops the run.",
        resume=OnResume.CHANGE,
        least=0,
        most=1,
        wanted="it is a share from 0 to 1",
    )
    max_unknown_fraction: float = key(
        0.01,
        "Largest share of labelled tokens that are unknown to the tokenizer. A run with more is refused.",
        runs=Runs.CONVERSATIONS | Runs.DOCUMENTS,
        resume=OnResume.CHANGE,
        least=0,
        most=1,
        wanted="it is a share from 0 to 1",
    )
    max_skipped_in_a_row: int = key(
        100,
        "With on_bad_sample: skip, the run stops after this number of consecutive unusable samples.",
        resume=OnResume.CHANGE,
        least=1,
    )


@dataclass
class DocumentArguments(SourceArguments):
    """Keys of runs over documents, which are plain texts."""

    documents: str | None = of_documents(
        None,
        "Plain texts for a text-only model, instead of data: a text file, a folder or pattern of text files, .jsonl, "
        ".json or .parquet files, or owner/name on the Hub. They are tokenised once.",
        resume=OnResume.DATA,
    )
    text_key: str = of_documents("text", "Field of a record that holds the text.")
    document_separator: str | None = of_documents(
        None, r"Separator of documents in a text file; \n is a line break. Without it, a file is one document."
    )
    max_documents: int | None = of_documents(None, "Read only the first documents, up to this number.", least=1)
    validation_documents: str | None = of_documents(
        None, "Other documents for validation. With them, no part of documents is held out.", resume=OnResume.CHANGE
    )
    validation_fraction: float = of_documents(
        0.05,
        "Share of the documents that is held out for validation, at most 4 MB. With fewer than 100 documents, the end "
        "of each is held out.",
        least=0,
        below=1,
        wanted="it is a share from 0 to below 1",
    )
    documents_cache: str | None = of_documents(
        None, "Folder for tokenised documents. Without it, a folder in HF_HOME.", resume=OnResume.FREE
    )

    def check_documents(self) -> None:
        """Refuse keys that contradict each other. Raises ValueError."""
        if self.documents is None and (names := given(self, lambda key: key.runs == Runs.DOCUMENTS)):
            raise ValueError(f"{' and '.join(names)} need documents, which is missing: set documents")
        for name in ("documents", "validation_documents"):
            if getattr(self, name) == "":
                raise ValueError(f"{name} is empty: name a text file, a folder or a dataset of the Hub")
        if self.document_separator == "":
            raise ValueError("document_separator is empty: give the text between two documents")


@dataclass
class DataArguments(EvaluationArguments, DocumentArguments):
    """Keys of the samples and rows of `train` and `pretrain`."""

    data: str = of_conversations(
        "digits",
        "Samples: a .jsonl, .json, .parquet or .tar (webdataset) file, a pattern or folder of such files, a folder of "
        "images with captions (each also as s3://, gs:// or hf://), owner/name of a Hub dataset, or embedded "
        "handwritten digits: digits (pages), digit_clips (videos of moving digits) or digit_stories (these in words).",
        resume=OnResume.DATA,
        excluded_by=OF_RECORDS,
    )
    adapter: str | None = of_conversations(
        None,
        "Reader of records, such as llava, messages or texts, or a Python file that registers a reader. Without it, "
        "the record's keys decide.",
        excluded_by=OF_RECORDS,
    )
    filters: dict[str, Any] | None = of_conversations(
        None,
        "Samples to leave out: min_ratings, min_images, max_images, max_turns, max_characters, …",
        excluded_by=OF_RECORDS,
    )
    image_folder: str | None = of_conversations(
        None,
        "Folder that image paths are relative to. Without it, the folder of the data file.",
        resume=OnResume.DATA,
        excluded_by=OF_RECORDS,
    )
    max_image_bytes: int = of_conversations(
        MAXIMUM_BYTES,
        "Maximum bytes of an encoded image.",
        least=1,
        most=MAXIMUM_BYTES,
        wanted=f"it must be from 1 to {MAXIMUM_BYTES:,}",
    )
    mixture: list[dict[str, Any]] | None = of_conversations(
        None,
        "Several sources, instead of data: a list of entries, or the path of a YAML file with such a list. An entry "
        "has the keys data, name, weight or samples, modality, adapter, filters, ignore_fields, image_folder, "
        "available; for Hub datasets also config, split, revision, download. In each round, weight 1 uses each sample "
        "once, 0.5 half of the samples, 2 each sample twice; samples gives their number instead.",
        excluded_by=("documents",),
    )
    data_root: str | None = of_conversations(
        None, "Folder for {data_root} in the paths of a mixture.", resume=OnResume.DATA
    )
    on_failed_source: str = of_conversations(
        "stop",
        "Policy for unusable sources of the mixture. stop: end with an error. reweight: leave them out and name them; "
        "the other sources take their shares.",
        values=ON_FAILED,
    )
    stopping: str = of_conversations(
        "quota",
        "End of a round of the mixture. quota: every source gave weight × its samples. first_exhausted: one source "
        "gave all its samples. all_exhausted: every source did.",
        values=STOPPING,
    )
    num_pages: int = of_conversations(12000, "Number of pages or clips of digits.", resume=OnResume.DATA, least=1)
    page_size: int = of_conversations(32, "Side of a page or clip, in pixels.", resume=OnResume.DATA, least=1)
    turns_per_page: int = of_conversations(1, "Maximum questions per page or clip.", resume=OnResume.DATA, least=1)
    context_length: int | None = key(
        None,
        "Maximum tokens of a sample. Longer samples are skipped and listed in skipped.jsonl. Without it, the "
        "positions of the language model, at most 2048.",
        runs=TRAIN,
        least=1,
    )
    too_long: list[str] = of_conversations(
        list,
        "Parts that a sample that is too long may lose, in this order: tiles (by a smaller longest_edge), frames (of "
        "videos), pages (all images of a message but the first), turns (the last questions). shortened.jsonl lists "
        "such samples.",
    )
    image_resizing: str = of_conversations(
        "exact",
        "Resizing of images. exact: the pixels of transformers' image processor. fast: one resize, about 4 times "
        "faster.",
        values=IMAGE_RESIZING,
    )
    video_fps: float | None = of_conversations(
        None, "Frames of a video per second. Without it, the checkpoint's, or 1.", above=0
    )
    video_max_frames: int | None = of_conversations(
        None,
        "Maximum frames of a video. Longer videos get fewer per second. Without it, the checkpoint's, or 64.",
        least=1,
        most=MOST_FRAMES,
    )
    video_min_frames: int | None = of_conversations(
        None,
        "Minimum frames of a video, if it has them. Without it, the checkpoint's, or 1.",
        least=1,
        most=MOST_FRAMES,
    )
    video_frame_size: int | None = of_conversations(
        None,
        "Longer side of a frame after its first resize, in pixels. Without it, the checkpoint's, or the tile size. "
        "Each frame becomes one tile.",
        least=1,
    )
    video_style: str | None = of_conversations(
        None,
        "Text around the frames of a video; smolvlm is transformers' text. Without it, the checkpoint's, or smolvlm.",
        values=tuple(STYLES),
    )
    sample_packing: bool = of_conversations(
        False, "Fill rows of context_length with several samples instead of padding. They do not attend to each other."
    )
    packing_pool: int = key(128, "Number of samples from which packing chooses.", runs=TRAIN, least=1, most=100_000)
    max_tiles_per_row: int | None = of_conversations(
        None, "Maximum tiles of a packed row, to limit the memory of the image encoder.", least=1
    )
    data_lanes: int = key(
        16,
        "Number of data streams that processes and their workers share. It must be a multiple of processes × workers.",
        runs=TRAIN,
        least=1,
        most=MOST_LANES,
    )
    verify_images: bool = of_conversations(
        False,
        "Also decode each image before the run (about 10 ms per megapixel), to list damaged images at its start. "
        "Otherwise they are listed when the run meets them.",
        resume=OnResume.FREE,
    )

    def __post_init__(self):
        check_values(self)
        self.check_documents()
        if self.documents is not None:
            refuse_excluded(self, "documents", "documents are plain texts, so leave them out")
            if self.context_length == 1:
                raise ValueError("context_length is 1: it must be at least 2, because a token predicts the next one")
        elif self.mixture is not None:
            refuse_excluded(self, "mixture", "set them in its entries")
        elif self.data in EMBEDDED and (self.dataset_config or self.dataset_split or self.dataset_revision):
            raise ValueError(
                f"dataset_config, dataset_split and dataset_revision have no effect with data: {self.data}"
            )
        check_losses(self.too_long)
        self.check_evaluation()


@dataclass
class PreferenceArguments(SourceArguments):
    """Keys of the preferences of `dpo`."""

    data: str = of_source(
        "preferences.jsonl",
        "Preferences, with fields prompt, chosen and rejected: .jsonl, .json or .parquet files (a file, a folder or a "
        "pattern), or owner/name of a Hub dataset.",
    )
    validation_data: str | None = key(None, "Preferences for evaluation (see eval_strategy).", resume=OnResume.CHANGE)
    validation_split: str | None = key(
        None, "Split of validation_data, or else of data, for evaluation.", resume=OnResume.CHANGE
    )

    def __post_init__(self):
        check_values(self)

    @property
    def validates(self) -> bool:
        return self.validation_data is not None or self.validation_split is not None
