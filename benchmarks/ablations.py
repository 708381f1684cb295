"""What each ingredient of a training step of smol_hf is worth: a step with it, compared with one without it.

    python benchmarks/ablations.py [--only packing compile] [--samples 32] [--batch-size 4] [--rounds 2] [--threads 2]

The model, the samples and what is measured are those of `train_step.py`. Both steps take turns, each in a process
of its own. The first six ingredients are on by default, the last four are options of a recipe.

The model FLOPs utilisation of a step with checkpointing also counts what is computed again.

The last line is JSON: for each ingredient the ratio of useful tokens/s (above 1: faster with it) and of peak memory
(below 1: less with it), and what each step reports.
"""

import json

import torch
from compared_models import build_ours, build_processor, build_tokenizer
from measured_steps import adamw, parser_of, run_sides
from torch.nn import functional as F
from train_step import with_our_collator

DEFAULT = {
    "packing": "one row without padding, instead of padded rows",
    "label_logits": "logits only where a label is predicted",
    "uint8_tiles": "tiles are normalised in the model, not in the collator",
    "by_sample": "attention for each packed sample, instead of a mask over the whole row",
    "located": "the collator finds labels, image tokens and samples, not the model",
    "fused_adamw": "AdamW as one operation",
}
OPTIONS = {
    "compile": "torch_compile: true",
    "checkpointing": "gradient_checkpointing: true",
    "bfloat16": "bf16: true",
    "muon": "optim: muon",
}


def smol_hf(samples, sizes, changed=None):
    """(model, collate, loss, optimizer) of smol_hf with one of `DEFAULT` turned off, or one of `OPTIONS` on."""
    tokenizer = build_tokenizer()
    model = build_ours(tokenizer, sizes)
    processor = build_processor(model, tokenizer, sizes)
    _, collate, loss = with_our_collator(model, processor, samples, packing=changed != "packing")
    if changed == "checkpointing":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if changed == "compile":
        model = torch.compile(model, dynamic=True)
        return model, collate, lambda batch: model(**batch, use_cache=False).loss
    if changed == "uint8_tiles":
        return model, normalised(collate), loss
    if changed in WITHOUT_KEYS:
        return model, without(collate, WITHOUT_KEYS[changed]), loss
    if changed == "label_logits":
        return model, without(collate, ("logits_to_keep",)), lambda batch: full_loss(model, batch)
    if changed == "bfloat16":
        return model, collate, lambda batch: autocast_loss(loss, batch)
    if changed == "muon":
        return model, collate, loss, muon
    return model, collate, loss, plain_adamw if changed == "fused_adamw" else adamw


BOUNDS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
WITHOUT_KEYS = {"by_sample": BOUNDS, "located": ("logits_to_keep", "image_positions")}


def without(collate, names):
    return lambda indices: {name: value for name, value in collate(indices).items() if name not in names}


def normalised(collate):
    """Tiles as most image processors give them: floats, mean 0.5 and deviation 0.5 of [0, 1]."""

    def collate_floats(indices):
        batch = collate(indices)
        if "pixel_values" in batch:
            batch["pixel_values"] = (batch["pixel_values"].float() / 255 - 0.5) / 0.5
        return batch

    return collate_floats


def full_loss(model, batch):
    """The loss from logits of all positions."""
    labels = batch["labels"]
    logits = model(**{**batch, "labels": None}, use_cache=False, logits_to_keep=0).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)


def autocast_loss(loss, batch):
    with torch.autocast("cpu", torch.bfloat16):
        return loss(batch)


def plain_adamw(model):
    return torch.optim.AdamW(model.parameters(), lr=1e-4)


def muon(model):
    from smol_hf.estimate.traced_step import build_optimizer

    return build_optimizer("muon", model)


def main():
    parser = parser_of(__doc__)
    parser.add_argument("--only", nargs="+", choices=DEFAULT | OPTIONS, default=list(DEFAULT | OPTIONS))
    arguments = parser.parse_args()
    results = {}
    for name in arguments.only:
        sides = run_sides({"base": (smol_hf,), "changed": (smol_hf, name)}, arguments)
        base, changed = sides["base"], sides["changed"]
        on, off = (base, changed) if name in DEFAULT else (changed, base)
        speed, size = (on[each] / off[each] for each in ("useful_tokens_per_second", "peak_memory_mib"))
        results[name] = {"speed": speed, "memory": size, "with": on, "without": off}
        print(f"{name:14} {speed:5.2f}× the speed, {size:5.2f}× the memory: {(DEFAULT | OPTIONS)[name]}", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
