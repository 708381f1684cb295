"""The commands convert, compose, merge, check and estimate: their options and what they print."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from smol_hf.commands.parser import Command

if TYPE_CHECKING:
    from rich.console import Console


def add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="checkpoint: a folder, a .pt file or a Hub id")
    parser.add_argument("output", help="folder to write; must be empty or missing")
    parser.add_argument("--to", help="target of a smol_hf checkpoint: native (default), smolvlm, llama, smollm3, gpt2")
    add_hub_arguments(parser)
    parser.add_argument(
        "--refresh-code",
        action="store_true",
        help="copy a smol_hf checkpoint or adapter with the model code of this release; the weights stay the same",
    )
    parser.add_argument("--tokenizer", help="folder or Hub id of a tokenizer to save with the weights")
    parser.add_argument("--num-attention-heads", type=int, help="attention heads of a plain .pt file")
    parser.add_argument("--rope-theta", type=float, help="RoPE base of a plain Llama-style .pt file (default 10000)")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of tables")


def add_compose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", help="folder to write; must be empty or missing")
    parser.add_argument(
        "--vision",
        required=True,
        help="image encoder: folder or Hub id of SigLIP, SigLIP2, CLIP, DINOv2 or a smol_hf checkpoint",
    )
    parser.add_argument("--text", required=True, help="language model: folder or Hub id of a causal model")
    parser.add_argument("--connector", default="pixel_shuffle", help="pixel_shuffle (default), linear or mlp")
    parser.add_argument("--scale-factor", type=int, help="pixel_shuffle joins N × N patches to a token", metavar="N")
    parser.add_argument("--longest-edge", type=int, help="longer side of an image after resizing, in pixels")
    parser.add_argument("--vision-feature-layer", type=int, help="encoder layer of the features (default -1; CLIP -2)")
    parser.add_argument(
        "--keep-text-class", action="store_true", help="keep transformers' class of the language model"
    )
    parser.add_argument("--extend-context", type=int, help="new number of positions, for example 16384")
    parser.add_argument("--rope-theta", type=float, help="new base of the rotary positions (RoPE), for example 273000")
    parser.add_argument(
        "--chat-template",
        default="keep",
        metavar="{keep,smolvlm,FILE}",
        help="keep: the language model's template with images added (default); smolvlm: SmolVLM's; or a .jinja file",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the new connector's weights (default 0)")
    add_hub_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of tables")


def run_compose(arguments: argparse.Namespace) -> None:
    from smol_hf.conversion.composition.compose import compose

    given = {name: value for name, value in vars(arguments).items() if name not in ("command", "json")}
    finish(compose(**given), arguments.json, print_composition)


def print_composition(console: Console, facts: dict) -> None:
    for shape in facts["shapes"]:
        console.print(f"  {shape}")
    print_parameters(console, facts["parameters"])
    tokens = f"{facts['image_tokens_per_tile']} tokens each"
    console.print(f"{facts['new_tokens']} new tokens, {facts['vocabulary']} rows of embeddings")
    if facts["own_class"]:
        console.print(f"the language model keeps transformers' own class: {facts['own_class']}", soft_wrap=True)
    console.print(
        f"chat: {facts['chat_template']}; answers end with {' or '.join(facts['end_tokens'])}", soft_wrap=True
    )
    console.print(f"images of up to {facts['longest_edge']} pixels in tiles of {facts['tile_size']}, {tokens}")
    console.print(f"written to {facts['output']} in {facts['seconds']} s", soft_wrap=True)


def add_merge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", help="folder or Hub id of a LoRA or DoRA adapter")
    parser.add_argument("output", help="folder to write; must be empty or missing")
    parser.add_argument("--base", help="folder or Hub id of the base (default: the base that the adapter names)")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="dtype of the result (default: the base's)"
    )
    add_hub_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of tables")


def run_merge(arguments: argparse.Namespace) -> None:
    from smol_hf.conversion.merge import merge

    given = {name: value for name, value in vars(arguments).items() if name not in ("command", "json")}
    finish(merge(**given), arguments.json, print_merge)


def print_merge(console: Console, facts: dict) -> None:
    console.print(f"merged {facts['source']} ({facts['adapter']}) into {facts['base']}:", soft_wrap=True)
    print_parameters(console, facts["parameters"])
    console.print(f"written to {facts['output']} in {facts['seconds']} s; the base is unchanged", soft_wrap=True)


def add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="folder of a checkpoint (smol_hf or a native class)")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code in the folder that is not ours")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of tables")


def run_check(arguments: argparse.Namespace) -> None:
    from smol_hf.conversion.checking.check import check

    facts = check(arguments.checkpoint, trust_remote_code=arguments.trust_remote_code)
    finish(facts, arguments.json, print_check)
    if not facts["good"]:
        raise ValueError(f"{arguments.checkpoint} failed the check: see the lines marked ✗")


def print_check(console: Console, facts: dict) -> None:
    from rich.table import Table

    table = Table(title=facts["checkpoint"], title_justify="left", show_header=False)
    for finding in facts["findings"]:
        table.add_row({True: "✓", False: "✗", None: ""}[finding["good"]], finding["name"], finding["value"])
    console.print(table)


def add_estimate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", help="preset, recipe (.yaml), or folder of a checkpoint or language model")
    parser.add_argument("--batch-size", type=int, help="rows per step (default: the recipe's, or 1)")
    parser.add_argument("--length", type=int, help="tokens per row (default: the recipe's, or 1024)")
    parser.add_argument("--tiles", type=int, help="image tiles per step (default: one per row)")
    parser.add_argument("--labelled", type=int, help="tokens per row that have labels (default: all text tokens)")
    parser.add_argument("--dtype", help="data type of the weights: float32, bfloat16 or float16")
    parser.add_argument("--optimizer", default="adamw", help="optimizer: adamw (default) or sgd")
    parser.add_argument(
        "--gradient-checkpointing", action=argparse.BooleanOptionalAction, help="trade speed for memory"
    )
    parser.add_argument("--lora-r", type=int, help="train LoRA adapters of this rank instead of all weights")
    parser.add_argument("--lora-parts", nargs="+", help="parts with adapters: vision, connector, text (default text)")
    parser.add_argument("--use-dora", action="store_true", help="use DoRA instead of LoRA")
    parser.add_argument("--load-in-4bit", action="store_true", help="QLoRA: load the language model in 4 bits")
    parser.add_argument("--load-in-8bit", action="store_true", help="QLoRA: load the language model in 8 bits")
    parser.add_argument("--shards", type=int, default=1, help="processes that share weights and optimizer (FSDP)")
    parser.add_argument("--tflops", type=float, help="achieved TFLOP/s of the machine, to estimate the time of a step")
    parser.add_argument("--measure", action="store_true", help="also run two real steps on this machine's CPU")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of tables")


def run_estimate(arguments: argparse.Namespace) -> None:
    from smol_hf.estimate.estimate import estimate, measure

    step = {
        name: getattr(arguments, name)
        for name in ("batch_size", "length", "tiles", "labelled", "dtype", "optimizer", "gradient_checkpointing")
    }
    step["lora"] = lora_keys(arguments)
    facts = estimate(arguments.target, **step, shards=arguments.shards, tflops=arguments.tflops)
    if arguments.measure:
        facts["measured"] = measure({"name": arguments.target, **step})
    finish(facts, arguments.json, print_estimate)


def lora_keys(arguments: argparse.Namespace) -> dict | None:
    names = ("lora_r", "lora_parts", "use_dora", "load_in_4bit", "load_in_8bit")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) not in (None, False)}
    if given and arguments.lora_r is None:
        raise ValueError(f"--{next(iter(given)).replace('_', '-')} needs --lora-r, the rank of the adapters")
    if (arguments.load_in_4bit or arguments.load_in_8bit) and arguments.measure:
        raise ValueError("--measure does not support --load-in-4bit and --load-in-8bit: leave it out")
    return given or None


def print_estimate(console: Console, facts: dict) -> None:
    print_parameters(console, {**facts["parameters_per_part"], "total": facts["parameters"]})
    step, cost, memory = facts["step"], facts["flops"], facts["memory"]
    console.print(f"a step of {step['rows']} × {step['length']} tokens and {step['tiles']} tiles, forward + backward:")
    console.print(f"  {cost['per_step'] / 1e9:,.1f} GFLOP, {cost['per_token'] / 1e9:.3g} per token", end="")
    console.print(f", {cost['per_tile'] / 1e9:.4g} per tile" if "per_tile" in cost else "")
    if "seconds_per_step" in facts:
        console.print(f"  {facts['seconds_per_step']:.3g} s")
    console.print("  memory: " + ", ".join(f"{name} {size / 1e6:,.0f} MB" for name, size in memory.items()))
    if "measured" in facts:
        peak, seconds = facts["measured"]["peak"], facts["measured"]["seconds_per_step"]
        console.print(f"  measured here: peak {peak / 1e6:,.0f} MB, {seconds:.3g} s")
    for size, image in facts.get("pictures", {}).items():
        console.print(f"  an image of {size}: {image['tiles']} tiles, {image['tokens']} tokens")


def add_hub_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument("--token", help="token for gated or private repositories")
    parser.add_argument("--local-files-only", action="store_true", help="use only the local cache")


def run_convert(arguments: argparse.Namespace) -> None:
    from smol_hf.conversion.convert import convert

    names = (
        "source", "output", "to", "revision", "token", "local_files_only", "tokenizer", "num_attention_heads",
        "rope_theta",
    )  # fmt: skip
    if arguments.refresh_code:
        from smol_hf.conversion.checking.travelling_code import refresh_code

        for name in names[2:]:
            if getattr(arguments, name) not in (None, False):
                raise ValueError(f"--{name.replace('_', '-')} has no effect with --refresh-code: leave it out")
        finish(refresh_code(arguments.source, arguments.output), arguments.json, print_refreshed)
        return
    facts = convert(**{name: getattr(arguments, name) for name in names})
    finish(facts, arguments.json, print_conversion)


def print_refreshed(console: Console, facts: dict) -> None:
    for change in ("renewed", "added", "removed"):
        if facts[change]:
            console.print(f"{change}: {', '.join(facts[change])}", soft_wrap=True)
    if not any(facts[change] for change in ("renewed", "added", "removed")):
        console.print("the code is already that of this release")
    console.print(f"written to {facts['output']} in {facts['seconds']} s", soft_wrap=True)


def print_conversion(console: Console, facts: dict) -> None:
    console.print(f"{facts['source']} → {facts['target']}: {facts['tensors']} tensors in {facts['seconds']} s")
    print_parameters(console, facts["parameters"])
    for note in facts["notes"]:
        console.print(f"note: {note}", soft_wrap=True)
    console.print(f"written to {facts['output']}", soft_wrap=True)


def print_parameters(console: Console, parameters: dict[str, int]) -> None:
    from rich.table import Table

    table = Table()
    table.add_column("part")
    table.add_column("parameters", justify="right")
    for part, number in parameters.items():
        if part == "total":
            table.add_section()
        table.add_row(part, f"{number:,}")
    console.print(table)


def finish(facts: dict, as_json: bool, show: Callable[[Console, dict], None]) -> None:
    if as_json:
        sys.stdout.write(json.dumps(facts) + "\n")
    else:
        from rich.console import Console

        show(Console(highlight=False, markup=False), facts)


CONVERSION_COMMANDS = {
    "convert": Command(
        "convert another checkpoint to smol_hf, or smol_hf to transformers' native classes",
        "smol-hf convert HuggingFaceTB/SmolVLM2-256M-Video-Instruct checkpoints/smolvlm2-256m\n"
        "  smol-hf convert runs/demo/checkpoint exported --to native",
        add_convert,
        run_convert,
    ),
    "compose": Command(
        "join an image encoder and a language model with a new connector",
        "smol-hf compose my-vlm --vision google/siglip-base-patch16-512 --text HuggingFaceTB/SmolLM2-135M-Instruct",
        add_compose,
        run_compose,
    ),
    "merge": Command(
        "merge an adapter (LoRA, DoRA) into its base model",
        "smol-hf merge runs/my-lora/adapter merged",
        add_merge,
        run_merge,
    ),
    "check": Command(
        "load a checkpoint in an isolated process and compare the results",
        "smol-hf check runs/demo/checkpoint",
        add_check,
        run_check,
    ),
    "estimate": Command(
        "estimate the size of a model and the cost of a training step",
        "smol-hf estimate smolvlm2-256m --batch-size 2 --dtype bfloat16 --tflops 100",
        add_estimate,
        run_estimate,
    ),
}
