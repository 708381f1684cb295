"""Every key of a recipe: three dataclasses, read by `recipes.py`.

The keys of `SmolTrainingArguments` are TRL's `SFTConfig`'s (and so transformers' `TrainingArguments`') plus ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from transformers.utils import is_torch_bf16_gpu_available
from trl import SFTConfig

from smol_hf.data.engine.mixing import STOPPING
from smol_hf.data.failed_sources import ON_FAILED
from smol_hf.data.fast_images import IMAGE_RESIZING
from smol_hf.data.shortening import check_losses
from smol_hf.training.lora_arguments import LoraArguments, default_of

# With `model` these have no meaning: the checkpoint has its own.
OF_A_NEW_MODEL = (
    "preset", "vision_config", "text_config", "tokenizer", "image_mean", "image_std", "connector_type", "scale_factor",
    "tokenizer_vocab_size", "vision_feature_layer",
)  # fmt: skip
CONNECTOR_TYPES = ("pixel_shuffle", "linear", "mlp")


@dataclass
class ModelArguments(LoraArguments):
    """Which model: one that exists, or one described by its parts, with random weights; and its adapters."""

    model: str | None = field(
        default=None, metadata={"help": "Checkpoint folder or Hub id to continue from. Excludes the keys below."}
    )
    preset: str | None = field(
        default=None,
        metadata={
            "help": "A published model's sizes, such as smolvlm2-256m, with random weights; the keys below count more."
        },
    )
    vision_config: dict[str, Any] | None = field(
        default=None, metadata={"help": "Image encoder: model_type and sizes, as in transformers."}
    )
    text_config: dict[str, Any] | None = field(
        default=None, metadata={"help": "Language model: model_type (smol_hf_text by default) and sizes."}
    )
    connector_type: str = field(default="pixel_shuffle", metadata={"help": "pixel_shuffle, linear or mlp."})
    scale_factor: int = field(default=2, metadata={"help": "Side of the square of patches that becomes one token."})
    vision_feature_layer: int = field(
        default=-1, metadata={"help": "Layer of the image encoder that is read: the last; LLaVA reads the one before."}
    )
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id; by default a small byte-level BPE is trained on the data's texts."},
    )
    tokenizer_vocab_size: int = field(default=384, metadata={"help": "Largest size of that small tokenizer."})
    longest_edge: int | None = field(
        default=None,
        metadata={"help": "Pixels to which a picture's longer side is brought; the tile size by default."},
    )
    do_image_splitting: bool = field(default=True, metadata={"help": "Cut large pictures into tiles and an overview."})
    enlarge_images: bool = field(
        default=True,
        metadata={"help": "Bring small pictures to longest_edge too, as SmolVLM; false: no tiles of enlarged pixels."},
    )
    attn_implementation: str = field(
        default="sdpa", metadata={"help": "eager, sdpa, flash_attention_2, flex_attention."}
    )
    dtype: str = field(default="float32", metadata={"help": "float32, bfloat16 or float16."})
    image_mean: list[float] | None = field(
        default=None, metadata={"help": "Per channel, of pixels in [0, 1]; 0.5 by default, as SigLIP."}
    )
    image_std: list[float] | None = field(default=None, metadata={"help": "Per channel, likewise; 0.5 by default."})

    def __post_init__(self):
        require_values(self)
        self.check_lora()
        if self.use_peft and self.model is None:
            raise ValueError("use_peft needs model: adapters belong to a checkpoint, which they are loaded over later")
        if self.connector_type not in CONNECTOR_TYPES:
            raise ValueError(f"connector_type is {self.connector_type!r}: choose one of {', '.join(CONNECTOR_TYPES)}")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"dtype is {self.dtype!r}: choose float32, bfloat16 or float16")
        described = [
            name for name in OF_A_NEW_MODEL if getattr(self, name) != type(self).__dataclass_fields__[name].default
        ]
        for name in ("image_mean", "image_std"):
            values = getattr(self, name)
            if values is not None and (len(values) != 3 or (name == "image_std" and min(values) <= 0)):
                raise ValueError(f"{name} is {values}: three numbers, one per channel, above 0 for image_std")
        if self.model is not None and described:
            raise ValueError(f"model and {' and '.join(described)} exclude each other: the checkpoint has its own")


def require_values(arguments) -> None:
    """Raises ValueError, naming the key, where a recipe says null and a value is needed."""
    for entry in fields(arguments):
        if getattr(arguments, entry.name) is None and entry.default is not None:
            raise ValueError(
                f"{entry.name} is null: it needs a value, or leave the line out for {default_of(entry)!r}"
            )


@dataclass
class DataArguments:
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
            "help": "What reads a record, such as llava, messages or texts; found by the record's keys by default."
        },
    )
    filters: dict[str, Any] | None = field(
        default=None,
        metadata={"help": "What to leave out: min_ratings, min_images, max_images, max_turns, max_characters, …"},
    )
    image_folder: str | None = field(
        default=None, metadata={"help": "Folder that image paths start from; the data file's folder by default."}
    )
    fetch_images: list[str] | None = field(
        default=None,
        metadata={
            "help": "Hosts whose images may be fetched where records name addresses, such as [images.example.org, "
            "'*.example.org']; by default none is, and such a record cannot be used."
        },
    )
    fetch_timeout: float = field(default=2.0, metadata={"help": "Most seconds for fetching one image."})
    fetch_cache: str | None = field(
        default=None,
        metadata={"help": "Folder of fetched images and remembered failures; below HF_HOME by default."},
    )
    max_image_bytes: int = field(
        default=300_000_000, metadata={"help": "Most bytes of an encoded image, fetched or not."}
    )
    mixture: list[dict[str, Any]] | None = field(
        default=None,
        metadata={
            "help": "Several sources instead of data: a list of {data, name, weight or samples, modality, adapter, "
            "filters, image_folder, available} and, of datasets of the Hub, {config, split, revision, download}; or "
            "the path of a YAML file with such a list. Weight 1 gives each sample once a round, 0.5 half of them, 2 "
            "each twice; samples: so many of them."
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
            "help": "What a longer sample may lose to fit, in this order: tiles (a smaller longest_edge), pages (its "
            "last images), turns (its last questions). What was shortened is named in shortened.jsonl."
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
        if self.stopping not in STOPPING:
            raise ValueError(f"stopping is {self.stopping!r}: choose one of {', '.join(STOPPING)}")
        if self.mixture is not None:
            alone = {"data": "digits", "adapter": None, "filters": None, "image_folder": None, "dataset_config": None,
                     "dataset_split": None, "dataset_revision": None, "dataset_download": False}  # fmt: skip
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
        require_values(self)
        if not 0 <= self.max_skipped_fraction <= 1:
            raise ValueError(f"max_skipped_fraction is {self.max_skipped_fraction}: it is a share from 0 to 1")
        for name in (
            "num_pages", "page_size", "turns_per_page", "context_length", "packing_pool", "max_tiles_per_row",
            "data_lanes", "max_skipped_in_a_row",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1")


@dataclass
class SmolTrainingArguments(SFTConfig):
    """TRL's SFTConfig, with a learning rate for each part and the vision encoder's unfreezing."""

    output_dir: str | None = field(default=None, metadata={"help": "Where checkpoints, logs and the result go."})
    vision_learning_rate: float | None = field(
        default=None, metadata={"help": "Peak rate of the image encoder; 0 = frozen; learning_rate by default."}
    )
    connector_learning_rate: float | None = field(
        default=None, metadata={"help": "Peak rate of the connector; 0 = frozen; learning_rate by default."}
    )
    text_learning_rate: float | None = field(
        default=None, metadata={"help": "Peak rate of the language model; 0 = frozen; learning_rate by default."}
    )
    unfreeze_vision_at_step: int = field(
        default=0, metadata={"help": "The image encoder stays frozen before this step."}
    )
    vision_warmup_steps: int = field(
        default=0, metadata={"help": "Steps over which its rate rises from 0 after it was unfrozen."}
    )
    max_nonfinite_steps: int = field(
        default=3, metadata={"help": "Steps in a row with a non-finite loss or gradient after which the run stops."}
    )
    # What differs from SFTConfig's defaults, since our collator prepares the batches.
    max_length: int | None = field(default=None, metadata={"help": "Not used: see context_length."})
    remove_unused_columns: bool | None = field(default=False, metadata={"help": "Must stay false."})
    dataset_kwargs: dict[str, Any] | None = field(
        default_factory=lambda: {"skip_prepare_dataset": True}, metadata={"help": "Must skip TRL's preparation."}
    )
    gradient_checkpointing: bool = field(
        default=False, metadata={"help": "Recompute activations in the backward pass: less memory, slower."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Steps between two lines of the log."})
    disable_tqdm: bool | None = field(default=True, metadata={"help": "The log shows progress; no bar is drawn."})
    logging_first_step: bool = field(default=True, metadata={"help": "Log the first step too."})
    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata={"help": "Page-locked batches, where there is a GPU."}
    )
    report_to: str | None = field(default="none", metadata={"help": "none, or integrations such as tensorboard."})

    def __post_init__(self):
        if self.output_dir is None:
            raise ValueError("output_dir is missing: say where the run goes, e.g. output_dir: runs/my-run")
        if self.max_length is not None:
            raise ValueError("max_length cuts samples, images included: use context_length, which never cuts")
        if self.packing or self.padding_free:
            raise ValueError("packing and padding_free are TRL's for text: use sample_packing: true")
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns would remove the columns that the collator reads: leave it false")
        if not (self.dataset_kwargs or {}).get("skip_prepare_dataset"):
            raise ValueError("dataset_kwargs must keep skip_prepare_dataset: true")
        if self.learning_rate is None:
            raise ValueError("learning_rate is null: it needs a value")
        for name in ("vision_learning_rate", "connector_learning_rate", "text_learning_rate", "learning_rate"):
            rate = getattr(self, name)
            if rate is not None and not 0 <= rate < math.inf:
                raise ValueError(f"{name} is {rate}: a learning rate is 0 (frozen) or positive")
        if not any(self.part_learning_rates().values()):
            raise ValueError("every part has learning rate 0: there is nothing to train")
        for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.max_steps == 0 or (self.max_steps < 0 and self.num_train_epochs <= 0):
            raise ValueError("max_steps and num_train_epochs leave no step to train")
        if self.seed is None or not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}: it must be from 0 to 2**32 - 1")
        self.refuse_what_has_no_effect()
        for name in ("unfreeze_vision_at_step", "vision_warmup_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: a step is 0 or later")
        if self.max_nonfinite_steps < 1:
            raise ValueError(f"max_nonfinite_steps is {self.max_nonfinite_steps}: it must be at least 1")
        if self.vision_learning_rate == 0 and self.unfreeze_vision_at_step:
            raise ValueError(
                "vision_learning_rate 0 freezes the encoder for good: unfreeze_vision_at_step has no effect"
            )
        if self.bf16 is None:  # SFTConfig would ask for it on machines that do not have it
            self.bf16 = not self.fp16 and not self.use_cpu and is_torch_bf16_gpu_available()
        super().__post_init__()

    def refuse_what_has_no_effect(self) -> None:
        """Options of TRL that act inside the loss or the model loading, which are ours. Raises ValueError."""
        if self.loss_type not in (None, SFTConfig.loss_type):
            raise ValueError(f"loss_type {self.loss_type!r} has no effect: the model computes its own loss")
        if self.label_smoothing_factor:
            raise ValueError("label_smoothing_factor has no effect: the model computes its own loss")
        if self.model_init_kwargs:
            raise ValueError("model_init_kwargs has no effect: use dtype and attn_implementation")

    def part_learning_rates(self) -> dict[str, float]:
        """Peak learning rate of each part; 0 means frozen."""
        own = {
            "vision": self.vision_learning_rate,
            "connector": self.connector_learning_rate,
            "text": self.text_learning_rate,
        }
        return {part: self.learning_rate if rate is None else rate for part, rate in own.items()}
