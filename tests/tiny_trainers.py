"""A trainer of a tiny model on pages of digits, in this process."""

import torch
from helpers import blind, build_model, build_processor, plan_for

from smol_hf.data.collator import SmolCollator
from smol_hf.data.digits import build_pages
from smol_hf.training.recipe.arguments import SmolTrainingArguments
from smol_hf.training.trainer import SmolTrainer


def build_trainer(
    folder, *, collator=SmolCollator, packing=False, number=32, turns=1, blind_every=0, plan=None, **options
):
    """A trainer on pages of digits, without checkpoints.

    `blind_every`: every so many pages have no image. `plan`: options of the plan.
    """
    torch.manual_seed(0)
    processor = build_processor(longest_edge=32)
    pages = [page.conversation for page in build_pages(number, seed=0, split="train", turns=turns)]
    if blind_every:
        pages = [page if index % blind_every else blind(page) for index, page in enumerate(pages)]
    defaults = {
        "output_dir": str(folder), "max_steps": 3, "per_device_train_batch_size": 4, "logging_steps": 1,
        "save_strategy": "no", "use_cpu": True, "learning_rate": 1e-3, "lr_scheduler_type": "constant",
    }  # fmt: skip
    return SmolTrainer(
        model=build_model(processor),
        args=SmolTrainingArguments(**{**defaults, **options}),
        plan=plan_for(pages, processor, **(plan or {})),
        processing_class=processor,
        data_collator=collator(processor, packing=packing),
    )


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights(trainer):
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
