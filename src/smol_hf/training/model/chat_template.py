"""The chat template of a language model alone: which one, the tokens that it needs, and the token that ends a turn."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import PartialState
from rich.console import Console
from transformers import AddedToken, PreTrainedModel, PreTrainedTokenizerBase

from smol_hf.support.formatting import nearest
from smol_hf.text.chat import ChatTemplateError, TextChat
from smol_hf.training.recipe.model_arguments import ModelArguments
from smol_hf.training.recipe.values import RecipeError

CHATML = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|im_start|>assistant\\n' }}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{{ '\\n' }}"
    "{% else %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# What SmolLM2-Instruct's puts before a conversation that begins without a system message.
SMOLLM2 = (
    "{% if messages and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a helpful AI assistant "
    "named SmolLM, trained by Hugging Face<|im_end|>\\n' }}{% endif %}" + CHATML
)
TEMPLATES = {"chatml": CHATML, "smollm2": SMOLLM2}
TURN_TOKENS = ("<|im_start|>", "<|im_end|>")


def tokens_of(name: str | None) -> tuple[str, ...]:
    """The special tokens of a template of ours. Those of a file are the tokenizer's own."""
    return TURN_TOKENS if name in TEMPLATES else ()


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, arguments: ModelArguments, chat: bool) -> list[str]:
    """Give it the recipe's chat template and the special tokens of that, and let it end what it writes with a turn.

    Returns:
        The tokens that it lacked.

    Raises:
        RecipeError: for a template that there is not, or that does not fit the tokenizer; for tokens that it lacks
            where adapters are trained, which hold no embeddings.
    """
    name = arguments.chat_template
    vocabulary = tokenizer.get_vocab()
    lacking = [token for token in tokens_of(name) if token not in vocabulary]
    if lacking and arguments.use_peft:
        raise RecipeError(
            f"chat_template {name} needs {' and '.join(lacking)}, which {arguments.model} has no embeddings for, and "
            "an adapter brings none: train without use_peft, or write a template with the tokens that there are"
        )
    if name is not None:
        tokenizer.chat_template = read_template(name)
        special = [AddedToken(token, special=True, normalized=False) for token in tokens_of(name)]
        tokenizer.add_tokens(special, special_tokens=True)
    if chat and tokenizer.chat_template is not None:
        tokenizer.eos_token = chat_of(tokenizer).end_of_turn[1]
    return lacking


def read_template(name: str) -> str:
    if name in TEMPLATES:
        return TEMPLATES[name]
    path = Path(name)
    if path.suffix not in (".jinja", ".jinja2", ".j2"):
        raise RecipeError(
            f"chat_template is {name!r}{nearest(name, list(TEMPLATES))}: choose {' or '.join(TEMPLATES)}, or the path "
            "of a .jinja file"
        )
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"chat_template {name} cannot be read: {error}") from error


def chat_of(tokenizer: PreTrainedTokenizerBase) -> TextChat:
    """What encodes conversations. Raises RecipeError when the tokenizer has no template that can be trained with."""
    try:
        chat = TextChat(tokenizer)
        chat.check()
    except ChatTemplateError as error:
        raise RecipeError(str(error)) from error
    return chat


def make_room(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, added: list[str]) -> None:
    """Embeddings for tokens that are new to a model: the mean of those that it has, in embeddings and head."""
    if not added:
        return
    known = len(tokenizer) - len(added)
    before = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > before:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            for weight in (layer.weight, getattr(layer, "bias", None)) if layer is not None else ():
                if weight is not None:  # of tied ones it is done twice, with the same result
                    weight[known : len(tokenizer)] = weight[:known].float().mean(0).to(weight.dtype)
    if PartialState().is_main_process:
        rows = model.get_input_embeddings().weight.shape[0]
        grown = f", now of {rows:,} rows instead of {before:,}" if rows > before else ""
        Console(highlight=False, markup=False).print(
            f"the tokenizer had no {' and no '.join(added)}: added, with the mean of the embeddings{grown}",
            soft_wrap=True,
        )


def end_with_turns(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Generation ends with a turn from now on, and where it ended before."""
    ends = model.generation_config.eos_token_id
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    model.config.get_text_config().eos_token_id = tokenizer.eos_token_id
    ends = list(dict.fromkeys([tokenizer.eos_token_id, *ends]))
    model.generation_config.eos_token_id = ends if len(ends) > 1 else ends[0]
