"""The loss on the validation data: the mean over its labelled tokens, independent of batch size and processes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator

from smol_hf.data.collator import SmolCollator
from smol_hf.data.stream.stream import Plan, RowStream
from smol_hf.modeling.configuration_smol_hf import SmolHFConfig
from smol_hf.modeling.configuration_smol_hf_text import SmolHFTextConfig
from smol_hf.modeling.label_loss import IGNORE_INDEX, labelled_positions
from smol_hf.training.loader import FACTS, TrainingLoader


@dataclass(frozen=True)
class Validation:
    """The data that a run is validated on.

    Args:
        plan: one round of its rows.
        text_bytes: size of the texts that the labels spell, if it is known.
    """

    plan: Plan
    text_bytes: int | None = None

    def loader(self, accelerator: Accelerator, collator: SmolCollator, batch_size: int) -> TrainingLoader:
        plan = replace(self.plan, lanes=accelerator.num_processes)
        stream = RowStream(plan, accelerator.process_index, accelerator.num_processes)
        return TrainingLoader(stream, collator, batch_size=batch_size, batches_per_epoch=1)

    @torch.no_grad()
    def measure(self, model, accelerator: Accelerator, collator: SmolCollator, batch_size: int) -> dict[str, float]:
        """Return `loss` (nats per token), `perplexity`, `tokens`, and `bits_per_byte` if `text_bytes` is known.

        All processes call this together and make as many forward passes as the process with the most batches.
        """
        loader = self.loader(accelerator, collator, batch_size)
        sums = torch.zeros(2, dtype=torch.float64)  # losses, labelled tokens
        config = accelerator.unwrap_model(model).config
        ours = config.model_type in (SmolHFConfig.model_type, SmolHFTextConfig.model_type)
        training = model.training
        model.eval()
        while summed(accelerator, torch.tensor([float(not loader.finished)], device=accelerator.device))[0] > 0:
            batch = loader.next_batch()
            inputs = {key: value.to(accelerator.device) for key, value in batch.items() if key not in FACTS}
            labelled = int((inputs["labels"][:, 1:] != IGNORE_INDEX).sum())
            if ours:  # the other logits are not read, and would be the largest tensor of the pass
                inputs["logits_to_keep"] = labelled_positions(inputs["labels"])
            outputs = model(**inputs, use_cache=False, num_items_in_batch=torch.tensor(1, device=accelerator.device))
            sums += torch.tensor([float(outputs.loss) if labelled else 0.0, labelled], dtype=torch.float64)
        model.train(training)
        precise = torch.float32 if accelerator.device.type == "mps" else torch.float64
        nats, tokens = summed(accelerator, sums.to(accelerator.device, precise))
        loss = nats / max(tokens, 1)
        metrics = {"loss": loss, "perplexity": math.exp(loss) if loss < 700 else math.inf, "tokens": int(tokens)}
        if self.text_bytes:
            metrics["bits_per_byte"] = nats / math.log(2) / self.text_bytes
        return metrics


def summed(accelerator: Accelerator, values: torch.Tensor) -> list[float]:
    """Return the sums of a vector over all processes, which call this together."""
    total = accelerator.reduce(values, reduction="sum")
    assert isinstance(total, torch.Tensor)
    return total.tolist()
