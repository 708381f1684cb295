"""Generate answers to prompts with a loaded model, piece by piece."""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Event, Lock, Thread

import torch
from transformers import BatchEncoding, StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer, set_seed


class Problem(ValueError):
    """A problem that the visitor can solve, described in one line."""


@dataclass(frozen=True)
class Sampling:
    """Sampling options. `temperature` 0 is greedy, `top_k` 0 is off, `seed` None is random."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 256
    seed: int | None = None

    def arguments(self) -> dict:
        """Return arguments of `generate` that override the checkpoint's own sampling configuration."""
        drawn = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        samples = self.temperature > 0
        return {
            "do_sample": samples,
            **(drawn if samples else dict.fromkeys(drawn)),
            "min_p": None,
            "num_beams": 1,
            "repetition_penalty": self.repetition_penalty,
        }


@dataclass
class Writer:
    """A loaded checkpoint that answers one prompt at a time.

    Args:
        processor: a tokenizer for a text-only model.
        warning: a warning about the weights for visitors, or an empty string.
    """

    model: object
    processor: object
    warning: str = ""
    lock: Lock = field(default_factory=Lock)

    @property
    def tokenizer(self):
        return getattr(self.processor, "tokenizer", self.processor)

    @property
    def sees_images(self) -> bool:
        return self.processor is not self.tokenizer

    @property
    def sees_videos(self) -> bool:
        """True for our processor, and for one of transformers that prepares videos."""
        return any(getattr(self.processor, name, None) for name in ("video_sampling", "video_processor"))

    @property
    def chats(self) -> bool:
        """True if a prompt is a turn of a conversation. Otherwise it is a text to continue."""
        return self.processor.chat_template is not None

    @property
    def positions(self) -> int | None:
        """Maximum number of tokens of prompt and answer together."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def parameters(self) -> int:
        return sum(weight.numel() for weight in self.model.parameters())

    def continue_text(self, text: str, sampling: Sampling, stopped: Event | None = None) -> Iterator[str]:
        """Yield the growing continuation of a text, until `stopped` is set."""
        ids = self.tokenizer(text, split_special_tokens=True)["input_ids"]
        if not ids:  # the beginning of a document
            beginnings = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
            ids = [token for token in beginnings if token is not None][:1]
        if not ids:
            raise Problem("Write the beginning of a text first.")
        return self.write(one_row(ids), sampling, stopped)

    def answer(self, messages: list[dict], sampling: Sampling, stopped: Event | None = None) -> Iterator[str]:
        """Yield the growing answer of a conversation, until `stopped` is set.

        Args:
            messages: chat messages with `role` and `content`, a list of parts: texts, PIL images or paths of videos.
        """
        videos = [part["path"] for message in messages for part in message["content"] if part["type"] == "video"]
        if videos and not self.sees_videos:
            raise Problem("This model takes no videos.")
        if not self.sees_images:
            inputs = one_row(self.chat_ids(messages))
        else:
            if type(self.processor).__name__ != "SmolHFProcessor":
                self.refuse_special_tokens(messages)
            try:
                inputs = self.processor.apply_chat_template(
                    [messages], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
                )
            except ValueError as error:  # an animation, for example
                problem = one_line(error)
                for path in videos:  # of this machine
                    problem = problem.replace(path, path.replace("\\", "/").split("/")[-1])
                raise Problem(problem) from error
        return (text.lstrip() for text in self.write(inputs, sampling, stopped))

    def chat_ids(self, messages: list[dict]) -> list[int]:
        """Tokenise a conversation with the chat template.

        Only the template writes special tokens. The texts of messages are inserted afterwards, as ordinary characters.
        """
        texts = ["\n".join(part["text"] for part in message["content"]) for message in messages]
        shells = [{"role": message["role"], "content": f"\ue000{n}\ue001"} for n, message in enumerate(messages)]
        rendered = self.tokenizer.apply_chat_template(shells, tokenize=False, add_generation_prompt=True)
        ids: list[int] = []
        for piece in re.split(f"({self.special_tokens})", rendered):
            if re.fullmatch(self.special_tokens, piece):
                ids.append(self.tokenizer.convert_tokens_to_ids(piece))
            elif piece:
                piece = re.sub("\ue000([0-9]+)\ue001", lambda match: texts[int(match[1])], piece)
                ids += self.tokenizer(piece, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    @property
    def special_tokens(self) -> str:
        """Pattern that matches any special token, without groups."""
        added = {str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        longest_first = sorted(added | set(self.tokenizer.all_special_tokens), key=len, reverse=True)
        return "|".join(map(re.escape, longest_first)) or "(?!)"

    def refuse_special_tokens(self, messages: list[dict]) -> None:
        """Refuse special tokens in texts. Other processors would not distinguish them from the template's."""
        for message in messages:
            for part in message["content"]:
                if found := re.search(self.special_tokens, part.get("text", "")):
                    raise Problem(f"“{found[0]}” is a special token of this model: write it differently.")

    def write(self, inputs, sampling: Sampling, stopped: Event | None) -> Iterator[str]:
        """Yield the complete text after the prompt each time it grows. Raises errors of the generating thread."""
        length = inputs["input_ids"].shape[1]
        remaining = self.positions - length if self.positions else sampling.max_new_tokens
        if remaining < 1:
            advice = "Shorten it, or begin a new conversation." if self.chats else "Shorten it."
            supported = f"the model supports {self.positions:,} with its answer"
            raise Problem(f"The text is too long: it has {length:,} tokens, and {supported}. {advice}")
        limit = min(remaining, sampling.max_new_tokens)
        return self.stream(inputs.to(self.model.device), sampling, limit, stopped or Event())

    def stream(self, inputs, sampling: Sampling, max_new_tokens: int, stopped: Event) -> Iterator[str]:
        streamer = TextIteratorStreamer(
            self.tokenizer, skip_prompt=True, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        failures: list[BaseException] = []

        def work():
            try:
                with self.lock, torch.inference_mode():
                    if not stopped.is_set():
                        if sampling.seed is not None:
                            set_seed(sampling.seed)
                        self.model.generate(
                            **inputs,
                            **sampling.arguments(),
                            **self.ends(),
                            max_new_tokens=max_new_tokens,
                            streamer=streamer,
                            stopping_criteria=StoppingCriteriaList([Stop(stopped)]),
                        )
            except BaseException as error:  # noqa: BLE001 (the caller raises it)
                failures.append(error)
            finally:
                streamer.end()

        thread = Thread(target=work, daemon=True)
        thread.start()
        written = ""
        try:
            for piece in streamer:
                written += piece
                if piece:
                    yield written
        finally:
            stopped.set()  # also if the page was closed
        thread.join()
        if failures and isinstance(failures[0], Exception):  # out of memory, numbers that are not finite
            logging.getLogger(__name__).error("generation failed", exc_info=failures[0])
            raise Problem(f"Generation failed: {one_line(failures[0])}") from failures[0]
        if failures:
            raise failures[0]

    def ends(self) -> dict:
        """Return the end tokens of the model, or else of its tokenizer, and a padding token."""
        ends = self.model.generation_config.eos_token_id
        ends = self.tokenizer.eos_token_id if ends is None else ends
        padding = self.tokenizer.pad_token_id
        padding = self.tokenizer.eos_token_id if padding is None else padding
        return {"eos_token_id": ends, "pad_token_id": 0 if padding is None else padding}


class Stop(StoppingCriteria):
    """Stop generation when the event is set: the visitor pressed Stop or closed the page."""

    def __init__(self, event: Event):
        self.event = event

    def __call__(self, input_ids, scores, **kwargs):
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device, dtype=torch.bool)


def one_row(ids: list[int]) -> BatchEncoding:
    return BatchEncoding(
        {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    )


def one_line(error: object) -> str:
    return " ".join(str(error).split())
