"""Model plug-in of lmms-eval: it answers requests with a checkpoint, greedily. It runs in lmms-eval's environment.

It imports only torch, transformers, lmms-eval and the modules that a checkpoint needs.
"""

from __future__ import annotations

import ast
import json
import os
import random
from itertools import groupby, islice
from typing import Any

import torch
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from lmms_eval.protocol import ChatMessages
from tqdm import tqdm

from smol_hf.auto import AutoModelForImageTextToText, AutoProcessor
from smol_hf.evaluation.benchmarks.suite import COUNTS

MODEL = "smol_hf"
# More images of one request are the frames of a video, as in MVBench's episodic reasoning.
MOST_IMAGES = 16
DEFAULT_NEW_TOKENS = 128

manifest = ModelManifest(model_id=MODEL, chat_class_path=f"{__name__}.CheckpointModel")


class CheckpointModel(lmms):
    """A vision-language checkpoint that answers requests with images, videos and text.

    Args:
        pretrained: folder or Hub id.
        device: of torch; by default the GPU, if any.
        batch_size: prompts per batch; a prompt with a video is not batched.
        dtype: of the weights, `auto` for the saved one.
        trust_remote_code: run code that comes with the checkpoint.
    """

    is_simple = False

    def __init__(self, pretrained, device=None, batch_size=1, dtype="auto", trust_remote_code=False):
        super().__init__()
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        options = {"trust_remote_code": trust_remote_code}
        model: Any = AutoModelForImageTextToText.from_pretrained(pretrained, dtype=dtype, **options)
        self.model = model.to(self.device).eval()
        self.processor = AutoProcessor.from_pretrained(pretrained, **options)
        self.processor.tokenizer.padding_side = "left"
        self.batch_size = int(batch_size)
        self.counts = {"answers": 0, "too_long": 0, "random_choices": 0}

    def generate_until(self, requests):
        """Return the answers, in the order of the requests."""
        answers: list[str] = []
        prepared = map(self.prepare, tqdm(requests, desc="answers"))
        for (media, options), group in groupby(prepared, key=lambda each: each[0]):
            size = 1 if media == "video" else self.batch_size
            while conversations := [conversation for _, conversation in islice(group, size)]:
                answers += self.answer(conversations, json.loads(options))
        self.counts["answers"] += len(requests)
        self.counts["random_choices"] += sum(map(self.draws_choice, requests, answers))
        if COUNTS in os.environ:
            with open(os.environ[COUNTS], "w", encoding="utf-8") as file:
                json.dump(self.counts, file)
        return answers

    def prepare(self, request):
        """Return (kind, conversation) of a request. Successive requests of the same kind may share a batch."""
        conversation = chat_messages(ChatMessages(messages=request.args[1](self.document(request))))
        types = {part["type"] for message in conversation for part in message["content"]}
        media = next((each for each in ("video", "image") if each in types), "text")
        return (media, json.dumps(request.args[2], sort_keys=True)), conversation

    def draws_choice(self, request, answer):
        """Return whether lmms-eval draws a random choice, because MMMU's parser finds none in the answer."""
        if not request.args[4].startswith("mmmu"):
            return False
        document = self.document(request)
        return document["question_type"] == "multiple-choice" and finds_no_choice(document, answer)

    def document(self, request):
        _, _, _, document_id, task, split = request.args
        return self.task_dict[task][split][document_id]

    @torch.inference_mode()
    def answer(self, conversations, options):
        """Continue a batch of conversations. An answer is empty if its prompt fills the model's context."""
        inputs = self.processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            padding=True,
        )
        length = inputs["input_ids"].shape[1]
        room = self.model.config.get_text_config().max_position_embeddings - length
        if room < 1:
            if len(conversations) > 1:  # only one of them may be too long
                return [answer for each in conversations for answer in self.answer([each], options)]
            self.counts["too_long"] += 1
            return [""]
        limit = options.get("max_new_tokens", DEFAULT_NEW_TOKENS)
        if room < limit and len(conversations) > 1:  # padding must not shorten an answer
            return [answer for each in conversations for answer in self.answer([each], options)]
        output = self.model.generate(
            **{name: self.placed(value) for name, value in inputs.items()},
            max_new_tokens=min(limit, room),
            do_sample=False,
            num_beams=1,
            pad_token_id=self.processor.tokenizer.pad_token_id,
        )
        texts = self.processor.tokenizer.batch_decode(
            output[:, length:], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return [cut(text, options.get("until", ())).strip() for text in texts]

    def placed(self, value):
        """Move a tensor to the device; real numbers get the type of the weights."""
        return value.to(self.device, self.model.dtype) if value.is_floating_point() else value.to(self.device)

    def loglikelihood(self, requests):
        raise NotImplementedError("smol_hf answers questions; it does not score given answers in lmms-eval")

    def generate_until_multi_round(self, requests):
        raise NotImplementedError("smol_hf does not run tasks of several rounds in lmms-eval")


def chat_messages(messages):
    """Convert lmms-eval's messages → transformers' messages. Many images of a message become one video."""
    converted = []
    for message in messages.messages:
        parts = [chat_part(content) for content in message.content]
        images = [part for part in parts if part["type"] == "image"]
        if len(images) > MOST_IMAGES:
            first = parts.index(images[0])
            parts = [part for part in parts if part["type"] != "image"]
            parts.insert(first, {"type": "video", "video": [part["image"] for part in images]})
        converted.append({"role": message.role, "content": parts})
    return converted


def chat_part(content):
    if content.type == "text":
        return {"type": "text", "text": content.text}
    if content.type == "audio":
        raise ValueError("smol_hf models have no audio input")
    part = {"type": content.type, content.type: content.url}
    if content.type == "video":
        part |= {name: time for name in ("start", "end") if (time := getattr(content, f"{name}_time")) is not None}
    return part


def cut(text, until):
    """Return the text up to the first of the strings in `until`."""
    strings = [until] if isinstance(until, str) else until
    return text[: min((text.index(string) for string in strings if string and string in text), default=len(text))]


def finds_no_choice(document, answer):
    """Return whether MMMU's parser draws a random number for this answer. The state of `random` stays the same."""
    from lmms_eval.tasks.mmmu.utils import get_multi_choice_info, parse_multi_choice_response

    state = random.getstate()
    index_to_answer, choices = get_multi_choice_info(ast.literal_eval(document["options"]))
    parse_multi_choice_response(answer, choices, index_to_answer)
    drawn = random.getstate() != state
    random.setstate(state)
    return drawn
