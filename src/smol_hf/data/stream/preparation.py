"""A record → a measured sample → token ids, labels and tiles. Decoding comes last, because it costs the most."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from smol_hf.data.conversation import (
    MODALITIES,
    Conversation,
    ImagePart,
    SampleError,
    TextPart,
    TooLongError,
    VideoPart,
)
from smol_hf.data.media.fast_images import fast_tiles
from smol_hf.data.media.images import image_size, load_image
from smol_hf.data.stream.shortening import SampleVersion, shortened
from smol_hf.modeling.label_loss import IGNORE_INDEX
from smol_hf.processing.chat_format import ChatTemplateError
from smol_hf.processing.video_sampling import FrameTimes, VideoSampling


@dataclass(frozen=True)
class MeasuredSequence:
    """Token ids and labels of equal length, for the conversation's first `num_images` images of `num_tiles` tiles."""

    input_ids: list[int]
    labels: list[int]
    num_images: int
    num_tiles: int


@dataclass
class MeasuredSample:
    """A tokenised conversation with places for its images, which are not decoded.

    It is one sequence, or several that do not see each other, see `chat_turns`. `num_tokens`, `num_tiles`: of all
    sequences. `lost`: the parts that it lost to fit the context. `number`: of a sequence in its conversation, see
    `units`.
    """

    conversation: Conversation
    sequences: list[MeasuredSequence]
    longest_edge: int
    num_tokens: int
    num_tiles: int
    lost: str = ""
    number: int = 0

    @property
    def input_ids(self) -> list[int]:
        return [each for sequence in self.sequences for each in sequence.input_ids]

    @property
    def labels(self) -> list[int]:
        return [each for sequence in self.sequences for each in sequence.labels]

    @property
    def units(self) -> list[MeasuredSample]:
        """The independent parts of rows: a sample for each sequence."""
        return [
            replace(self, sequences=[each], num_tokens=len(each.input_ids), num_tiles=each.num_tiles, number=number)
            for number, each in enumerate(self.sequences)
        ]


@dataclass
class ReadySample:
    """One sequence for the collator: `input_ids` and `labels` (tokens,), `tiles` uint8 (tiles, 3, side, side).

    `modality`: one of `MODALITIES`; `lost`, `number`: see `MeasuredSample`. Tensors pass from workers to the trainer
    through shared memory.
    """

    sample_id: str
    source: int
    input_ids: torch.Tensor
    labels: torch.Tensor
    tiles: torch.Tensor
    modality: str = "text"
    lost: str = ""
    number: int = 0


def template_messages(conversation: Conversation) -> list[dict]:
    """Return the conversation in the chat format of processors, without its images and videos.

    An answer that gets no labels has `"trained": False`.

    Raises:
        SampleError: for a video file, which is not supported yet.
    """
    messages = []
    for message in conversation.messages:
        content = []
        for part in message.parts:
            if isinstance(part, TextPart):
                content.append({"type": "text", "text": part.text})
            elif isinstance(part, ImagePart):
                content.append({"type": "image"})
            elif part.frames:
                content.append({"type": "video"})
            else:
                problem = "shows a video, and videos cannot be trained on yet: leave it out with on_bad_sample skip"
                raise SampleError(conversation.sample_id, problem)
        untrained = {"trained": False} if message.role == "assistant" and not message.is_learned else {}
        messages.append({**untrained, "role": message.role, "content": content, **message.fields})
    return messages


def chosen_frames(video: VideoPart, sampling: VideoSampling) -> tuple[list[ImagePart], FrameTimes]:
    """Return the frames of a video that the model sees, and their times."""
    times = [time - video.times[0] for time in video.times]
    duration = times[-1] * len(times) / max(len(times) - 1, 1)
    chosen = sampling.choose(times, duration, video.start, video.end)
    return [ImagePart(content=video.frames[i]) for i in chosen], FrameTimes(tuple(times[i] for i in chosen), duration)


class SampleWork:
    """The work of a lane on samples.

    Args:
        processor: a `SmolHFProcessor`.
        context_length: the most tokens of a sample.
        readers: for each source, (where, record) → `Conversation`; None if its records are conversations.
        too_long: parts that a sample may lose to fit, see `shortening`. Otherwise longer ones are left out.
        image_resizing: "exact" (transformers' arithmetic) or "fast", see `fast_images`.
    """

    def __init__(
        self,
        processor,
        context_length: int,
        readers: Sequence[Any],
        *,
        too_long: Sequence[str] = (),
        image_resizing: str = "exact",
    ):
        self.processor, self.context_length, self.readers = processor, context_length, readers
        self.too_long, self.image_resizing = too_long, image_resizing

    def with_readers(self, readers: list) -> SampleWork:
        """Return the same work on other sources."""
        other = copy.copy(self)
        other.readers = readers
        return other

    def prepare(self, source: int, where: str, record: Any) -> MeasuredSample:
        """Measure tokens and tiles of a record, from its texts and the headers of its images.

        Args:
            record: of the source, or the conversation that its reader made of it.

        Raises:
            SampleError: for a record or an image that cannot be used, or without a trained token.
            FilteredOutError, TooLongError: for a record that the filters reject, or that does not fit.
        """
        conversation = record if isinstance(record, Conversation) else self.readers[source](where, record)
        sample = self.measured(SampleVersion(conversation, self.processor.longest_edge))
        if any(len(sequence.input_ids) > self.context_length for sequence in sample.sequences):
            sample = self.shorter(sample)
        if all(label == IGNORE_INDEX for sequence in sample.sequences for label in sequence.labels):
            raise SampleError(conversation.sample_id, "no token of it is trained, so nothing can be learned from it")
        return sample

    def measured(self, shape: SampleVersion, lost: str = "") -> MeasuredSample:
        conversation = shape.conversation
        messages = template_messages(conversation)
        sampling = self.processor.video_sampling
        sizes = [
            image_size(part, conversation.sample_id)
            if isinstance(part, ImagePart)
            else chosen_frames(part, sampling)[1]
            for part in conversation.media
        ]
        processor = self.processor.with_settings(longest_edge=shape.longest_edge)
        try:
            turns = processor.encode_turns(messages, sizes, conversation.tools)
        except ChatTemplateError as error:
            raise SampleError(conversation.sample_id, str(error)) from error
        sequences = []
        for input_ids, labels, images in turns:
            # The first token has no context to predict it; in a packed row, only another sample.
            labels[0] = IGNORE_INDEX
            num_tiles = input_ids.count(processor.image_token_id) // processor.image_seq_len
            sequences.append(MeasuredSequence(input_ids, labels, images, num_tiles))
        num_tokens = sum(len(sequence.input_ids) for sequence in sequences)
        num_tiles = sum(sequence.num_tiles for sequence in sequences)
        return MeasuredSample(conversation, sequences, shape.longest_edge, num_tokens, num_tiles, lost)

    def shorter(self, sample: MeasuredSample) -> MeasuredSample:
        """Return the sample with the smallest loss that makes it fit. Raises TooLongError if none suffices."""
        whole = SampleVersion(sample.conversation, sample.longest_edge)

        def tokens(shape: SampleVersion) -> int:
            return max(len(sequence.input_ids) for sequence in self.measured(shape).sequences)

        shape, lost = shortened(whole, self.too_long, self.processor.tile_size, tokens, self.context_length)
        if shape is None:
            lengths = [len(sequence.input_ids) for sequence in sample.sequences]
            number, length = next(each for each in enumerate(lengths, start=1) if each[1] > self.context_length)
            which = f" in sequence {number} of {len(lengths)} (one for each answer)" if len(lengths) > 1 else ""
            problem = f"{length} tokens{which}, more than context_length {self.context_length}"
            raise TooLongError(sample.conversation.sample_id, problem)
        return self.measured(shape, lost)

    def encode(self, source: int, sample: MeasuredSample) -> ReadySample:
        """Decode the images of a sample of one sequence. Raises SampleError for a damaged one."""
        [sequence] = sample.sequences
        conversation = sample.conversation
        name = conversation.sample_id
        processor = self.processor.with_settings(longest_edge=sample.longest_edge)
        tiles = [processor.tiles([])]
        for image, tiler in itertools.islice(self.pictures(conversation, processor), sequence.num_images):
            fast = self.image_resizing == "fast"
            tiles.append(fast_tiles(image, name, tiler) if fast else tiler.tiles(load_image(image, name)))
        return ReadySample(
            name,
            source,
            torch.tensor(sequence.input_ids),
            torch.tensor(sequence.labels),
            torch.from_numpy(np.concatenate(tiles)),
            "video" if conversation.videos else MODALITIES[min(len(conversation.images), 2)],
            sample.lost,
            sample.number,
        )

    @staticmethod
    def pictures(conversation: Conversation, processor) -> Iterator[tuple[ImagePart, Any]]:
        """Yield the images and chosen frames of a conversation in reading order, each with its tiler."""
        for part in conversation.media:
            if isinstance(part, ImagePart):
                yield part, processor.tiler
            else:
                frames, _ = chosen_frames(part, processor.video_sampling)
                yield from ((frame, processor.frame_tiler) for frame in frames)
