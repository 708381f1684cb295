"""Answers of a checkpoint through `Generator`."""

from smol_hf.inference.answering import load_checkpoint
from smol_hf.inference.prompts import Prompt
from smol_hf.inference.run import Generator
from smol_hf.inference.sampling import Sampling


def generator(checkpoint, chat=None, **sampling):
    return Generator(*load_checkpoint(checkpoint, device="cpu"), Sampling(**sampling), chat)


def answers(checkpoint, prompts, batch_size=1, **options):
    prompts = [Prompt(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    return list(generator(checkpoint, **options).answers(prompts, batch_size))


def texts(*arguments, **options):
    return [answer.text for answer in answers(*arguments, **options)]
