"""The command estimate: its options and what it prints."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from smol_hf.commands.conversion import parameter_table
from smol_hf.commands.parser import Command, options_of
from smol_hf.support.formatting import counted

if TYPE_CHECKING:
    from rich.table import Table

STEP = ("batch_size", "length", "tiles", "labelled", "dtype", "optimizer", "gradient_checkpointing")
LORA = ("lora_r", "lora_parts", "use_dora", "load_in_4bit", "load_in_8bit")


def add_estimate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("target", help="preset, recipe (.yaml or a shipped name), or folder of a checkpoint or language model")
    add("--batch-size", type=int, help="rows per step (default: the recipe's, or 1)")
    add("--length", type=int, help="tokens per row (default: the recipe's, or 1024)")
    add("--tiles", type=int, help="image tiles per step (default: one per row)")
    add("--labelled", type=int, help="tokens per row that have labels (default: all text tokens)")
    add("--dtype", help="data type of the weights: float32, bfloat16 or float16")
    add("--optimizer", default="adamw", help="optimizer: adamw (default), muon or sgd")
    add("--gradient-checkpointing", action=argparse.BooleanOptionalAction, help="trade speed for memory")
    add("--lora-r", type=int, help="train LoRA adapters of this rank instead of all weights")
    add("--lora-parts", nargs="+", help="parts with adapters: vision, connector, text (default text)")
    add("--use-dora", action="store_true", help="use DoRA instead of LoRA")
    add("--load-in-4bit", action="store_true", help="QLoRA: load the language model in 4 bits")
    add("--load-in-8bit", action="store_true", help="QLoRA: load the language model in 8 bits")
    add("--shards", type=int, default=1, help="processes that share weights and optimizer (FSDP)")
    add("--tflops", type=float, help="achieved TFLOP/s of the machine, to estimate the time of a step")
    add("--measure", action="store_true", help="also run two real steps on this machine's CPU")
    add("--apple", action="store_true", help="memory of inference and training with MLX, by bits of the weights")


def run_estimate(arguments: argparse.Namespace) -> dict:
    if arguments.apple:
        return estimate_apple(arguments)
    from smol_hf.estimate.estimate import estimate, measure

    step = {**options_of(arguments, *STEP), "lora": lora_keys(arguments)}
    facts = estimate(arguments.target, **step, shards=arguments.shards, tflops=arguments.tflops)
    if arguments.measure:
        facts["measured"] = measure({"name": arguments.target, **step})
    return facts


def estimate_apple(arguments: argparse.Namespace) -> dict:
    from smol_hf.estimate.apple import apple_memory

    for name in (*STEP[3:], *LORA, "shards", "tflops", "measure"):
        if getattr(arguments, name) not in (None, False, {"shards": 1, "optimizer": "adamw"}.get(name)):
            raise ValueError(f"--{name.replace('_', '-')} has no effect with --apple: leave it out")
    return apple_memory(arguments.target, **options_of(arguments, *STEP[:3]))


def lora_keys(arguments: argparse.Namespace) -> dict | None:
    given = {name: value for name, value in options_of(arguments, *LORA).items() if value not in (None, False)}
    if given and arguments.lora_r is None:
        raise ValueError(f"--{next(iter(given)).replace('_', '-')} needs --lora-r, the rank of the adapters")
    if (arguments.load_in_4bit or arguments.load_in_8bit) and arguments.measure:
        raise ValueError("--measure does not support --load-in-4bit and --load-in-8bit: leave it out")
    return given or None


def describe_estimate(facts: dict) -> Iterator[str | Table]:
    if "cache" in facts:
        from smol_hf.estimate.apple import lines_of

        yield from lines_of(facts)
        return
    yield parameter_table({**facts["parameters_per_part"], "total": facts["parameters"]})
    step, cost, memory = facts["step"], facts["flops"], facts["memory"]
    tiles = counted(step["tiles"], "tile")
    yield f"a step of {step['rows']} × {step['length']} tokens and {tiles}, forward + backward:"
    per_tile = f", {cost['per_tile'] / 1e9:.4g} per tile" if "per_tile" in cost else ""
    yield f"  {cost['per_step'] / 1e9:,.1f} GFLOP, {cost['per_token'] / 1e9:.3g} per token{per_tile}"
    if "seconds_per_step" in facts:
        yield f"  {facts['seconds_per_step']:.3g} s"
    yield "  memory: " + ", ".join(f"{name} {size / 1e6:,.0f} MB" for name, size in memory.items())
    if "measured" in facts:
        peak, seconds = facts["measured"]["peak"], facts["measured"]["seconds_per_step"]
        yield f"  measured here: peak {peak / 1e6:,.0f} MB, {seconds:.3g} s"
    for size, image in facts.get("images", {}).items():
        yield f"  an image of {size}: {counted(image['tiles'], 'tile')}, {counted(image['tokens'], 'token')}"
    if "enlarged_to" in facts:
        yield f"  a smaller image is enlarged first, to a longer side of {facts['enlarged_to']:,} pixels"


ESTIMATE = Command(
    "estimate the size of a model and the cost of a training step",
    "smol-hf estimate smolvlm2-256m --batch-size 2 --dtype bfloat16 --tflops 100\n"
    "  smol-hf estimate smolvlm2-256m --length 2048 --apple",
    add_estimate,
    run_estimate,
    describe_estimate,
)
