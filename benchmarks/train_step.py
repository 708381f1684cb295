"""Training steps of smol_hf beside transformers' SmolVLM fed by TRL's vision collator.

    python benchmarks/train_step.py [--samples 32] [--batch-size 4] [--rounds 2] [--threads 2] [--cached-features]

Both start from the same weights and train on the same conversations about pictures of unequal sizes, with the same
tokens labelled (the assistant's). Each side runs alone in a process of its own, so that its peak memory is its own:

    smol_hf   packed rows, logits at labelled positions only, uint8 tiles normalised in the model
    peer      padded rows, TRL's fused language-model head, float32 tiles from transformers' image processor

With --cached-features, both sides are smol_hf in a stage in which only the connector learns:

    frozen    the frozen image encoder computes the features of each tile in each pass
    cached    `cache_image_features`: the pass that warms up writes them, the measured ones read them

The encoder and the decoder are those of `SCALED`: as unequal as in SmolVLM-256M, and small enough for a CPU.

The last line is JSON: per side samples/s, useful tokens/s (tokens of the conversations, no padding), peak memory above
what the process held before its first step, and the share of each part in the time of a step.
"""

import argparse
import json
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model: `vision` and `text` are (hidden, intermediate, layers, heads)."""

    patch: int
    vocabulary: int
    vision: tuple[int, int, int, int]
    text: tuple[int, int, int, int]


TILE, LONGEST_EDGE, SCALE = 128, 256, 2
SMALL = Sizes(patch=16, vocabulary=16384, vision=(192, 768, 4, 4), text=(256, 768, 4, 4))
# In SmolVLM-256M, the encoder needs 214 GFLOP for a tile (SigLIP-B/16, 512 pixels, 12 layers), as the layers of its
# decoder for 1,008 tokens, and a tile becomes 64 tokens. Here these numbers are 3.3 GFLOP, 1,056 tokens and 64 tokens.
SCALED = Sizes(patch=8, vocabulary=4096, vision=(192, 768, 12, 4), text=(128, 384, 8, 4))
WORDS = "what does this picture show here of the some any small red blue page with lines and dots".split()


def build_samples(number):
    """Conversations about noise of random size: 1 to 5 tiles, answers of 4 to 40 words."""
    random = np.random.default_rng(0)
    samples = []
    for _ in range(number):
        width, height = (int(side) for side in random.integers(40, 400, 2))
        image = Image.fromarray(random.integers(0, 255, (height, width, 3), dtype=np.uint8))
        question, answer = (" ".join(random.choice(WORDS, int(random.integers(4, most)))) for most in (12, 40))
        samples.append((image, question, answer))
    return samples


def build_tokenizer():
    from smol_hf.text.tiny_tokenizer import build_tiny_tokenizer

    return build_tiny_tokenizer([" ".join(WORDS), "User: Assistant: \n\n"] * 3)


def configurations(tokenizer, sizes=SMALL):
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    vision = {**dict(zip(names, sizes.vision)), "image_size": TILE, "patch_size": sizes.patch}
    text = {
        **dict(zip(names, sizes.text)), "vocab_size": sizes.vocabulary, "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id, "tie_word_embeddings": True,
    }  # fmt: skip
    return vision, text


def build_peer(tokenizer):
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    vision, text = configurations(tokenizer)
    config = SmolVLMConfig(
        vision_config=vision,
        text_config={"model_type": "llama", "rms_norm_eps": 1e-5, **text},
        scale_factor=SCALE,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return SmolVLMForConditionalGeneration(config)


def build_ours(tokenizer, sizes=SMALL):
    from smol_hf import SmolHFConfig, SmolHFForConditionalGeneration

    vision, text = configurations(tokenizer, sizes)
    torch.manual_seed(0)
    return SmolHFForConditionalGeneration(
        SmolHFConfig(
            vision_config={"model_type": "siglip_vision_model", **vision},
            text_config={"norm_eps": 1e-5, **text},
            scale_factor=SCALE,
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        )
    )


def copy_weights(model, weights):
    """Give our model the peer's weights: only the names of the three parts differ."""
    prefixes = {
        "model.vision_model.": "vision_model.",
        "model.connector.modality_projection.proj.": "connector.proj.",
        "model.text_model.": "language_model.model.",
        "lm_head.": "language_model.lm_head.",
    }
    renamed = {}
    for name, weight in weights.items():
        prefix = next(prefix for prefix in prefixes if name.startswith(prefix))
        renamed[prefixes[prefix] + name.removeprefix(prefix)] = weight
    model.load_state_dict(renamed)


def ours(samples):
    """(model, collate, loss) of smol_hf."""
    tokenizer = build_tokenizer()
    model = build_ours(tokenizer)
    copy_weights(model, build_peer(tokenizer).state_dict())
    return with_our_collator(model, tokenizer, samples)


def connector_stage(samples, caches=None):
    """(model, collate, loss) of smol_hf with padded rows, a frozen encoder and decoder; `caches`: of features."""
    from smol_hf.data.image_features import ImageFeatures

    tokenizer = build_tokenizer()
    model = build_ours(tokenizer, SCALED)
    model.vision_model.requires_grad_(False)
    model.language_model.requires_grad_(False)
    features = None if caches is None else ImageFeatures(model, caches=Path(caches))
    return with_our_collator(model, tokenizer, samples, packing=False, image_features=features)


def with_our_collator(model, tokenizer, samples, packing=True, image_features=None):
    import io

    from smol_hf import SmolHFProcessor
    from smol_hf.data.collator import SmolCollator
    from smol_hf.data.conversation import Conversation, ImagePart, Message, TextPart
    from smol_hf.data.stream.preparation import SampleWork

    processor = SmolHFProcessor(
        tokenizer, tile_size=TILE, image_seq_len=model.config.image_seq_len, longest_edge=LONGEST_EDGE
    )

    def row(index, image, question, answer):
        stream = io.BytesIO()
        image.save(stream, "BMP")  # nothing to decode: the peer gets decoded pictures too
        user = Message("user", (ImagePart(content=stream.getvalue()), TextPart(question)))
        return Conversation(str(index), (user, Message("assistant", (TextPart(answer),))))

    rows = [row(index, *sample) for index, sample in enumerate(samples)]
    collator = SmolCollator(processor, packing=packing)
    collator.image_features = image_features
    work = SampleWork(processor, 4096, [None])

    def collate(indices):
        return collator([work.encode(0, work.prepare(0, str(index), rows[index])) for index in indices])

    return model, collate, lambda batch: model(**batch, use_cache=False).loss


def peer(samples):
    """(model, collate, loss) of transformers and TRL."""
    from transformers import Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling
    from trl.trainer.utils import add_fused_lm_head

    from smol_hf.processing.chat_format import DEFAULT_CHAT_TEMPLATE

    tokenizer = build_tokenizer()
    model = build_peer(tokenizer)
    add_fused_lm_head(model, outputs=("log_probs",))
    image_processor = Idefics3ImageProcessorPil(
        size={"longest_edge": LONGEST_EDGE}, max_image_size={"longest_edge": TILE}
    )
    processor = Idefics3Processor(
        image_processor,
        tokenizer,
        image_seq_len=(TILE // SMALL.patch // SCALE) ** 2,
        chat_template=DEFAULT_CHAT_TEMPLATE,
    )
    tokenizer.padding_side = "right"
    collator = DataCollatorForVisionLanguageModeling(processor, max_length=None, assistant_only_loss=True)
    rows = [
        {
            "images": [image],
            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        }
        for image, question, answer in samples
    ]

    def loss(batch):
        outputs = model(**batch, fused_lm_head=True)
        return -outputs.log_probs.sum() / outputs.label_mask.sum()

    return model, lambda indices: collator([dict(rows[index]) for index in indices]), loss


def memory():
    """Peak resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(side, samples_number, batch_size, rounds, threads):
    """`side`: a function that returns (model, collate, loss) for samples, and its further arguments."""
    torch.set_num_threads(threads)
    samples = build_samples(samples_number)
    build, *further = side
    model, collate, loss_of = build(samples, *further)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-4)
    model.train()
    batches = [list(range(start, start + batch_size)) for start in range(0, samples_number, batch_size)]
    seconds = dict.fromkeys(("collate", "forward", "backward", "optimizer"), 0.0)
    counts = {"samples": 0, "tokens": 0, "positions": 0, "labelled": 0}
    losses = []
    before = memory()
    for round_number in range(rounds + 1):
        for indices in batches:
            times = [time.perf_counter()]
            batch = collate(indices)
            times.append(time.perf_counter())
            loss = loss_of(batch)
            times.append(time.perf_counter())
            loss.backward()
            times.append(time.perf_counter())
            optimizer.step()
            optimizer.zero_grad()
            times.append(time.perf_counter())
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
    return {
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "samples_per_second": counts["samples"] / total,
        "useful_tokens_per_second": counts["tokens"] / total,
        "peak_memory_mib": memory() - before,
        "padding_fraction": 1 - counts["tokens"] / counts["positions"],
        "labelled_tokens": counts["labelled"],
        "share_of_time": {part: value / total for part, value in seconds.items()},
    }


def run_side(side, arguments):
    """Measure in a forked process, which spares it the imports."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        sizes = arguments.samples, arguments.batch_size, arguments.rounds, arguments.threads
        return pool.submit(measure, side, *sizes).result()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2, help="measured passes over the samples, after one to warm up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cached-features", action="store_true", help="compare a connector stage with and without")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as caches:
        sides = {"smol_hf": (ours,), "peer": (peer,)}
        if arguments.cached_features:
            sides = {"cached": (connector_stage, caches), "frozen": (connector_stage,)}
        results = {name: run_side(side, arguments) for name, side in sides.items()}
    for side, result in results.items():
        shares = "  ".join(f"{part} {share:.0%}" for part, share in result["share_of_time"].items())
        print(
            f"{side:8} {result['samples_per_second']:6.2f} samples/s, {result['peak_memory_mib']:6.0f} MiB", end=", "
        )
        print(f"{result['useful_tokens_per_second']:6.0f} useful tokens/s, padding {result['padding_fraction']:.0%}")
        print(f"         {shares}")
    first, second = results
    ratio = {
        name: results[first][name] / results[second][name]
        for name in ("samples_per_second", "useful_tokens_per_second", "peak_memory_mib")
    }
    print(json.dumps({**results, "ratio": ratio}))


if __name__ == "__main__":
    main()
