"""Files of good and bad records, read as a run reads them."""

import json

from helpers import ready

from smol_hf.data.collator import SmolCollator
from smol_hf.data.report.skipped import SkippedSamples
from smol_hf.training.data import measure_data, open_data, plan_of
from smol_hf.training.recipe.arguments import SmolTrainingArguments
from smol_hf.training.recipe.data_arguments import DataArguments


def record(image="picture.png", question="<image>\nWhat is this?", answer="A picture."):
    return {
        "image": image,
        "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}],
    }


def write(folder, rows):
    path = folder / "mine.jsonl"
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path, processor, policy="stop", context_length=256, skipped=None):
    """(the conversations of a file that a run would use, in order, and the ledger of the others)."""
    if skipped is None:
        skipped = SkippedSamples(policy, max_fraction=1.0, path=path.with_name("skipped.jsonl"))
    arguments = DataArguments(data=str(path), context_length=context_length, verify_images=True)
    data = open_data(arguments, seed=0)
    training = SmolTrainingArguments(output_dir="unused", max_steps=1, use_cpu=True)
    measure_data(plan_of(data, processor, arguments, training, 1), data, arguments, skipped)
    left_out = {fault.where for fault in [*skipped.faults, *skipped.left_out]}
    return [each for each in data.conversations() if each.sample_id not in left_out], skipped


def batch_of(conversations, processor, context_length=256):
    return SmolCollator(processor)(ready(conversations, processor, context_length))
