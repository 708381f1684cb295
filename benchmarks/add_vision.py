"""Add vision in two stages to a language model that knew only text, and measure what it gained and lost.

    python benchmarks/add_vision.py
    python benchmarks/add_vision.py --text out/ckpt.pt --text-data data/shakespeare_char/input.txt
    python benchmarks/add_vision.py --text model.gguf --text-data my.txt --vision runs/digits

Without `--text`, a tiny model is pretrained on generated stories. Without `--vision`, an image encoder is trained on
pages of handwritten digits. `smol-hf compose` joins them. Stage 1 trains the connector on captions. Stage 2 trains all
parts on questions about digits, and on plain text in the share `--text-share` of the rows, so that the model keeps its
language. `--vision-rate 0` keeps the encoder frozen.

It measures the share of right answers about digits that were never seen in training, the same without the image, and
the loss of held-out plain text before and after. The JSON line at the end tells if the targets were reached.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

import torch
from options import positive

from smol_hf.auto import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer
from smol_hf.commands.main import main as smol_hf
from smol_hf.data.digits import build_pages
from smol_hf.support.tokenizer_of import unknown_texts
from smol_hf.text.documents.token_cache import Tokens

TARGETS = {"digits": 0.9, "blind": 0.3, "text_loss_change": 0.05}
NAMES = "Ann Ben Cleo Dan Eve Finn Gus Hana".split()
COLOURS = "red blue green yellow white black".split()
THINGS = "balls cups hats books kites drums boats coats lamps coins".split()
HELD_OUT = 100  # texts


def run(*words) -> None:
    """Run a command of smol-hf."""
    words = [str(word) for word in words]
    print(f"\n$ smol-hf {' '.join(words)}", flush=True)
    if smol_hf(words):
        raise SystemExit(f"smol-hf {words[0]} failed")


def write_story(source: random.Random) -> str:
    giver, taker = source.sample(NAMES, 2)
    number, colour, thing = source.randint(2, 99), source.choice(COLOURS), source.choice(THINGS)
    return f"{giver} has {number} {colour} {thing}. {giver} gives the {thing} to {taker}. Now {taker} has {number}."


def stories(number: int) -> list[str]:
    source = random.Random(0)
    return sorted({write_story(source) for _ in range(number)}, key=hash_of)


def hash_of(text: str) -> float:
    return random.Random(text).random()


def pieces(path: Path, number: int, length: int = 200) -> list[str]:
    """Different pieces of a text file, in random order."""
    text = path.read_text(encoding="utf-8")
    starts = range(0, max(len(text) - length, 1), length)
    return [text[start : start + length] for start in random.Random(0).sample(starts, min(number, len(starts)))]


def write_lines(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def pages(folder: Path, split: str, number: int) -> list[dict]:
    """Write the images of pages, and return their questions."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for page in build_pages(5 * number, seed=1, split=split):  # a fifth asks for a digit
        if page.kind == "digit" and len(records) < number:
            path = folder / f"{split}{len(records):06d}.png"
            path.write_bytes(page.conversation.images[0].content or b"")
            caption = f"The digit {page.answer}."
            records.append({"image": str(path), "prompt": page.question, "expected": page.answer, "caption": caption})
    return records


def language_model(arguments, folder: Path) -> tuple[Path, list[str], list[str]]:
    """The folder of the language model, texts for training, and held-out ones."""
    if arguments.text is None:
        texts = stories(arguments.texts + HELD_OUT)
        (folder / "stories.txt").write_text("\n".join(texts[HELD_OUT:]), encoding="utf-8")
        tokenizer = ("tokenizer", "train", folder / "stories.txt", "--document-separator", "\\n", "--vocab-size", 512)
        run(*tokenizer, "--output", folder / "tokenizer")
        run(
            *("pretrain", "--data", folder / "stories.txt", "--document-separator", "\\n", "--preset", "tiny-text"),
            *("--tokenizer", folder / "tokenizer", "--context-length", 128, "--batch-size", 16),
            *("--steps", arguments.pretrain_steps, "--learning-rate", 5e-3, "--output", folder / "language"),
            *("--eval_strategy", "no", "--num_checkpoints", "null", "--save_strategy", "no"),
        )
        return folder / "language" / "checkpoint", texts[HELD_OUT:], texts[:HELD_OUT]
    if arguments.text_data is None:
        raise SystemExit("--text needs --text-data: a file with text that the language model knows")
    texts = pieces(arguments.text_data, arguments.texts + HELD_OUT)
    held_out = min(HELD_OUT, len(texts) // 5)
    if not held_out:
        raise SystemExit(f"{arguments.text_data} is too short to hold a part of it out")
    place = arguments.text
    if place.is_file():
        run("convert", place, folder / "language")
        place = folder / "language"
    return place, texts[held_out:], texts[:held_out]


@torch.no_grad()
def text_loss(model, tokenizer, texts: list[str]) -> float:
    """The mean loss per token of plain texts, without the token that ends each."""
    encoder, total, number = Tokens(tokenizer), 0.0, 0
    for text in texts:
        tokens = encoder.encode(text)
        ids = torch.tensor([[encoder.begin, *tokens]])
        total += model(input_ids=ids, labels=ids).loss.item() * len(tokens)
        number += len(tokens)
    return total / number


def score(checkpoint: Path, questions: list[dict], folder: Path) -> float:
    """The share of right answers."""
    asked = write_lines(folder / "asked.jsonl", questions)
    output = folder / "answers.jsonl"
    run("generate", checkpoint, "--prompts-file", asked, "--max-new-tokens", 8, "--output", output)
    found = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    output.unlink()
    return sum(each["text"].strip() == each["expected"] for each in found) / len(found)


def image_encoder(arguments, folder: Path) -> Path:
    """The checkpoint with the image encoder."""
    vision = arguments.vision
    if vision is None:
        vision = folder / "encoder"
        words = ("--max_steps", arguments.encoder_steps, "--output_dir", vision, "--save_strategy", "no")
        words += ("--page_size", 32, "--longest_edge", 32)  # pages as small as those of `pages`, each one tile
        run("train", "--config", "quickstart/digits", *words)
    return vision / "checkpoint" if (vision / "checkpoint").is_dir() else vision


def compose(text: Path, vision: Path, questions: list[dict], folder: Path) -> None:
    """Join the parts, with tokens for the characters of questions and answers that the tokenizer lacks."""
    tokenizer = AutoTokenizer.from_pretrained(text)
    lacking = {each for one in questions for each in unknown_texts(tokenizer, one["prompt"] + one["caption"])}
    more = ["--add-characters", "".join(sorted(lacking))] if lacking else []
    tiles = ("--longest-edge", 32, "--scale-factor", 2)
    run("compose", folder / "vlm", "--vision", vision, "--text", text, *tiles, *more)


def common_words(arguments) -> list:
    """Options of both stages."""
    words = ["--per_device_train_batch_size", arguments.batch_size, "--warmup_steps", 0.1, "--logging_steps", 50]
    words += ["--lr_scheduler_type", "cosine_with_min_lr", "--lr_scheduler_kwargs", '{"min_lr_rate": 0.1}']
    words += ["--seed", 0, "--save_strategy", "no"]
    return [*words, "--on_bad_sample", "skip"]


def train_connector(arguments, questions: list[dict], folder: Path) -> None:
    """Stage 1."""
    captions = [{"image": each["image"], "caption": each["caption"]} for each in questions]
    run(
        *("train", "--model", folder / "vlm", "--data", write_lines(folder / "captions.jsonl", captions)),
        *("--text_learning_rate", 0, "--vision_learning_rate", 0, "--max_steps", arguments.connector_steps),
        *("--connector_learning_rate", arguments.connector_rate),
        *("--output_dir", folder / "connector", *common_words(arguments)),
    )


def chat(question: str, answer: str) -> list[dict]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def train_all(arguments, questions: list[dict], texts: list[str], share: float, folder: Path) -> Path:
    """Stage 2 with this share of text rows. Returns the checkpoint."""
    records = {
        "digits": [
            {"image": each["image"], "conversations": chat(f"<image>\n{each['prompt']}", each["expected"])}
            for each in questions
        ],
        "text": [{"text": each} for each in texts],
    }
    rows = {"digits": 1 - share, "text": share}
    passes = {name: rows[name] / len(records[name]) for name in rows if rows[name]}  # a weight counts passes
    mixture = [
        {
            "data": str(write_lines(folder / f"{name}.jsonl", records[name])),
            "name": name,
            "weight": passes[name] / max(passes.values()),
        }
        for name in passes
    ]
    output = folder / f"both-{share:g}"
    rate = arguments.connector_rate if arguments.both_connector_rate is None else arguments.both_connector_rate
    run(
        *("train", "--model", folder / "connector" / "checkpoint", "--mixture", json.dumps(mixture)),
        *("--text_learning_rate", arguments.text_rate, "--vision_learning_rate", arguments.vision_rate),
        *("--connector_learning_rate", rate),
        *("--max_steps", arguments.both_steps, "--output_dir", output, *common_words(arguments)),
    )
    return output / "checkpoint"


def measure(checkpoint: Path, questions: list[dict], texts: list[str], before: float, folder: Path) -> dict:
    """The figures of a finished model."""
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).eval()
    after = text_loss(model, AutoTokenizer.from_pretrained(checkpoint), texts)
    seen = [{name: each[name] for name in ("image", "prompt", "expected")} for each in questions]
    blind = [{name: each[name] for name in ("prompt", "expected")} for each in questions]
    return {
        "digits": score(checkpoint, seen, folder),
        "blind": score(checkpoint, blind, folder),
        "text_loss_before": round(before, 4),
        "text_loss_after": round(after, 4),
        "text_loss_change": round(after / before - 1, 4),
    }


def add_vision(arguments, folder: Path) -> dict:
    started = time.monotonic()
    text, texts, held_out = language_model(arguments, folder)
    vision = image_encoder(arguments, folder)
    train, test = pages(folder / "images", "train", arguments.pages), pages(folder / "images", "test", arguments.asked)
    compose(text, vision, train, folder)
    model = AutoModelForCausalLM.from_pretrained(text, dtype=torch.float32).eval()
    before = text_loss(model, AutoTokenizer.from_pretrained(text), held_out)
    train_connector(arguments, train, folder)
    results = []
    for share in arguments.text_share:
        checkpoint = train_all(arguments, train, texts, share, folder)
        results.append({"text_share": share, **measure(checkpoint, test, held_out, before, folder)})
        print(results[-1], flush=True)
    last = results[-1]
    reached = (
        last["digits"] >= TARGETS["digits"]
        and last["blind"] <= TARGETS["blind"]
        and last["text_loss_change"] <= TARGETS["text_loss_change"]
    )
    seconds = round(time.monotonic() - started, 1)
    return {**last, "other_shares": results[:-1], "targets": TARGETS, "reached": reached, "seconds": seconds}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--text", type=Path, help="language model: a folder, a .pt file of nanoGPT, or a .gguf file")
    add("--text-data", type=Path, help="file with text that the model of --text knows")
    add("--vision", type=Path, help="run or checkpoint with an image encoder, such as runs/digits")
    add("--text-share", type=float, nargs="+", default=[0.2], help="text rows of stage 2; each share is tried")
    add("--texts", type=positive, default=2000, help="texts to train on")
    add("--pages", type=positive, default=6000, help="pages of digits to train on")
    add("--asked", type=positive, default=300, help="held-out questions")
    add("--pretrain-steps", type=positive, default=300)
    add("--encoder-steps", type=positive, default=2800)
    add("--connector-steps", type=positive, default=200)
    add("--both-steps", type=positive, default=2000)
    add("--batch-size", type=positive, default=32)
    add("--connector-rate", type=float, default=2e-3)
    add("--both-connector-rate", type=float, help="of the connector in stage 2; by default that of stage 1")
    add("--vision-rate", type=float, default=5e-4)
    add("--text-rate", type=float, default=1e-3, help="for a large model far lower, such as 1e-4")
    add("--output", type=Path, help="folder to keep; by default a temporary one")
    arguments = parser.parse_args(words)
    if arguments.output is not None:
        arguments.output.mkdir(parents=True)
        result = add_vision(arguments, arguments.output)
    else:
        with tempfile.TemporaryDirectory() as folder:
            result = add_vision(arguments, Path(folder))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
