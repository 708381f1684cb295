"""The command `smol-hf`: parses, and calls what does the work."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence

from smol_hf import cli_conversion, cli_data, cli_generate, cli_pretrain, cli_publish, cli_recipes, cli_tokenizer

DESCRIPTION = "Small vision-language models, native to Hugging Face transformers."

# Name → what it does, an example, what adds its arguments, what runs it.
CONVERSION_COMMANDS = {
    "convert": (
        "turn a foreign checkpoint into ours, or ours into transformers' native class",
        "smol-hf convert HuggingFaceTB/SmolVLM2-256M-Video-Instruct checkpoints/smolvlm2-256m\n"
        "  smol-hf convert runs/demo/checkpoint exported --to native",
        cli_conversion.add_convert,
        cli_conversion.run_convert,
    ),
    "compose": (
        "put an image encoder and a language model together, with a new connector between them",
        "smol-hf compose my-vlm --vision google/siglip-base-patch16-512 --text HuggingFaceTB/SmolLM2-135M-Instruct",
        cli_conversion.add_compose,
        cli_conversion.run_compose,
    ),
    "merge": (
        "add an adapter (LoRA, DoRA) to the weights of its base for good",
        "smol-hf merge runs/my-lora/adapter merged",
        cli_conversion.add_merge,
        cli_conversion.run_merge,
    ),
    "check": (
        "load a checkpoint as a stranger would, and compare what it computes",
        "smol-hf check runs/demo/checkpoint",
        cli_conversion.add_check,
        cli_conversion.run_check,
    ),
    "estimate": (
        "say how large a model is and what a training step of it costs",
        "smol-hf estimate smolvlm2-256m --batch-size 2 --dtype bfloat16 --tflops 100",
        cli_conversion.add_estimate,
        cli_conversion.run_estimate,
    ),
}
PUBLISH_COMMANDS = {
    "publish": (
        "upload a checkpoint to the Hub, or a Space for it; without --yes, show what would be uploaded",
        "smol-hf publish runs/demo/checkpoint OWNER/NAME --license apache-2.0\n"
        "  smol-hf publish runs/demo/checkpoint OWNER/NAME --space",
        cli_publish.add_publish,
        cli_publish.run_publish,
    ),
}
OTHER_COMMANDS = {**CONVERSION_COMMANDS, **PUBLISH_COMMANDS}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="smol-hf", description=DESCRIPTION, epilog="smol-hf COMMAND --help shows a command with an example."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("train", help="train a model from a recipe", add_help=False)
    commands.add_parser("pretrain", help=cli_pretrain.SUMMARY, add_help=False)
    commands.add_parser("dpo", help="train a language model on preferences, by DPO", add_help=False)

    for name, (summary, example, add_arguments, _) in cli_generate.GENERATION_COMMANDS.items():
        add_arguments(add_command(commands, name, summary, example))

    demo = add_command(
        commands,
        "demo",
        "train a tiny model on handwritten digits and report how well it reads them, or serve a checkpoint's page",
        "smol-hf demo --output runs/demo\n  smol-hf demo runs/demo/checkpoint",
    )
    cli_publish.add_page(demo)
    demo.add_argument("--output", default="runs/demo", help="folder of the result (default runs/demo)")
    demo.add_argument("--recipe", help="another recipe than quickstart/digits.yaml")
    demo.add_argument("--questions", type=int, default=600, help="held-out questions (default 600)")
    demo.add_argument("--max-steps", type=int, help="train for fewer steps than the recipe says")
    demo.add_argument("--seed", type=int, default=0, help="seed of weights, data and order (default 0)")

    for name, (summary, example, add_arguments, _) in OTHER_COMMANDS.items():
        add_arguments(add_command(commands, name, summary, example))
    data = commands.add_parser("data", help=cli_data.SUMMARY, description=f"{cli_data.SUMMARY}.".capitalize())
    of_data = data.add_subparsers(dest="data_command", metavar="COMMAND", required=True)
    for name, (summary, example, add_arguments, _) in cli_data.DATA_COMMANDS.items():
        add_arguments(add_command(of_data, name, summary, example))
    summary = cli_recipes.SUMMARY
    recipes = commands.add_parser("recipes", help=summary, description=f"{summary}.".capitalize())
    of_recipes = recipes.add_subparsers(dest="recipes_command", metavar="COMMAND", required=True)
    for name, (summary, example, add_arguments, _) in cli_recipes.RECIPE_COMMANDS.items():
        add_arguments(add_command(of_recipes, name, summary, example))
    summary = cli_tokenizer.SUMMARY
    tokenizer = commands.add_parser("tokenizer", help=summary, description=f"{summary}.".capitalize())
    of_tokenizer = tokenizer.add_subparsers(dest="tokenizer_command", metavar="COMMAND", required=True)
    for name, (summary, example, add_arguments, _) in cli_tokenizer.TOKENIZER_COMMANDS.items():
        add_arguments(add_command(of_tokenizer, name, summary, example))
    return parser


def add_command(commands, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def quiet_libraries() -> None:
    """Leave out what libraries tell each other, which no user of a command can act on."""
    warnings.simplefilter("ignore", FutureWarning)
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # a faster kernel that it did not find


def main(command_line: Sequence[str] | None = None) -> int:
    command_line = sys.argv[1:] if command_line is None else list(command_line)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without the signs of a table still gets the words
    if command_line[:1] == ["train"]:
        from smol_hf.train import main as train

        return train(command_line[1:])
    if command_line[:1] == ["pretrain"]:
        quiet_libraries()
        return cli_pretrain.main(command_line[1:])
    if command_line[:1] == ["dpo"]:
        from smol_hf.dpo import main as dpo

        return dpo(command_line[1:])
    arguments = build_parser().parse_args(command_line)
    quiet_libraries()
    try:
        if arguments.command in cli_generate.GENERATION_COMMANDS:
            cli_generate.GENERATION_COMMANDS[arguments.command][-1](arguments)
        elif arguments.command in OTHER_COMMANDS:
            OTHER_COMMANDS[arguments.command][-1](arguments)
        elif arguments.command == "data":
            cli_data.DATA_COMMANDS[arguments.data_command][-1](arguments)
        elif arguments.command == "recipes":
            cli_recipes.RECIPE_COMMANDS[arguments.recipes_command][-1](arguments)
        elif arguments.command == "tokenizer":
            cli_tokenizer.TOKENIZER_COMMANDS[arguments.tokenizer_command][-1](arguments)
        elif arguments.checkpoint is not None:
            cli_publish.run_page(arguments)
        else:
            from smol_hf.demo import run_demo

            run_demo(arguments)
    except (ValueError, OSError, RuntimeError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
