"""The commands generate and chat: their options and output."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from smol_hf.commands.parser import Command, options_of
from smol_hf.support.atomic import atomic_file
from smol_hf.support.formatting import counted

SAMPLING = (
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens", "seed", "stop", "cache"
)  # fmt: skip


def add_generate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", help="folder or Hub id of a vision-language or text-only checkpoint")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompt", help="one prompt; the answer is printed as it is generated; '' begins a new text")
    file_help = 'a prompt per line, or .jsonl: {"prompt": …, "images": …, "videos": …}'
    what.add_argument("--prompts-file", metavar="FILE", help=file_help)
    add_media(parser)
    chat_help = "treat a prompt as a chat turn, or as text to continue (default: a turn if there is a chat template)"
    add("--chat", action=argparse.BooleanOptionalAction, help=chat_help)
    add("--batch-size", type=int, default=8, help="prompts per batch (default 8); answers stay the same")
    add("--output", metavar="FILE.jsonl", help="write the answers to this file, one JSON line each")
    add("--json", action="store_true", help="print one JSON line per answer")
    add_sampling(parser)


def add_chat(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="folder or Hub id of a checkpoint")
    add_media(parser)
    parser.add_argument("--prompt", help="one question (default: read questions and commands from the terminal)")
    parser.add_argument("--stats", action="store_true", help="print tokens and tokens/s of each answer on stderr")
    add_sampling(parser)


def add_media(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", action="append", default=[], metavar="FILE", help="image file; repeatable")
    video_help = "video file, or a folder of frames; repeatable; needs PyAV"
    parser.add_argument("--video", action="append", default=[], metavar="FILE", help=video_help)


def add_sampling(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--temperature", type=float, default=0.0, help="0 (default) is greedy; higher is more varied")
    add("--top-k", type=int, help="sample from the K most likely tokens")
    add("--top-p", type=float, help="sample from the most likely tokens with this total probability")
    add("--min-p", type=float, help="drop tokens below this share of the highest probability")
    add("--repetition-penalty", type=float, help="above 1, repeated tokens become less likely")
    add("--max-new-tokens", type=int, help="maximum tokens of an answer (default 256, or to the context's end)")
    add("--seed", type=int, help="seed of sampling; the batch size does not change the answers")
    add("--stop", action="append", default=[], metavar="STRING", help="text that ends an answer; repeatable")
    add("--cache", default="dynamic", help="key-value cache: dynamic (default), static (compiled) or none")
    add("--device", help="cpu, cuda, cuda:1, mps … (default: the GPU, if any)")
    types = ("auto", "float32", "bfloat16", "float16")
    type_help = "data type of the weights in memory (default auto: the saved type)"
    add("--dtype", choices=types, default="auto", help=type_help)
    add("--trust-remote-code", action="store_true", help="run code that comes with the checkpoint")


def load(arguments: argparse.Namespace):
    from transformers.utils import logging as transformers_logging

    from smol_hf.inference.answering import load_checkpoint

    transformers_logging.disable_progress_bar()
    return load_checkpoint(arguments.checkpoint, **options_of(arguments, "trust_remote_code", "device", "dtype"))


def run_generate(arguments: argparse.Namespace) -> None:
    from smol_hf.inference.media import refuse_text_only
    from smol_hf.inference.prompts import Prompt, read_prompts, with_media
    from smol_hf.inference.run import Generator
    from smol_hf.inference.sampling import Sampling

    sampling = Sampling(**options_of(arguments, *SAMPLING))  # checked before a model is loaded
    if arguments.batch_size < 1:
        raise ValueError(f"batch_size is {arguments.batch_size}: it must be at least 1")
    if arguments.prompt is not None:
        prompts = [Prompt(arguments.prompt, keys={"prompt": arguments.prompt})]
    else:
        prompts = read_prompts(arguments.prompts_file)
    prompts = with_media(prompts, arguments.image, arguments.video)
    with output_file(arguments.output) as output:
        model, processor = load(arguments)
        for prompt in prompts:
            refuse_text_only(processor, [*prompt.images, *prompt.videos], prompt.where)
        generator = Generator(model, processor, sampling, arguments.chat)
        write_notes(prompts, processor)
        if arguments.prompt is not None and not (arguments.json or arguments.output):
            answers = [write_stream(generator.stream(prompts[0]))]
        else:
            answers = []
            for prompt, answer in zip(prompts, generator.answers(prompts, arguments.batch_size)):
                answers.append(answer)
                line = json_line(prompt, answer)
                if output is not None:
                    output.write(line)
                if arguments.json:
                    sys.stdout.write(line)
                elif output is None:
                    sys.stdout.write(f"> {prompt.text}\n{answer.text}{empty(answer.text)}\n\n")
                sys.stdout.flush()
    sys.stderr.write(statistics(answers))


def write_notes(prompts, processor) -> None:
    """Say on stderr what has no effect in these prompts. A language model has no markers of images."""
    from smol_hf.inference.prompts import notes_about
    from smol_hf.support.tokenizer_of import is_language_model

    for note in notes_about(prompts):
        if not (note.startswith("<") and is_language_model(processor)):
            sys.stderr.write(f"note: {note}\n")


def empty(text: str) -> str:
    """Return a remark about an answer without a visible character on a terminal."""
    visible = any(character.isprintable() and not character.isspace() for character in text)
    return "" if visible or not sys.stdout.isatty() else "(empty answer)"


def json_line(prompt, answer) -> str:
    facts = {
        **prompt.keys,
        "text": answer.text,
        "tokens": answer.tokens,
        "tokens_per_second": round(answer.tokens_per_second, 2),
        "finish_reason": answer.finish_reason,
    }
    return json.dumps(facts, ensure_ascii=False) + "\n"


@contextmanager
def output_file(name: str | None) -> Iterator:
    """Open a file that appears under its name when it is complete. Yields None without a name."""
    if name is None:
        yield None
        return
    path = Path(name)
    if path.is_dir() or not path.parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: it is a folder, or its folder does not exist")
    with atomic_file(path) as incomplete, incomplete.open("w", encoding="utf-8") as file:
        yield file


def run_chat(arguments: argparse.Namespace) -> None:
    from smol_hf.inference.chat import ENDING, Chat
    from smol_hf.inference.sampling import Sampling

    sampling = options_of(arguments, *SAMPLING)
    Sampling(**sampling)  # checked before a model is loaded
    chat = Chat(*load(arguments), arguments.image, arguments.video, **sampling)
    if arguments.prompt is not None:
        print_answer(chat, arguments.prompt, arguments.stats)
        return
    if sys.stdin.isatty():
        sys.stderr.write(f"/help lists the commands. {ENDING}\n")
    for line in lines_from_terminal():
        try:
            if (done := chat.obey(line)) is not None:
                sys.stderr.write(f"{done}\n")
            else:
                print_answer(chat, line, arguments.stats)
        except ValueError as error:  # the line does not change the conversation
            if not sys.stdin.isatty():
                raise
            sys.stderr.write(f"error: {error}\n")


def print_answer(chat, question: str, stats: bool) -> None:
    from smol_hf.inference.prompts import Prompt

    write_notes([Prompt(question)], chat.processor)
    write_stream(chat.say(question))
    if stats:
        sys.stderr.write(statistics([chat.last]))


def lines_from_terminal() -> Iterator[str]:
    """Read lines until an empty one or the end of the input."""
    with suppress(EOFError):
        yield from iter(lambda: input("> ").strip(), "")


def write_stream(pieces):
    """Print pieces of text as a generator yields them. Return its value."""
    written = ""
    while True:
        try:
            piece = next(pieces)
        except StopIteration as stopped:
            sys.stdout.write(f"{empty(written)}\n")
            return stopped.value
        written += piece
        sys.stdout.write(piece)
        sys.stdout.flush()


def statistics(answers: list) -> str:
    """Format a line such as `37 new tokens in 0.41 s, 90.2 tokens/s (1 end, 2 length)`."""
    tokens = sum(answer.tokens for answer in answers)
    seconds = sum(answer.seconds / answer.batch_rows for answer in answers)
    reasons = [answer.finish_reason for answer in answers]
    ends = ", ".join(f"{reasons.count(reason)} {reason}" for reason in sorted(set(reasons)))
    return f"{counted(tokens, 'new token')} in {seconds:.2f} s, {tokens / seconds:.1f} tokens/s ({ends})\n"


GENERATION_COMMANDS = {
    "chat": Command(
        "chat with a checkpoint, also about images and videos",
        'smol-hf chat runs/demo/checkpoint --image page.png --prompt "Which digit is written here?"',
        add_chat,
        run_chat,
    ),
    "generate": Command(
        "continue a text, or answer one prompt or a file of prompts",
        'smol-hf generate runs/my-model/checkpoint --prompt "Once upon a time" --temperature 0.8 --seed 1\n'
        "  smol-hf generate runs/demo/checkpoint --image page.png --prompts-file questions.txt --output answers.jsonl",
        add_generate,
        run_generate,
    ),
}
