"""Answers of `smol-hf evaluate` compared with a plain loop of transformers' `generate`, in samples per second.

    python benchmarks/evaluate.py [--samples 32] [--batch-size 8] [--max-new-tokens 32] [--rounds 5] [--threads 1]

Both sides answer the same rows greedily in this process, with the same weights and the same batch size:

    smol_hf   `Answerer` with our checkpoint, sorted rows, the loss of each reference included
    plain     the native export of the checkpoint: each batch in the order of the file, processor, then `generate`

The weights are random. Each answer ends at one of several end tokens, or at the limit. The plain loop uses Idefics3's
processor: it computes the same as SmolVLM's, and needs no torchvision. There are four kinds of rows:

    image    a PNG of 40 to 600 pixels, which gives 1 to 10 tiles, and a question of 4 to 40 words
    images   two such images and a question
    text     a question of 4 to 200 words
    mixed    rows with an image and text-only rows

The sides take turns in each round, after a round that warms up. The last line is JSON. For each kind it has samples/s
of both sides and the share of equal answers. A ratio is the time of the plain loop over ours, and the median of the
rounds: of elapsed time, of CPU time (all threads), and of elapsed time without the losses.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from options import positive
from PIL import Image
from transformers import Idefics3Processor, SmolVLMForConditionalGeneration
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from smol_hf import SmolHFConfig, SmolHFForConditionalGeneration, SmolHFProcessor
from smol_hf.commands.main import main as smol_hf
from smol_hf.data.conversation import Conversation, ImagePart, Message, TextPart
from smol_hf.evaluation.answering import Answerer, Job
from smol_hf.inference.answering import load_checkpoint
from smol_hf.processing.chat_format import DEFAULT_CHAT_TEMPLATE
from smol_hf.publishing.checkpoint import publish_checkpoint
from smol_hf.text.tiny_tokenizer import build_tiny_tokenizer

TILE, LONGEST_EDGE, PATCH, SCALE = 128, 384, 16, 2
END_TOKENS = 12  # besides the tokenizer's
WORDS = "what does this picture show here of the some any small red blue page with lines and dots".split()
KINDS = {"image": (1,), "images": (2,), "text": (0,), "mixed": (1, 0)}  # images per row, in turn
LONGEST_QUESTION = {0: 200, 1: 40, 2: 40}  # words, by the number of images


def build_checkpoint(folder: Path) -> tuple[Path, Path]:
    """Save a small model with random weights. Returns its folder and that of the native export."""
    tokenizer = build_tiny_tokenizer([" ".join(WORDS), "User: Assistant: \n\n"] * 3)
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
        "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id, "tie_word_embeddings": False,
    }  # fmt: skip
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4,
        "num_attention_heads": 4, "image_size": TILE, "patch_size": PATCH,
    }  # fmt: skip
    torch.manual_seed(0)
    model = SmolHFForConditionalGeneration(
        SmolHFConfig(
            vision_config=vision,
            text_config=text,
            scale_factor=SCALE,
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        )
    )
    with torch.no_grad():
        for weight in model.parameters():  # larger weights, so that answers differ
            weight.add_(torch.randn_like(weight) * 0.1)
    ends = np.random.default_rng(0).choice(np.arange(50, len(tokenizer)), END_TOKENS, replace=False)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *ends.tolist()]
    processor = SmolHFProcessor(
        tokenizer, tile_size=TILE, image_seq_len=model.config.image_seq_len, longest_edge=LONGEST_EDGE
    )
    checkpoint = publish_checkpoint(folder / "checkpoint", model, processor)
    with redirect_stdout(StringIO()):
        if smol_hf(["convert", str(checkpoint), str(folder / "native"), "--to", "native"]) != 0:
            raise SystemExit("the native export failed")
    return checkpoint, folder / "native"


def build_rows(folder: Path, kind: str, number: int) -> list[Job]:
    """Write the images of the rows as PNG files."""
    random = np.random.default_rng(0)
    jobs = []
    for row in range(number):
        images = KINDS[kind][row % len(KINDS[kind])]
        paths = [folder / f"{kind}_{row}_{each}.png" for each in range(images)]
        for path in paths:
            width, height = (int(side) for side in random.integers(40, 600, 2))
            Image.fromarray(random.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)
        question, reference = (
            " ".join(random.choice(WORDS, int(random.integers(4, most)))) for most in (LONGEST_QUESTION[images], 12)
        )
        parts = (*(ImagePart(path=str(path)) for path in paths), TextPart(question))
        jobs.append(Job("asked", str(row), Conversation(str(row), (Message("user", parts),)), reference))
    return jobs


def without_references(jobs: list[Job]) -> list[Job]:
    return [Job(job.view, job.where, job.conversation) for job in jobs]


def answers_of(answerer: Answerer, jobs: list[Job]) -> list[str]:
    found = {}
    for answered, faults in answerer.answers(jobs):
        if faults:
            raise faults[0]
        found |= {job.where: answer.text for job, answer in answered}
    return [found[job.where] for job in jobs]


def plain_loop(model, processor, jobs: list[Job], batch_size: int, max_new_tokens: int) -> list[str]:
    texts = []
    for first in range(0, len(jobs), batch_size):
        conversations = [
            [
                {
                    "role": message.role,
                    "content": [
                        {"type": "text", "text": part.text}
                        if isinstance(part, TextPart)
                        else {"type": "image", "image": Image.open(part.path)}
                        for part in message.parts
                    ],
                }
                for message in job.conversation.messages
            ]
            for job in jobs[first : first + batch_size]
        ]
        inputs = processor.apply_chat_template(
            conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
            processor_kwargs={"padding": True},
        )  # fmt: skip
        output = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
        texts += processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]


def seconds(function: Callable, *arguments) -> tuple[float, float]:
    """Return elapsed seconds and CPU seconds."""
    started = time.perf_counter(), time.process_time()
    function(*arguments)
    return time.perf_counter() - started[0], time.process_time() - started[1]


def ratio(theirs: list[tuple[float, float]], ours: list[tuple[float, float]], which: int) -> float:
    return round(statistics.median(peer[which] / mine[which] for mine, peer in zip(ours, theirs)), 3)


def compare(answerer: Answerer, plain: Callable[[list[Job]], list[str]], jobs: list[Job], rounds: int) -> dict:
    pairs = zip(answers_of(answerer, jobs), plain(jobs), strict=True)  # warms up
    equal = sum(ours == theirs for ours, theirs in pairs) / len(jobs)
    answers_of(answerer, without_references(jobs))
    ours, short, theirs = [], [], []
    for _ in range(rounds):
        ours.append(seconds(answers_of, answerer, jobs))
        theirs.append(seconds(plain, jobs))
        short.append(seconds(answers_of, answerer, without_references(jobs)))
    elapsed, cpu = 0, 1
    return {
        "smol_hf_samples_per_second": round(len(jobs) / statistics.median(each[elapsed] for each in ours), 2),
        "plain_samples_per_second": round(len(jobs) / statistics.median(each[elapsed] for each in theirs), 2),
        "ratio": ratio(theirs, ours, elapsed),
        "cpu_ratio": ratio(theirs, ours, cpu),
        "ratio_without_losses": ratio(theirs, short, elapsed),
        "equal_answers": round(equal, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=positive, default=32, help="rows of each kind")
    parser.add_argument("--batch-size", type=positive, default=8)
    parser.add_argument("--max-new-tokens", type=positive, default=32)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--threads", type=positive, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary:
        checkpoint, native = build_checkpoint(Path(temporary))
        model, processor = load_checkpoint(checkpoint, device="cpu")
        options = {"batch_size": arguments.batch_size, "max_new_tokens": arguments.max_new_tokens}
        answerer = Answerer(model, processor, **options)
        peer = SmolVLMForConditionalGeneration.from_pretrained(native).eval()
        image_processor = Idefics3ImageProcessorPil(
            size={"longest_edge": LONGEST_EDGE}, max_image_size={"longest_edge": TILE}
        )
        peer_processor = Idefics3Processor(
            image_processor,
            build_tiny_tokenizer([" ".join(WORDS), "User: Assistant: \n\n"] * 3),
            image_seq_len=model.config.image_seq_len,
            chat_template=DEFAULT_CHAT_TEMPLATE,
        )
        peer_processor.tokenizer.padding_side = "left"
        figures = {
            kind: compare(
                answerer,
                lambda jobs: plain_loop(peer, peer_processor, jobs, **options),
                build_rows(Path(temporary), kind, arguments.samples),
                arguments.rounds,
            )
            for kind in KINDS
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
