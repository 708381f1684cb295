"""A record → a measured sample → token ids, labels and tiles. Everything that is cheap comes first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from smol_hf.data.conversation import Conversation, ImagePart, SampleError
from smol_hf.data.images import image_size, load_image
from smol_hf.modeling.label_loss import IGNORE_INDEX


class LeftOutError(SampleError):
    """A sample that is not used although nothing is wrong with it: counted and named, and no reason to stop."""


class TooLongError(LeftOutError):
    """It does not fit the context, and nothing is ever cut."""


class FilteredOutError(LeftOutError):
    """The recipe's filters do not want it."""


@dataclass
class MeasuredSample:
    """A conversation that is tokenised, with places for its images, none of which is decoded yet."""

    conversation: Conversation
    input_ids: list[int]
    labels: list[int]
    num_tiles: int

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids)


@dataclass
class ReadySample:
    """What the collator stacks: `input_ids` and `labels` (tokens,), `tiles` uint8 (tiles, 3, side, side). `modality`:
    see `Conversation`.

    Tensors, since these cross from worker to trainer through shared memory.
    """

    sample_id: str
    source: int
    input_ids: torch.Tensor
    labels: torch.Tensor
    tiles: torch.Tensor
    modality: str = "text"


def template_messages(conversation: Conversation) -> list[dict]:
    """The conversation in the chat format that processors read; images are left to be given beside it."""
    return [
        {
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
    """

    def __init__(self, processor, context_length: int, readers: list[Callable[[str, Any], Conversation] | None]):
        self.processor, self.context_length, self.readers = processor, context_length, readers

    def prepare(self, source: int, where: str, record: Any) -> MeasuredSample:
        """Tokens and tiles of a record, from its texts and the headers of its images.

        Raises:
            SampleError: for a record or an image that cannot be used. TooLongError: for one that does not fit.
        """
        reader = self.readers[source]
        conversation = record if reader is None else reader(where, record)
        if conversation.videos:
            problem = "shows a video, and videos cannot be trained on yet: leave it out with on_bad_sample skip"
            raise SampleError(conversation.sample_id, problem)
        sizes = [image_size(image, conversation.sample_id) for image in conversation.images]
        input_ids, labels = self.processor.encode_text(template_messages(conversation), sizes)
        if len(input_ids) > self.context_length:
            raise TooLongError(
                conversation.sample_id, f"{len(input_ids)} tokens, more than context_length {self.context_length}"
            )
        # The first token has nothing before it to be predicted from; in a packed row, only another sample.
        labels[0] = IGNORE_INDEX
        tiles = sum(self.tiles_of(*size) for size in sizes)
        return MeasuredSample(conversation, input_ids, labels, tiles)

    def tiles_of(self, height: int, width: int) -> int:
        rows, columns = self.processor.tiler.grid(height, width)
        return rows * columns + 1

    def encode(self, source: int, sample: MeasuredSample) -> ReadySample:
        """Decode the images. Raises SampleError for a damaged one."""
        images = [load_image(image, sample.conversation.sample_id) for image in sample.conversation.images]
        return ReadySample(
            sample.conversation.sample_id,
            source,
            torch.tensor(sample.input_ids),
            torch.tensor(sample.labels),
            torch.from_numpy(self.processor.tiles(images)),
            sample.conversation.modality,
        )
