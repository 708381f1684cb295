"""Training steps of smol_hf beside transformers' SmolVLM fed by TRL's vision collator.

    python benchmarks/train_step.py [--samples 32] [--batch-size 4] [--rounds 2] [--threads 2] [--cached-features]

Both start from the same weights and train on the same conversations about pictures of unequal sizes, with the same
tokens labelled (the assistant's). Each side runs alone in a process of its own, so that its peak memory is its own:

    smol_hf   packed rows, logits at labelled positions only, uint8 tiles normalised in the model
    peer      padded rows, TRL's fused language-model head, float32 tiles from transformers' image processor

With --mixture, the samples are of four kinds and unequal lengths, and ours does not enlarge small images
(`enlarge_images: false`).

With --cached-features, both sides are smol_hf in a stage in which only the connector learns:

    frozen    the frozen image encoder computes the features of each tile in each pass
    cached    `cache_image_features`: the pass that warms up writes them, the measured ones read them

The encoder and the decoder are those of `SCALED`: as unequal as in SmolVLM-256M, and small enough for a CPU.

The last line is JSON: per side samples/s, useful tokens/s (tokens of the conversations, no padding), peak memory above
what the process held before its first step, the share of each part in the time of a step, and the model FLOPs
utilisation (MFU): the arithmetic of forward and backward, over what a product of matrices reaches in this time.
"""

import argparse
import gc
import json
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from compared_models import (
    SCALED,
    SIZES,
    build_ours,
    build_peer,
    build_processor,
    build_samples,
    build_tokenizer,
    copy_weights,
)
from text_step import peak_tflops

from smol_hf.estimate.traced_step import StepCounter


def ours(samples, sizes, enlarge=True):
    """(model, collate, loss) of smol_hf."""
    tokenizer = build_tokenizer()
    model = build_ours(tokenizer, sizes)
    copy_weights(model, build_peer(tokenizer, sizes).state_dict())
    return with_our_collator(model, build_processor(model, tokenizer, sizes, enlarge_images=enlarge), samples)


def connector_stage(samples, _, caches=None):
    """(model, collate, loss) of smol_hf with a frozen encoder and decoder; `caches`: of features."""
    from smol_hf.data.image_features import ImageFeatures

    tokenizer = build_tokenizer()
    model = build_ours(tokenizer, SCALED)
    model.vision_model.requires_grad_(False)
    model.language_model.requires_grad_(False)
    features = None if caches is None else ImageFeatures(model, caches=Path(caches))
    processor = build_processor(model, tokenizer, SCALED)
    return with_our_collator(model, processor, samples, image_features=features)


def with_our_collator(model, processor, samples, packing=True, image_features=None):
    import io

    from smol_hf.data.collator import SmolCollator
    from smol_hf.data.conversation import Conversation, ImagePart, Message, TextPart
    from smol_hf.data.stream.preparation import SampleWork

    def part(image):
        stream = io.BytesIO()
        image.save(stream, "BMP")  # nothing to decode: the peer gets decoded pictures too
        return ImagePart(content=stream.getvalue())

    def row(index, images, question, answer):
        user = Message("user", (*map(part, images), TextPart(question)))
        return Conversation(str(index), (user, Message("assistant", (TextPart(answer),))))

    rows = [row(index, *sample) for index, sample in enumerate(samples)]
    collator = SmolCollator(processor, packing=packing)
    collator.image_features = image_features
    work = SampleWork(processor, 8192, [None])

    def collate(indices):
        return collator([work.encode(0, work.prepare(0, str(index), rows[index])) for index in indices])

    return model, collate, lambda batch: model(**batch, use_cache=False).loss


def peer(samples, sizes):
    """(model, collate, loss) of transformers and TRL."""
    from transformers import Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling
    from trl.trainer.utils import add_fused_lm_head

    from smol_hf.processing.chat_format import DEFAULT_CHAT_TEMPLATE

    tokenizer = build_tokenizer()
    model = build_peer(tokenizer, sizes)
    add_fused_lm_head(model, outputs=("log_probs",))
    image_processor = Idefics3ImageProcessorPil(
        size={"longest_edge": sizes.longest_edge}, max_image_size={"longest_edge": sizes.tile}
    )
    processor = Idefics3Processor(
        image_processor, tokenizer, image_seq_len=sizes.image_seq_len, chat_template=DEFAULT_CHAT_TEMPLATE
    )
    tokenizer.padding_side = "right"
    collator = DataCollatorForVisionLanguageModeling(processor, max_length=None, assistant_only_loss=True)
    rows = [
        {
            "images": images,
            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        }
        for images, question, answer in samples
    ]

    def loss(batch):
        outputs = model(**batch, fused_lm_head=True)
        return -outputs.log_probs.sum() / outputs.label_mask.sum()

    return model, lambda indices: collator([dict(rows[index]) for index in indices]), loss


def adamw(model):
    """The default of transformers' trainer."""
    return torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-4, fused=True)


def forget_peak(device):
    """Count the peak memory of this process from now on. Without a GPU, only Linux can."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def memory(device):
    """Peak memory of this process, in MiB: resident, or of its tensors on the GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peak_flops(device, side=1536, repeats=5):
    """The most FLOP/s of a product of matrices: of float32 on a CPU as measured, of bfloat16 on a GPU as published."""
    if device == "cuda":
        return (peak_tflops(device) or float("nan")) * 1e12
    first, second = torch.randn(2, side, side)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        first @ second
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)


def flops_of(batches, collate, loss_of):
    """The FLOPs of forward and backward of all batches. Kernels that PyTorch has no formula for count as nothing."""
    with StepCounter() as counter:
        for indices in batches:
            loss_of(collate(indices)).backward()
    return counter.flops


def measure(side, arguments):
    """`side`: a function that returns (model, collate, loss) for samples and sizes, and its further arguments.

    The function may add another way to build the optimizer.
    """
    torch.set_num_threads(arguments.threads)
    sizes, device = SIZES[arguments.size], arguments.device
    build, *further = side
    model, collate_on_cpu, loss_on_cpu, build_optimizer = (
        *build(build_samples(arguments.samples, sizes, arguments.mixture), sizes, *further), adamw
    )[:4]  # fmt: skip
    model.to(device).train()
    optimizer = build_optimizer(model)

    def clock():
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def collate(indices):
        batch = collate_on_cpu(indices)
        return {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}

    def loss_of(batch):
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            return loss_on_cpu(batch)

    batch_size = arguments.batch_size
    batches = [list(range(start, start + batch_size)) for start in range(0, arguments.samples, batch_size)]
    seconds = dict.fromkeys(("collate", "forward", "backward", "optimizer"), 0.0)
    counts = {"samples": 0, "tokens": 0, "positions": 0, "labelled": 0}
    losses = []
    forget_peak(device)
    before = memory(device)
    for round_number in range(arguments.rounds + 1):
        for indices in batches:
            times = [clock()]
            batch = collate(indices)
            times.append(clock())
            loss = loss_of(batch)
            times.append(clock())
            loss.backward()
            times.append(clock())
            optimizer.step()
            optimizer.zero_grad()
            times.append(clock())
            losses.append(loss.item())
            if round_number == 0:
                continue  # the first round warms up
            for part, start, stop in zip(seconds, times, times[1:]):
                seconds[part] += stop - start
            counts["samples"] += len(indices)
            counts["positions"] += batch["input_ids"].numel()
            mask = batch.get("attention_mask")
            counts["tokens"] += int(mask.sum()) if mask is not None else batch["input_ids"].numel()
            counts["labelled"] += int((batch["labels"][:, 1:] != -100).sum())
    total = sum(seconds.values())
    peak = memory(device) - before
    compiled = hasattr(model, "_orig_mod")
    flops = None if compiled else arguments.rounds * flops_of(batches, collate, loss_of)
    return {
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "samples_per_second": counts["samples"] / total,
        "useful_tokens_per_second": counts["tokens"] / total,
        "peak_memory_mib": peak,
        "mfu": flops and flops / total / peak_flops(device),
        "padding_fraction": 1 - counts["tokens"] / counts["positions"],
        "labelled_tokens": counts["labelled"],
        "share_of_time": {part: value / total for part, value in seconds.items()},
    }


def run_alone(function, *arguments):
    """Call in a forked process, which spares it the imports. This process itself must not compute with tensors."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        return pool.submit(function, *arguments).result()


def run_side(side, arguments):
    return run_alone(measure, side, arguments)


def parser_of(text):
    """The options of all benchmarks of training steps."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2, help="measured passes over the samples, after one to warm up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--mixture", action="store_true", help="samples of text, one image, two images, and frames")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: in bfloat16 autocast")
    return parser


def main():
    parser = parser_of(__doc__)
    parser.add_argument("--cached-features", action="store_true", help="compare a connector stage with and without")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as caches:
        sides = {"smol_hf": (ours, not arguments.mixture), "peer": (peer,)}
        if arguments.cached_features:
            sides = {"cached": (connector_stage, caches), "frozen": (connector_stage,)}
        results = {name: run_side(side, arguments) for name, side in sides.items()}
    for side, result in results.items():
        shares = "  ".join(f"{part} {share:.0%}" for part, share in result["share_of_time"].items())
        print(
            f"{side:8} {result['samples_per_second']:6.2f} samples/s, {result['peak_memory_mib']:6.0f} MiB", end=", "
        )
        print(f"{result['useful_tokens_per_second']:6.0f} useful tokens/s, padding {result['padding_fraction']:.0%}")
        print(f"         {shares}  MFU {result['mfu']:.0%}")
    first, second = results
    ratio = {
        name: results[first][name] / results[second][name]
        for name in ("samples_per_second", "useful_tokens_per_second", "peak_memory_mib")
    }
    print(json.dumps({**results, "ratio": ratio}))


if __name__ == "__main__":
    main()
