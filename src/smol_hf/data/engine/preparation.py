"""A record → a measured sample → token ids, labels and tiles. Everything that is cheap comes first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from smol_hf.data.conversation import Conversation, ImagePart, SampleError
from smol_hf.data.fast_images import fast_tiles
from smol_hf.data.images import image_size, load_image
from smol_hf.data.shortening import Shape, processor_at, shortened
from smol_hf.modeling.chat_rendering import ChatTemplateError
from smol_hf.modeling.label_loss import IGNORE_INDEX


class LeftOutError(SampleError):
    """A sample that is not used although nothing is wrong with it: counted and named, and no reason to stop."""


class TooLongError(LeftOutError):
    """It does not fit the context, and nothing is ever cut."""


class FilteredOutError(LeftOutError):
    """The recipe's filters do not want it."""


@dataclass
class MeasuredSample:
    """A conversation that is tokenised, with places for its images, none of which is decoded yet.

    `lost`: what it lost to fit the context; empty when it is whole. `lengths`: of the sequences that it is trained as,
    one after the other in `input_ids`; empty when it is one.
    """

    conversation: Conversation
    input_ids: list[int]
    labels: list[int]
    num_tiles: int
    longest_edge: int
    lost: str = ""
    lengths: tuple[int, ...] = ()

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids)


@dataclass
class ReadySample:
    """What the collator stacks: `input_ids` and `labels` (tokens,), `tiles` uint8 (tiles, 3, side, side). `modality`:
    see `Conversation`; `lost`, `lengths`: see `MeasuredSample`.

    Tensors, since these cross from worker to trainer through shared memory.
    """

    sample_id: str
    source: int
    input_ids: torch.Tensor
    labels: torch.Tensor
    tiles: torch.Tensor
    modality: str = "text"
    lost: str = ""
    lengths: tuple[int, ...] = ()

    @property
    def sequences(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(input_ids, labels) of each sequence that does not see the others."""
        lengths = self.lengths or (len(self.input_ids),)
        return list(zip(self.input_ids.split(lengths), self.labels.split(lengths)))


def template_messages(conversation: Conversation) -> list[dict]:
    """The conversation in the chat format that processors read, without its images. An answer that gets no labels has
    `"trained": False`."""
    return [
        {
            **({"trained": False} if message.role == "assistant" and not message.is_learned else {}),
            "role": message.role,
            "content": [
                {"type": "image"} if isinstance(part, ImagePart) else {"type": "text", "text": part.text}
                for part in message.parts
            ],
        }
        for message in conversation.messages
    ]


class SampleWork:
    """The engine's work on samples.

    Args:
        processor: a `SmolHFProcessor`.
        context_length: the most tokens of a sample.
        readers: for each source, what makes a `Conversation` of (where, record); None where records are that already.
        too_long: what a sample may lose to fit, see `shortening`; without it longer ones are left out.
        image_resizing: "exact" (transformers' arithmetic) or "fast", see `fast_images`.
    """

    def __init__(
        self,
        processor,
        context_length: int,
        readers: list[Callable[[str, Any], Conversation] | None],
        *,
        too_long: list[str] = (),
        image_resizing: str = "exact",
    ):
        self.processor, self.context_length, self.readers = processor, context_length, readers
        self.too_long, self.image_resizing = too_long, image_resizing

    def with_readers(self, readers: list) -> SampleWork:
        """The same work on other sources."""
        options = {"too_long": self.too_long, "image_resizing": self.image_resizing}
        return type(self)(self.processor, self.context_length, readers, **options)

    def prepare(self, source: int, where: str, record: Any) -> MeasuredSample:
        """Tokens and tiles of a record, from its texts and the headers of its images.

        Raises:
            SampleError: for a record or an image that cannot be used, or without a trained token.
            TooLongError: for one that does not fit.
        """
        return self.fitted(self.conversation(source, where, record))

    def conversation(self, source: int, where: str, record: Any) -> Conversation:
        """Read a record. Raises SampleError for one that cannot be read, or is filtered out."""
        reader = self.readers[source]
        return record if reader is None else reader(where, record)

    def fitted(self, conversation: Conversation) -> MeasuredSample:
        """Measure a conversation, and shorten it if it does not fit. Raises what `prepare` does."""
        if conversation.videos:
            problem = "shows a video, and videos cannot be trained on yet: leave it out with on_bad_sample skip"
            raise SampleError(conversation.sample_id, problem)
        sample = self.measured(Shape(conversation, self.processor.longest_edge))
        if sample.num_tokens > self.context_length:
            sample = self.shorter(sample)
        if all(label == IGNORE_INDEX for label in sample.labels):
            raise SampleError(conversation.sample_id, "no token of it is trained, so nothing can be learned from it")
        return sample

    def measured(self, shape: Shape, lost: str = "") -> MeasuredSample:
        conversation, processor = shape.conversation, processor_at(self.processor, shape.longest_edge)
        sizes = [image_size(image, conversation.sample_id) for image in conversation.images]
        try:
            input_ids, labels = processor.encode_text(template_messages(conversation), sizes)
        except ChatTemplateError as error:
            raise SampleError(conversation.sample_id, str(error)) from error
        # The first token has nothing before it to be predicted from; in a packed row, only another sample.
        labels[0] = IGNORE_INDEX
        tiles = 0
        for size in sizes:
            rows, columns = processor.tiler.grid(*size)
            tiles += rows * columns + 1
        return MeasuredSample(conversation, input_ids, labels, tiles, shape.longest_edge, lost)

    def shorter(self, sample: MeasuredSample) -> MeasuredSample:
        whole = Shape(sample.conversation, sample.longest_edge)

        def tokens(shape: Shape) -> int:
            return self.measured(shape).num_tokens

        shape, lost = shortened(whole, self.too_long, self.processor.tile_size, tokens, self.context_length)
        if shape is None:
            parts = f" in {len(sample.lengths)} sequences, one for each answer" if sample.lengths else ""
            problem = f"{sample.num_tokens} tokens{parts}, more than context_length {self.context_length}"
            raise TooLongError(sample.conversation.sample_id, problem)
        return self.measured(shape, lost)

    def encode(self, source: int, sample: MeasuredSample) -> ReadySample:
        """Decode the images. Raises SampleError for a damaged one."""
        return ReadySample(
            sample.conversation.sample_id,
            source,
            torch.tensor(sample.input_ids),
            torch.tensor(sample.labels),
            torch.from_numpy(self.tiles(sample)),
            sample.conversation.modality,
            sample.lost,
            sample.lengths,
        )

    def tiles(self, sample: MeasuredSample) -> np.ndarray:
        processor = processor_at(self.processor, sample.longest_edge)
        name, images = sample.conversation.sample_id, sample.conversation.images
        if self.image_resizing == "fast" and images:
            tiles = [fast_tiles(image, name, processor.tiler) for image in images]
            return tiles[0] if len(tiles) == 1 else np.concatenate(tiles)
        return processor.tiles([load_image(image, name) for image in images])
