"""Training steps of smol_hf beside transformers' SmolVLM fed by TRL's vision collator.

    python benchmarks/train_step.py [--samples 32] [--batch-size 4] [--rounds 2] [--threads 2] [--cached-features]

Both start from the same weights and train on the same conversations about pictures of unequal sizes, with the same
tokens labelled (the assistant's). Each side runs in a process of its own, so that its peak memory is its own, and
they take turns:

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

import json
import tempfile
from pathlib import Path

from compared_models import (
    SCALED,
    build_ours,
    build_peer,
    build_processor,
    build_tokenizer,
    copy_weights,
)
from measured_steps import parser_of, run_sides


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


def main():
    parser = parser_of(__doc__)
    parser.add_argument("--cached-features", action="store_true", help="compare a connector stage with and without")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as caches:
        sides = {"smol_hf": (ours, not arguments.mixture), "peer": (peer,)}
        if arguments.cached_features:
            sides = {"cached": (connector_stage, caches), "frozen": (connector_stage,)}
        results = run_sides(sides, arguments)
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
