"""A record → a measured sample → token ids, labels and tiles. Decoding comes last, because it costs the most."""

from __future__ import annotations

import copy
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from smol_hf.data.conversation import (
    DOCUMENT,
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
from smol_hf.data.media.videos import ChosenFrames, ListedVideo, load_frames
from smol_hf.data.stream.shortening import SampleVersion, shortened
from smol_hf.modeling.label_loss import IGNORE_INDEX
from smol_hf.processing.chat_format import ChatTemplateError
from smol_hf.support.tokenizer_of import document_tokens, tokenizer_of, unknown_token_id

MOST_COPIED = 1 << 18  # bytes; copying more takes longer than to open shared memory


@dataclass(frozen=True)
class MeasuredSequence:
    """Token ids and labels of equal length, for the first `num_images` images and frames, of `num_tiles` tiles.

    The pool of each lane keeps a hundred of them. As lists of integers they would take six times the memory.
    """

    input_ids: array[int]
    labels: array[int]
    num_images: int
    num_tiles: int


@dataclass
class MeasuredSample:
    """A tokenised conversation with places for its images and videos, which are not decoded.

    It is one sequence, or several that do not see each other, see `chat_turns`. `num_tokens`, `num_tiles`: of all
    sequences. `lost`: the parts that it lost to fit the context. `number`: of a sequence in its conversation, see
    `units`. `media`: its images and videos in reading order, each with its size or its frames.
    """

    conversation: Conversation
    sequences: list[MeasuredSequence]
    longest_edge: int
    num_tokens: int
    num_tiles: int
    lost: str = ""
    number: int = 0
    media: tuple[tuple[ImagePart | VideoPart, tuple[int, int] | ChosenFrames], ...] = ()

    @property
    def videos(self) -> list[ChosenFrames]:
        """The frames of each video, in reading order."""
        return [frames for _, frames in self.media if isinstance(frames, ChosenFrames)]

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

    `modality`: one of `MODALITIES`; `lost`, `number`: see `MeasuredSample`. Large tensors pass from workers to the
    trainer through shared memory. Small ones are copied: to open shared memory takes about 0.4 ms.
    """

    sample_id: str
    source: int
    input_ids: torch.Tensor
    labels: torch.Tensor
    tiles: torch.Tensor
    modality: str = "text"
    lost: str = ""
    number: int = 0

    def __getstate__(self) -> dict[str, Any]:
        return {name: value.numpy() if is_small(value) else value for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, torch.from_numpy(value) if isinstance(value, np.ndarray) else value)


def is_small(value: Any) -> bool:
    """Return True for a tensor that a worker copies."""
    return isinstance(value, torch.Tensor) and value.nbytes <= MOST_COPIED


def template_messages(conversation: Conversation) -> tuple[list[dict], list[ImagePart | VideoPart]]:
    """Return the conversation in the chat format of processors, and its images and videos in reading order.

    An answer that gets no labels has `"trained": False`.
    """
    messages, media = [], []
    for message in conversation.messages:
        content = []
        for part in message.parts:
            if isinstance(part, TextPart):
                content.append({"type": "text", "text": part.text})
            else:
                content.append({"type": "image" if isinstance(part, ImagePart) else "video"})
                media.append(part)
        untrained = {"trained": False} if message.role == "assistant" and not message.is_learned else {}
        messages.append({**untrained, "role": message.role, "content": content, **message.fields})
    return messages, media


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

    @cached_property
    def unknown_token_id(self) -> int | None:
        """The token that the tokenizer writes for a text that it does not know; None if it knows every text."""
        return unknown_token_id(tokenizer_of(self.processor))

    def with_readers(self, readers: list) -> SampleWork:
        """Return the same work on other sources."""
        other = copy.copy(self)
        other.readers = readers
        return other

    def prepare(self, source: int, where: str, record: Any) -> MeasuredSample:
        """Measure tokens and tiles of a record, from its texts, headers of images and times of frames.

        Args:
            record: of the source, or the conversation that its reader made of it.

        Raises:
            SampleError: for a record, an image or a video that cannot be used, or without a trained token.
            FilteredOutError, TooLongError: for a record that the filters reject, or that does not fit.
        """
        conversation = record if isinstance(record, Conversation) else self.readers[source](where, record)
        listed: dict[int, ListedVideo] = {}
        sample = self.measured(SampleVersion(conversation, self.processor.longest_edge), listed)
        if any(len(sequence.input_ids) > self.context_length for sequence in sample.sequences):
            sample = self.shorter(sample, listed)
        if all(label == IGNORE_INDEX for sequence in sample.sequences for label in sequence.labels):
            raise SampleError(conversation.sample_id, "no token of it is trained, so nothing can be learned from it")
        return sample

    def measured(self, shape: SampleVersion, listed: dict[int, ListedVideo], lost: str = "") -> MeasuredSample:
        """Measure a version of a sample. `listed`: its videos, by the `id` of their part; new ones are added."""
        conversation = shape.conversation
        if any(message.role == DOCUMENT for message in conversation.messages):
            sequence = self.plain_text(conversation.document or "", conversation.sample_id)
            return MeasuredSample(conversation, [sequence], shape.longest_edge, len(sequence.input_ids), 0, lost)
        messages, parts = template_messages(conversation)
        sizes = []
        for part in parts:
            if isinstance(part, ImagePart):
                sizes.append(image_size(part, conversation.sample_id))
                continue
            if id(part) not in listed:
                listed[id(part)] = ListedVideo(part, conversation.sample_id)
            sizes.append(listed[id(part)].choose(shape.sampling(self.processor.video_sampling)))
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
            sequences.append(MeasuredSequence(array("i", input_ids), array("i", labels), images, num_tiles))
        num_tokens = sum(len(sequence.input_ids) for sequence in sequences)
        num_tiles = sum(sequence.num_tiles for sequence in sequences)
        media = tuple(zip(parts, sizes))
        return MeasuredSample(conversation, sequences, shape.longest_edge, num_tokens, num_tiles, lost, media=media)

    def plain_text(self, text: str, where: str) -> MeasuredSequence:
        """Tokenise a plain text as pretraining does: between two tokens, with labels on all but the first.

        Raises:
            SampleError: if the tokenizer has no token that ends a text.
        """
        try:
            begin, end = document_tokens(tokenizer_of(self.processor))
        except ValueError as error:
            raise SampleError(where, str(error)) from error
        ids = self.processor.encoder.plain.encode(text, add_special_tokens=False).ids
        return MeasuredSequence(array("i", [begin, *ids, end]), array("i", [IGNORE_INDEX, *ids, end]), 0, 0)

    def shorter(self, sample: MeasuredSample, listed: dict[int, ListedVideo]) -> MeasuredSample:
        """Return the sample with the smallest loss that makes it fit. Raises TooLongError if none suffices."""
        whole = SampleVersion(sample.conversation, sample.longest_edge)
        if sample.videos:
            fewest = self.processor.video_sampling.min_frames
            whole = replace(whole, frames=max(len(each.times) for each in sample.videos), fewest_frames=fewest)

        def tokens(shape: SampleVersion) -> int:
            return max(len(sequence.input_ids) for sequence in self.measured(shape, listed).sequences)

        shape, lost = shortened(whole, self.too_long, self.processor.tile_size, tokens, self.context_length)
        if shape is None:
            lengths = [len(sequence.input_ids) for sequence in sample.sequences]
            number, length = next(each for each in enumerate(lengths, start=1) if each[1] > self.context_length)
            which = f" in sequence {number} of {len(lengths)} (one for each answer)" if len(lengths) > 1 else ""
            problem = f"{length} tokens{which}, more than context_length {self.context_length}"
            raise TooLongError(sample.conversation.sample_id, problem)
        return self.measured(shape, listed, lost)

    def encode(self, source: int, sample: MeasuredSample) -> ReadySample:
        """Decode the images and frames of a sample of one sequence. Raises SampleError for damaged ones."""
        [sequence] = sample.sequences
        conversation = sample.conversation
        name, settings = conversation.sample_id, {"longest_edge": sample.longest_edge}
        tiles, seen = [], 0
        for part, size in sample.media:
            if seen == sequence.num_images:
                break
            seen += len(size.times) if isinstance(size, ChosenFrames) else 1
            if isinstance(part, VideoPart):
                assert isinstance(size, ChosenFrames)
                tiler = self.processor.frame_tiler
                # One frame is in memory at a time; its tile is kept.
                tiles += [tiler.tiles(image) for image in load_frames(part, size, name)]
            elif self.image_resizing == "fast":
                tiles.append(fast_tiles(part, name, self.processor.with_settings(**settings).tiler))
            else:
                image = load_image(part, name)
                tiles.append(self.processor.with_settings(**settings).tiles([image]))
        is_video = any(isinstance(part, VideoPart) for part, _ in sample.media)
        modality = "video" if is_video else MODALITIES[min(len(sample.media), 2)]
        return ReadySample(
            name,
            source,
            torch.from_numpy(np.array(sequence.input_ids, dtype=np.int64)),
            torch.from_numpy(np.array(sequence.labels, dtype=np.int64)),
            torch.from_numpy(np.concatenate(tiles) if tiles else self.processor.tiles([])),
            modality,
            sample.lost,
            sample.number,
        )
