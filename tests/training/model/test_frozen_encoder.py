"""A frozen image encoder has no graph: autograd keeps no tensor of it, for any way to freeze it."""

import weakref

import pytest
import torch
from helpers import build_model, build_processor
from tiny_trainers import build_trainer

from smol_hf.training.model.lora import add_adapters
from smol_hf.training.recipe.model_arguments import ModelArguments


class Held:
    """A tensor that autograd keeps."""

    def __init__(self, tensor):
        self.tensor = tensor


def kept(encoder, step):
    """Run a step → the number of tensors that autograd still keeps when the encoder is done.

    Its output counts too, if it has a graph: gradient checkpointing hides what it keeps.
    """
    held, numbers = [], []

    def hold(tensor):
        holder = Held(tensor)
        held.append(weakref.ref(holder))
        return holder

    def count(_, inputs, outputs):
        alive = [each for each in held if each() is not None]
        numbers.append(len(alive) + outputs.last_hidden_state.requires_grad)

    hooks = [encoder.register_forward_pre_hook(lambda *_: held.clear()), encoder.register_forward_hook(count)]
    with torch.autograd.graph.saved_tensors_hooks(hold, lambda holder: holder.tensor):
        step()
    for hook in hooks:
        hook.remove()
    assert numbers and held, "the language model keeps some later"
    return max(numbers)


FROZEN = {
    "for good": {"vision_learning_rate": 0.0},
    "with the language model": {"vision_learning_rate": 0.0, "text_learning_rate": 0.0},
    "with the connector": {"vision_learning_rate": 0.0, "connector_learning_rate": 0.0},
    "at first": {"unfreeze_vision_at_step": 1},
    "packed rows without images": {"vision_learning_rate": 0.0, "packing": True, "blind_every": 1},
    "checkpointing": {"vision_learning_rate": 0.0, "gradient_checkpointing": True},
}


@pytest.mark.parametrize("name", FROZEN)
def test_a_frozen_encoder_keeps_nothing_for_the_backward_pass(name, tmp_path):
    trainer = build_trainer(tmp_path, number=4, max_steps=1, **FROZEN[name])
    assert kept(trainer.model.vision_model, trainer.train) == 0


def test_a_trained_encoder_keeps_its_activations(tmp_path):
    trainer = build_trainer(tmp_path, number=4, max_steps=1)
    assert kept(trainer.model.vision_model, trainer.train) > 10


@pytest.mark.parametrize("parts", [["text"], ["connector", "text"], ["vision"]], ids="+".join)
@pytest.mark.parametrize("reentrant", [None, False, True])
def test_an_encoder_keeps_nothing_beside_adapters_of_other_parts(parts, reentrant):
    processor = build_processor(longest_edge=32)
    model, arguments = build_model(processor), ModelArguments(model="base", use_peft=True, lora_parts=parts)
    model = add_adapters(model, arguments, {part: float(part in parts) for part in ("vision", "connector", "text")})
    inner = model.train().get_base_model()
    if reentrant is not None:
        inner.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
    ids = torch.full((2, 12), processor.image_token_id)
    ids[:, :8] = torch.arange(50, 58)
    tiles = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    number = kept(inner.vision_model, lambda: model(input_ids=ids, pixel_values=tiles, labels=ids).loss.backward())
    assert (number > 0) == ("vision" in parts)
