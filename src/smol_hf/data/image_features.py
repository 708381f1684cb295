"""Features of a frozen image encoder: computed once for each distinct tile, and kept on disk.

A cache is a folder in `<HF_HOME>/assets/smol_hf/image_features` (the folder of `cached_assets_path`). Its name is a
digest of everything but the pixels that determines features: weights and configuration of the encoder, mean and
deviation of pixels, number type. It has a file for each tile, named by the digest of the tile's pixels. So other
resizing or tiling of an image finds no old file. A file gets its name when it is complete: processes and runs can
share a cache.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import cached_assets_path
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from smol_hf.data.sources.files import free_bytes
from smol_hf.modeling.modeling_smol_hf import SmolHFModel
from smol_hf.support.atomic import atomic_file
from smol_hf.support.formatting import counted, data_size

VERSION = 1
KEPT_FREE = 0.05  # of the disk; checkpoints need it more
READERS = 8  # threads
# Entries of a configuration that say where it is from and how it is computed, not what.
OF_NO_EFFECT = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")


class ImageFeatures:
    """A function from tiles to what the connector reads, (tiles, patches, vision_hidden) on the CPU.

    Args:
        model: its image encoder never trains, and computes without randomness.
        autocast: makes the context in which the trainer runs the model.
        caches: folder of all caches.

    Attributes:
        found, computed: number of tiles that were read from the cache, and that the encoder computed.
        problem: reason why features could not be written; None if all were.
    """

    def __init__(
        self,
        model: SmolHFModel,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        caches: Path | None = None,
    ):
        self.model, self.autocast = model, autocast
        self.caches = Path(cached_assets_path("smol_hf", "image_features")) if caches is None else caches
        self.threads = ThreadPoolExecutor(READERS)  # reading and hashing release Python's lock
        self.found = self.computed = 0
        self.problem: OSError | None = None

    def __call__(self, tiles: Sequence[np.ndarray]) -> torch.Tensor:
        """Return the features of tiles, each uint8 (3, side, side)."""
        if not tiles:
            return torch.empty(0, *self.shape, dtype=self.dtype)
        files = [self.folder / name[:2] / f"{name}.safetensors" for name in self.threads.map(digest_of, tiles)]
        distinct = dict(zip(files, tiles))
        found = zip(distinct, self.threads.map(load, distinct))
        features = {file: each for file, each in found if each is not None}
        missing = [file for file in distinct if file not in features]
        if missing:
            computed = self.encode(torch.from_numpy(np.stack([distinct[file] for file in missing])))
            features.update(zip(missing, computed))
            list(self.threads.map(self.save, missing, computed))
        self.computed += len(missing)
        self.found += len(distinct) - len(missing)
        return torch.stack([features[file] for file in files])

    @torch.no_grad()
    def encode(self, tiles: torch.Tensor) -> torch.Tensor:
        """Run the encoder as the model's forward does: uint8 tiles (tiles, 3, side, side) → features."""
        with self.autocast():
            features, _ = self.model.encode_patches(tiles.to(self.model.device))
        # Under autocast the last norm returns float32, and the connector's first matrix rounds it to this type.
        return features.to(self.dtype).cpu()

    @property
    def shape(self) -> tuple[int, int]:
        """Return patches and channels of a tile."""
        config = self.model.config
        return config.image_seq_len * config.folded_side**2, config.vision_config.hidden_size

    @cached_property
    def dtype(self) -> torch.dtype:
        device = self.model.device.type
        with self.autocast():
            return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.model.dtype

    @cached_property
    def folder(self) -> Path:
        """The cache of this encoder. A resumed run has loaded its weights before the first batch."""
        config = self.model.config
        vision = {name: value for name, value in config.vision_config.to_dict().items() if name not in OF_NO_EFFECT}
        pixels = [config.image_mean, config.image_std]
        read = [config.vision_feature_layer, config.vision_feature_select_strategy, str(self.dtype)]
        digest = hashlib.sha256(json.dumps([VERSION, vision, pixels, read], sort_keys=True, default=str).encode())
        for name, weight in sorted(self.model.vision_model.state_dict().items()):
            digest.update(f"{name} {weight.dtype} {list(weight.shape)}".encode())
            digest.update(bytes_of(weight))
        return self.caches / digest.hexdigest()[:32]

    def save(self, path: Path, features: torch.Tensor) -> None:
        """Write the features of a tile. A full or read-only disk does not stop the run."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            disk = shutil.disk_usage(path.parent)
            if disk.free < KEPT_FREE * disk.total:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            content = save({"features": features.contiguous()}, {"digest": digest_of(bytes_of(features))})
            with atomic_file(path) as file:
                file.write_bytes(content)
        except OSError as error:
            self.problem = error

    def describe(self, tiles: int | None) -> str:
        """Say where the features are kept, and how many bytes they need for the tiles of the data, if known."""
        size = self.shape[0] * self.shape[1] * self.dtype.itemsize
        total = f", at most {data_size(tiles * size)} for {counted(tiles, 'tile')}" if tiles else ""
        return (
            f"features of images are cached in {self.caches}: {data_size(size)} per tile{total}; "
            f"{data_size(free_bytes(self.caches))} are free there"
        )

    def describe_use(self, found: int, computed: int) -> str:
        """Say how many features were read and computed."""
        problem = f"; some could not be written ({self.problem.strerror or self.problem})" if self.problem else ""
        return f"features of {counted(found, 'tile')} were cached, those of {computed:,} were computed{problem}"


def load(path: Path) -> torch.Tensor | None:
    """Return the features of a tile; None for a missing or damaged file."""
    try:
        with safe_open(path, "pt") as file:
            features, digest = file.get_tensor("features"), file.metadata()["digest"]
    except (OSError, SafetensorError, TypeError, KeyError):
        return None
    return features if digest_of(bytes_of(features)) == digest else None


def digest_of(data: Any) -> str:
    """Compute the digest of the bytes of an array: 128 bits of BLAKE2b, in hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def bytes_of(tensor: torch.Tensor) -> Any:
    """Return the bytes of a tensor of any number type, as an array."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
