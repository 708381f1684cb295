"""The commands convert, compose, merge and check: their options and what they print."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from smol_hf.commands.parser import Command, add_json, options_of
from smol_hf.commands.printing import print_facts
from smol_hf.support.formatting import counted

if TYPE_CHECKING:
    from rich.table import Table


def add_hub_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument("--token", help="token for gated or private repositories")
    parser.add_argument("--local-files-only", action="store_true", help="use only the local cache")


def hide_bars_of_loading() -> None:
    """Hide transformers' progress bars, which mix with the printed facts. Downloads keep theirs."""
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    downloads_are_shown = not are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    if downloads_are_shown:
        enable_progress_bars()


def add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", help="folder to write; must be empty or missing")


def add_convert(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", help="checkpoint: a folder, a .pt file, a .gguf file or a Hub id")
    add_output(parser)
    add("--to", help="target of a smol_hf checkpoint: native (default), smolvlm, llava, llama, smollm3, gpt2")
    add_hub_arguments(parser)
    code_help = "copy a smol_hf checkpoint or adapter with the model code of this release; the weights stay the same"
    add("--refresh-code", action="store_true", help=code_help)
    add("--tokenizer", help="folder or Hub id of a tokenizer to save with the weights, or a meta.pkl")
    add("--num-attention-heads", type=int, help="attention heads of a plain .pt file")
    add("--rope-theta", type=float, help="RoPE base of a plain Llama-style .pt file (default 10000)")


def add_compose(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_output(parser)
    vision_help = "image encoder: folder or Hub id of SigLIP, SigLIP2, CLIP, DINOv2 or a smol_hf checkpoint"
    add("--vision", required=True, help=vision_help)
    add("--text", required=True, help="language model: folder or Hub id of a causal model")
    add("--connector", default="pixel_shuffle", help="pixel_shuffle (default), linear or mlp")
    add("--scale-factor", type=int, help="pixel_shuffle joins N × N patches to a token", metavar="N")
    add("--longest-edge", type=int, help="longer side of an image after resizing, in pixels")
    add("--vision-feature-layer", type=int, help="encoder layer of the features (default: see the guide)")
    add("--keep-text-class", action="store_true", help="keep transformers' class of the language model")
    add("--extend-context", type=int, help="new number of positions, for example 16384")
    add("--rope-theta", type=float, help="new base of the rotary positions (RoPE), for example 273000")
    chat_help = "keep: the language model's template with images added (default); smolvlm: SmolVLM's; or a .jinja file"
    add("--chat-template", default="keep", metavar="{keep,smolvlm,FILE}", help=chat_help)
    add("--add-characters", default="", metavar="TEXT", help="characters to add to a tokenizer that lacks them")
    add("--seed", type=int, default=0, help="seed of the new connector's weights (default 0)")
    add_hub_arguments(parser)


def run_compose(arguments: argparse.Namespace) -> dict:
    from smol_hf.conversion.composition.compose import compose

    hide_bars_of_loading()
    return compose(**{name: value for name, value in vars(arguments).items() if name not in ("command", "json")})


def describe_composition(facts: dict) -> Iterator[str | Table]:
    yield from (f"  {shape}" for shape in facts["shapes"])
    yield parameter_table(facts["parameters"])
    if facts["added_characters"]:
        yield f"characters added to the tokenizer: {facts['added_characters']}"
    yield f"{counted(facts['new_tokens'], 'new token')}, {counted(facts['vocabulary'], 'row')} of embeddings"
    if facts["own_class"]:
        yield f"the language model keeps transformers' own class: {facts['own_class']}"
    yield f"chat: {facts['chat_template']}; answers end with {' or '.join(facts['end_tokens'])}"
    tiles = f"tiles of {facts['tile_size']}, {counted(facts['image_tokens_per_tile'], 'token')} each"
    yield f"images of up to {facts['longest_edge']} pixels in {tiles}"
    yield f"written to {facts['output']} in {facts['seconds']} s"


def add_merge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", help="LoRA or DoRA adapter, or checkpoint of FSDP or DeepSpeed")
    add_output(parser)
    parser.add_argument("--base", help="folder or Hub id of the base (default: the base that the adapter names)")
    types = ["float32", "bfloat16", "float16"]
    parser.add_argument("--dtype", choices=types, help="dtype of the result (default: the base's)")
    add_hub_arguments(parser)


def run_merge(arguments: argparse.Namespace) -> dict:
    from smol_hf.conversion.merge import merge

    hide_bars_of_loading()
    names = ("adapter", "output", "base", "dtype", "revision", "token", "local_files_only")
    return merge(**options_of(arguments, *names))


def describe_merge(facts: dict) -> Iterator[str | Table]:
    into = "" if facts["base"] is None else f" into {facts['base']}"
    yield f"merged {facts['source']} ({facts['adapter']}){into}:"
    yield parameter_table(facts["parameters"])
    unchanged = "" if facts["base"] is None else "; the base is unchanged"
    yield f"written to {facts['output']} in {facts['seconds']} s{unchanged}"


def add_check(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", help="folder of a checkpoint (smol_hf or a native class), or an exported folder with --source")
    add("--trust-remote-code", action="store_true", help="run code in the folder that is not ours")
    source_help = "the exported checkpoint: compare the answers of the engine with it"
    add("--source", metavar="CHECKPOINT", help=source_help)
    prompts_help = (
        "prompts to compare with --source, as for smol-hf generate (default: 20 pages of digits, or 6 texts)"
    )
    add("--prompts-file", metavar="FILE", help=prompts_help)
    add_json(parser)


def run_check(arguments: argparse.Namespace) -> None:
    from smol_hf.conversion.checking.check import check

    hide_bars_of_loading()
    if arguments.source is not None:
        from smol_hf.commands.exporting import check_export

        return check_export(arguments)
    if arguments.prompts_file is not None:
        raise ValueError("--prompts-file has no effect without --source: leave it out")
    refuse_export(arguments.checkpoint)
    facts = check(arguments.checkpoint, trust_remote_code=arguments.trust_remote_code)
    print_facts(facts, arguments.json, describe_check)
    if not facts["good"]:
        raise ValueError(f"{arguments.checkpoint} failed the check: see the lines marked ✗")


def refuse_export(folder: str) -> None:
    """Raise ValueError for an export that has no configuration, or no weights, of transformers."""
    from smol_hf.export.registry import target_of_folder

    target = target_of_folder(Path(folder)) if Path(folder).is_dir() else None
    if target is not None and target.name in ("gguf", "onnx", "page"):
        raise ValueError(f"{folder} is an export to {target.name}: name its checkpoint, --source CHECKPOINT")


def describe_check(facts: dict) -> Iterator[Table]:
    from rich.table import Table

    table = Table(title=facts["checkpoint"], title_justify="left", show_header=False)
    for finding in facts["findings"]:
        if finding["name"].endswith(".py") and not finding["value"].endswith("not as installed here"):
            continue  # the finding "model code" covers it
        table.add_row({True: "✓", False: "✗", None: ""}[finding["good"]], finding["name"], finding["value"])
    yield table


CONVERT = (
    "source", "output", "to", "revision", "token", "local_files_only", "tokenizer", "num_attention_heads", "rope_theta"
)  # fmt: skip


def run_convert(arguments: argparse.Namespace) -> dict:
    from smol_hf.conversion.checking.travelling_code import refresh_code
    from smol_hf.conversion.convert import convert

    hide_bars_of_loading()
    if not arguments.refresh_code:
        return convert(**options_of(arguments, *CONVERT))
    for name in CONVERT[2:]:
        if getattr(arguments, name) not in (None, False):
            raise ValueError(f"--{name.replace('_', '-')} has no effect with --refresh-code: leave it out")
    return refresh_code(arguments.source, arguments.output)


def describe_conversion(facts: dict) -> Iterator[str | Table]:
    if "tensors" not in facts:  # the code was refreshed
        changes = [
            f"{change}: {', '.join(facts[change])}" for change in ("renewed", "added", "removed") if facts[change]
        ]
        yield from changes or ["the code is already that of this release"]
        yield f"written to {facts['output']} in {facts['seconds']} s"
        return
    yield f"{facts['source']} → {facts['target']}: {counted(facts['tensors'], 'tensor')} in {facts['seconds']} s"
    yield parameter_table(facts["parameters"])
    yield from (f"note: {note}" for note in facts["notes"])
    yield f"written to {facts['output']}"


def parameter_table(parameters: dict[str, int]) -> Table:
    from rich.table import Column, Table

    table = Table("part", Column("parameters", justify="right"))
    for part, number in parameters.items():
        if part == "total":
            table.add_section()
        table.add_row(part, f"{number:,}")
    return table


CONVERSION_COMMANDS = {
    "convert": Command(
        "convert another checkpoint to smol_hf, or smol_hf to transformers' native classes",
        "smol-hf convert HuggingFaceTB/SmolVLM2-256M-Video-Instruct checkpoints/smolvlm2-256m\n"
        "  smol-hf convert runs/demo/checkpoint exported --to native",
        add_convert,
        run_convert,
        describe_conversion,
    ),
    "compose": Command(
        "join an image encoder and a language model with a new connector",
        "smol-hf compose my-vlm --vision google/siglip-base-patch16-512 --text HuggingFaceTB/SmolLM2-135M-Instruct",
        add_compose,
        run_compose,
        describe_composition,
    ),
    "merge": Command(
        "merge an adapter (LoRA, DoRA) into its base model, or the shards of a training checkpoint",
        "smol-hf merge runs/my-lora/adapter merged",
        add_merge,
        run_merge,
        describe_merge,
    ),
    "check": Command(
        "load a checkpoint in an isolated process and compare the results",
        "smol-hf check runs/demo/checkpoint",
        add_check,
        run_check,
    ),
}
