"""From encoded pictures to a batch: smol_hf's engine beside transformers' SmolVLM processor and TRL's collator.

    python benchmarks/data_pipeline.py [--samples 24] [--rounds 3] [--batch-size 4]

Every side gets the same JPEGs (512 to 2,048 pixels) and questions, and makes the same tokens: tokenise, decode, tile
(tiles of 512 pixels, longest edge 2,048), stack. One thread each, in one process, side by side in each round.

    peer        Idefics3Processor with transformers' Pillow image processor (SmolVLM's path without torchvision), in
                TRL's DataCollatorForVisionLanguageModeling: float32 tiles
    exact       ours, with the same arithmetic: uint8 tiles, equal to the peer's after normalisation
    fast        ours, one resize from a scaled decode
    native      ours, exact, without enlarging pictures beyond their own pixels; native_fast: the same, fast

The exact path is also measured in one and in two data workers of a run, by the time that passes.

The last line is JSON: samples/s of each side, the ratios to the peer, two workers over one, the bytes that reach the
model, and how far the pixels of `fast` are from those of `exact`.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from options import positive
from PIL import Image, ImageDraw
from transformers import Idefics3Processor
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from smol_hf.data.collator import SmolCollator
from smol_hf.data.conversation import Conversation, ImagePart, Message, TextPart
from smol_hf.data.mixture.mixture import open_mixture
from smol_hf.data.stream.preparation import SampleWork
from smol_hf.data.stream.stream import Plan, RowStream
from smol_hf.processing.processing_smol_hf import SmolHFProcessor
from smol_hf.text.tiny_tokenizer import build_tiny_tokenizer

TILE_SIZE, LONGEST_EDGE, IMAGE_SEQ_LEN = 512, 2048, 64
MEAN = STD = 0.5
ASPECTS = [1, 5 / 4, 4 / 3, 4 / 3, 3 / 2, 3 / 2, 16 / 9]
WORDS = "what does this picture show of the some any small red blue page with lines and dots in a row".split()


def picture(random: np.random.Generator, longest: float) -> bytes:
    """A JPEG with smooth areas, edges and fine detail, as photographs of pages have."""
    sides = [round(longest), max(round(longest / random.choice(ASPECTS)), 512)]
    width, height = random.permutation(sides).tolist()
    coarse = random.integers(0, 256, (height // 64 + 2, width // 64 + 2, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(60):
        corner = random.integers(0, (width, height))
        ink = tuple(int(value) for value in random.integers(0, 256, 3))
        draw.rectangle(
            (*corner, *(corner + random.integers(4, 200, 2))), outline=ink, width=int(random.integers(1, 6))
        )
        draw.text(tuple(int(value) for value in corner), " ".join(random.choice(WORDS, 6)), fill=ink)
    noisy = np.asarray(image) + random.normal(0, 4, (height, width, 1))
    stream = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def build_samples(number: int) -> list[tuple[bytes, str, str]]:
    random = np.random.default_rng(0)
    sizes = random.permutation(512 * 4 ** ((np.arange(number) + 0.5) / number))  # half of them up to 1,024 pixels
    return [
        (
            picture(random, longest),
            *(" ".join(random.choice(WORDS, int(random.integers(4, most)))) for most in (16, 120)),
        )
        for longest in sizes
    ]


def build_processors():
    tokenizer = build_tiny_tokenizer([" ".join(WORDS), "User: Assistant: \n\n"] * 3)
    options = {"tile_size": TILE_SIZE, "longest_edge": LONGEST_EDGE, "image_seq_len": IMAGE_SEQ_LEN}
    ours = SmolHFProcessor(tokenizer, **options)
    native = SmolHFProcessor(tokenizer, **options, enlarge_images=False)
    image_processor = Idefics3ImageProcessorPil(
        size={"longest_edge": LONGEST_EDGE},
        max_image_size={"longest_edge": TILE_SIZE},
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
    )
    theirs = Idefics3Processor(
        image_processor, tokenizer, image_seq_len=IMAGE_SEQ_LEN, chat_template=ours.chat_template
    )
    return ours, native, theirs


def peer_side(processor):
    collator = DataCollatorForVisionLanguageModeling(processor, assistant_only_loss=True)

    def batch_of(samples):
        return collator(
            [
                {
                    "images": [Image.open(io.BytesIO(jpeg))],
                    "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
                }
                for jpeg, question, answer in samples
            ]
        )

    return batch_of


def our_side(processor, image_resizing: str):
    work = SampleWork(processor, 8192, [None], image_resizing=image_resizing)
    collator = SmolCollator(processor)

    def batch_of(samples):
        return collator(
            [
                work.encode(0, work.prepare(0, "sample", conversation(jpeg, question, answer)))
                for jpeg, question, answer in samples
            ]
        )

    return batch_of


def conversation(jpeg: bytes, question: str, answer: str) -> Conversation:
    asked = Message("user", (ImagePart(content=jpeg), TextPart(question)))
    return Conversation("sample", (asked, Message("assistant", (TextPart(answer),))))


def workers_ratio(processor, samples, rounds: int) -> float:
    """Rows per second of two data workers over those of one."""
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for number, (jpeg, question, answer) in enumerate(samples):
            Path(folder, f"{number}.jpg").write_bytes(jpeg)
            rows.append(json.dumps({"image": f"{number}.jpg", "question": question, "answer": answer}) + "\n")
        path = Path(folder, "rows.jsonl")
        path.write_text("".join(rows), encoding="utf-8")
        data = open_mixture([{"data": str(path)}], "quota")
        seconds = {1: float("inf"), 2: float("inf")}
        for _ in range(rounds):
            for workers in seconds:
                plan = Plan(data.sources, [1.0], SampleWork(processor, 8192, data.readers), 8192, lanes=2)
                stream = iter(RowStream(plan, workers=workers))
                next(stream)  # the workers have started
                started = time.perf_counter()
                for _ in samples:
                    next(stream)
                seconds[workers] = min(seconds[workers], time.perf_counter() - started)
                del stream
    return seconds[1] / seconds[2]


def compare(sides, samples) -> dict[str, float]:
    """Check that the sides make the same; how far `fast` is from `exact` in pixels of 0 to 255."""
    peer, exact, fast = (sides[name](samples) for name in ("peer", "exact", "fast"))
    kept = peer["attention_mask"].bool()
    assert torch.equal(peer["input_ids"][kept], exact["input_ids"][exact["attention_mask"].bool()])
    assert torch.equal(peer["labels"][kept], exact["labels"][exact["attention_mask"].bool()])
    tiles = peer["pixel_values"][peer["pixel_attention_mask"].flatten(2).any(-1)]
    normalised = (exact["pixel_values"].float() / 255 - MEAN) / STD
    assert tiles.shape == normalised.shape, f"{tiles.shape} and {normalised.shape}"
    difference = (exact["pixel_values"].float() - fast["pixel_values"].float()).abs()
    return {
        "exact_most_difference_normalised": float((tiles - normalised).abs().max()),
        "fast_mean_difference": round(float(difference.mean()), 3),
        "fast_psnr": round(float(10 * torch.log10(255**2 / difference.square().mean())), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=positive, default=24)
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--batch-size", type=positive, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ours, native, theirs = build_processors()
    sides = {
        "peer": peer_side(theirs),
        "exact": our_side(ours, "exact"),
        "fast": our_side(ours, "fast"),
        "native": our_side(native, "exact"),
        "native_fast": our_side(native, "fast"),
    }
    samples = build_samples(arguments.samples)
    batches = [samples[start : start + arguments.batch_size] for start in range(0, len(samples), arguments.batch_size)]
    difference = compare(sides, batches[0])
    seconds, image_bytes = dict.fromkeys(sides, float("inf")), {}
    for _ in range(arguments.rounds):
        for name, side in sides.items():
            started, handed = time.process_time(), 0
            for batch in batches:
                handed += side(batch)["pixel_values"].nbytes
            seconds[name] = min(seconds[name], time.process_time() - started)
            image_bytes[name] = handed
    rates = {name: len(samples) / value for name, value in seconds.items()}
    for name, rate in rates.items():
        megabytes = image_bytes[name] / len(samples) / 1e6
        print(
            f"{name:12} {rate:7.1f} samples/s per core  {rate / rates['peer']:5.2f}×  {megabytes:6.1f} MB per sample"
        )
    figures = {
        "ratio_exact": round(rates["exact"] / rates["peer"], 2),
        "ratio_fast": round(rates["fast"] / rates["peer"], 2),
        "ratio_native": round(rates["native"] / rates["peer"], 2),
        "ratio_native_fast": round(rates["native_fast"] / rates["peer"], 2),
        "ratio_two_workers": round(workers_ratio(ours, samples, arguments.rounds), 2),
        "bytes_ratio": round(image_bytes["exact"] / image_bytes["peer"], 4),
        "bytes_ratio_native": round(image_bytes["native"] / image_bytes["peer"], 4),
        "samples_per_second": {name: round(rate, 2) for name, rate in rates.items()},
        **difference,
        "samples": len(samples),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
