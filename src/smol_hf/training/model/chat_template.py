"""The chat template of a text-only model: its choice, its special tokens, and the token that ends a turn."""

from __future__ import annotations

from pathlib import Path

from accelerate import PartialState
from rich.console import Console
from transformers import AddedToken, PreTrainedModel, PreTrainedTokenizerBase

from smol_hf.support.formatting import nearest
from smol_hf.support.tokenizer_of import keep_document_tokens, token_ids
from smol_hf.text.chat import ChatTemplateError, TextChat
from smol_hf.training.model.new_tokens import embedding_rows, extend_embeddings
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
# SmolLM2-Instruct puts this before a conversation without a system message.
SMOLLM2 = (
    "{% if messages and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a helpful AI assistant "
    "named SmolLM, trained by Hugging Face<|im_end|>\\n' }}{% endif %}" + CHATML
)
TEMPLATES = {"chatml": CHATML, "smollm2": SMOLLM2}
TURN_TOKENS = ("<|im_start|>", "<|im_end|>")


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, arguments: ModelArguments, chat: bool) -> list[str]:
    """Give the tokenizer the recipe's chat template with its special tokens, and let a turn end what it writes.

    Returns the tokens that it lacked. Raises RecipeError for a template that is missing or does not fit.
    """
    name = arguments.chat_template
    turn_tokens = TURN_TOKENS if name in TEMPLATES else ()  # a template of a file has those of the tokenizer
    vocabulary = tokenizer.get_vocab()
    lacking = [token for token in turn_tokens if token not in vocabulary]
    if lacking and arguments.use_peft:
        raise RecipeError(
            f"chat_template {name} needs {' and '.join(lacking)}, which {arguments.model} has no embeddings for, and "
            "an adapter brings none: train without use_peft, or write a template with the existing tokens"
        )
    if name is not None:
        tokenizer.chat_template = read_template(name)
        special = [AddedToken(token, special=True, normalized=False) for token in turn_tokens]
        tokenizer.add_tokens(special, special_tokens=True)
    if chat and tokenizer.chat_template is not None:
        end = chat_of(tokenizer).end_of_turn[1]
        if end != tokenizer.eos_token:
            keep_document_tokens(tokenizer)
            tokenizer.eos_token = end
    return lacking


def read_template(name: str) -> str:
    """Return a shipped template or the content of a .jinja file. Raises RecipeError."""
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
    """Return the encoder of conversations. Raises RecipeError if the template cannot be trained with."""
    try:
        chat = TextChat(tokenizer)
        chat.check()
    except ChatTemplateError as error:
        raise RecipeError(str(error)) from error
    return chat


def add_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, added: list[str]) -> None:
    """Give the model embeddings for the tokens that were added to the tokenizer, and say so."""
    if not added:
        return
    before = embedding_rows(model)
    extend_embeddings(model, len(tokenizer) - len(added), len(tokenizer))
    if PartialState().is_main_process:
        rows = embedding_rows(model)
        grown = f", now of {rows:,} rows instead of {before:,}" if rows > before else ""
        Console(highlight=False, markup=False).print(
            f"the tokenizer had no {' and no '.join(added)}: added, with the mean of the embeddings{grown}",
            soft_wrap=True,
        )


def end_with_turns(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let generation also end with a turn."""
    model.config.get_text_config().eos_token_id = tokenizer.eos_token_id
    ends = list(dict.fromkeys([tokenizer.eos_token_id, *token_ids(model.generation_config.eos_token_id)]))
    model.generation_config.eos_token_id = ends if len(ends) > 1 else ends[0]
