"""Check that a composed model equals its language model on text, uses images, learns and generates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import PretrainedConfig

from smol_hf.auto import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from smol_hf.conversion.formats.tensor_names import ConversionError
from smol_hf.modeling.modeling_smol_hf import SmolHFForConditionalGeneration
from smol_hf.support.formatting import one_line

TEXT = "The quick brown fox jumps over 13 lazy dogs. What happens next?"
NEW_TOKENS = 3
# Relative to the spread of the logits. Two correct orders of summation differ by about 1e-4 in a deep float32 model; a
# missing part changes the logits by more than this.
TOLERANCE = 1e-3
FAILURES = (
    RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError, ArithmeticError, ImportError,
    OSError,
)  # fmt: skip


def check_composition(
    folder: Path, text_folder: Path, rows: int, change_config: Callable[[PretrainedConfig], None]
) -> None:
    """Load the composed `folder` and compare it with the language model of `text_folder`, in float32 on the CPU.

    Args:
        rows: vocabulary size of the source; the logits of later tokens are not compared.
        change_config: function that changes the source's configuration as the composed one was changed.
    """
    tokenizer = AutoTokenizer.from_pretrained(text_folder, trust_remote_code=False)
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    model_type, expected = source_logits(text_folder, ids, change_config)
    refusal = f"{text_folder}: {model_type} cannot be the language model"
    with failures_as(f"{refusal}: the composed model does not load"):
        model = SmolHFForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    model.requires_grad_(False)
    with torch.no_grad(), failures_as(f"{refusal}: composed, it fails on a text"):
        found = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    found, expected = found[..., :rows], expected[..., :rows]
    if not torch.isfinite(found).all():
        raise ConversionError(f"{refusal}: composed, it computes NaN or infinity for a text")
    difference = (found - expected).abs().max().item()
    if not difference <= TOLERANCE * expected.std().item():
        raise ConversionError(
            f"{refusal}: with embeddings as input it computes other logits than with tokens (they differ by "
            f"{difference:.3g}, with a standard deviation of {expected.std().item():.3g})"
        )
    check_image_row(model, ids, refusal)


def source_logits(folder: Path, ids: torch.Tensor, change_config) -> tuple[str, torch.Tensor]:
    """Return model type and logits (1, sequence, vocabulary) that the language model's own class computes."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    change_config(config)
    options = {"config": config, "dtype": torch.float32, "trust_remote_code": False}
    model = AutoModelForCausalLM.from_pretrained(folder, **options).eval()
    with torch.no_grad(), failures_as(f"{folder}: the language model itself fails on a text"):
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    if not torch.isfinite(logits).all():
        raise ConversionError(f"{folder}: the language model itself computes NaN or infinity for a text")
    return config.model_type, logits


def check_image_row(model, text: torch.Tensor, refusal: str) -> None:
    """Check one tile with a text: finite loss and gradient, and generation with the cache equals the forward pass."""
    config = model.config
    positions = getattr(config.text_config, "max_position_embeddings", None)
    if positions:  # a tokenizer of single characters makes a long text
        text = text[:, : max(positions - config.image_seq_len - NEW_TOKENS, 1)]
    ids = torch.cat([torch.full((1, config.image_seq_len), config.image_token_id), text], dim=1)
    if positions and ids.shape[1] + NEW_TOKENS > positions:
        raise ConversionError(
            f"{refusal}: one tile becomes {config.image_seq_len} tokens, but the model has {positions} positions; "
            "use a larger --scale-factor, an encoder with smaller images, or --extend-context"
        )
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (1, 3, config.image_side, config.image_side), generator=generator, dtype=torch.uint8)
    labels = torch.where(ids == config.image_token_id, -100, ids)
    model.connector.requires_grad_(True)
    with torch.enable_grad(), failures_as(f"{refusal}: composed, it fails on an image"):
        loss = model(input_ids=ids, pixel_values=pixels, labels=labels).loss
        loss.backward()
    gradients = [weight.grad for weight in model.connector.parameters()]
    if not torch.isfinite(loss) or any(each is None or not torch.isfinite(each).all() for each in gradients):
        raise ConversionError(f"{refusal}: the loss or the gradient of a text with an image is NaN or infinite")
    if not any(each.abs().max() > 0 for each in gradients):
        raise ConversionError(f"{refusal}: the image does not change its answer (the connector's gradient is zero)")
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    with torch.no_grad(), failures_as(f"{refusal}: composed, it cannot generate"):
        written = model.generate(
            **inputs, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False,
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
        ids = written.sequences[:, :-1]
        whole = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels).logits
    stepwise = torch.stack(written.logits, dim=1)
    difference = (stepwise - whole[:, -NEW_TOKENS:]).abs().max().item()
    if not difference <= TOLERANCE * whole.std().item():
        raise ConversionError(f"{refusal}: with its cache it generates other logits, which differ by {difference:.3g}")


@contextmanager
def failures_as(reason: str) -> Iterator[None]:
    """Turn errors of the model's own code into a ConversionError with this reason."""
    try:
        yield
    except FAILURES as error:
        raise ConversionError(f"{reason}: {type(error).__name__}: {one_line(error)[:300]}") from error
