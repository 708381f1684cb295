"""The benchmarks of `run_all.py`: their commands, and the figures that the page shows."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Benchmark:
    """A script, what it compares, and the entries of its result that the page shows.

    Attributes:
        words: options of the script.
        name: of the result, if the script has several.
        gpu: it needs a GPU.
        seconds: the most that it may take; longer is a fault.
        figures: description → path of the entry in the JSON, with dots.
        ratios: the same, of ratios above 1 where ours is better; the plot shows them too.
    """

    script: str
    title: str
    text: str
    ratios: dict[str, str] = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    name: str = ""
    gpu: bool = False
    seconds: int | None = None

    @property
    def key(self) -> str:
        return self.name or self.script


INGREDIENTS = {  # of a training step, which are on by default
    "packing": "packing", "logits at labels only": "label_logits", "uint8 tiles": "uint8_tiles",
    "attention by sample": "by_sample", "positions found by the collator": "located", "fused AdamW": "fused_adamw",
}  # fmt: skip

BENCHMARKS = (
    Benchmark(
        "train_step",
        "Training step, images",
        "Packed rows against transformers' SmolVLM with TRL's collator: the same weights, samples and labels.",
        {"step, useful tokens/s": "ratio.useful_tokens_per_second"},
        {
            "peak memory, ours / theirs": "ratio.peak_memory_mib",
            "model FLOPs utilisation, ours": "smol_hf.mfu",
            "model FLOPs utilisation, theirs": "peer.mfu",
        },
    ),
    Benchmark(
        "train_step",
        "Training step, a mixture",
        "Samples of text, one image, two images and frames of a video; ours does not enlarge small images.",
        {"mixture, samples/s": "ratio.samples_per_second"},
        {"peak memory, ours / theirs": "ratio.peak_memory_mib"},
        ("--mixture",),
        "mixture_step",
    ),
    Benchmark(
        "ablations",
        "What each ingredient is worth",
        "A training step of images with the ingredient, over one without it. A recipe turns options on.",
        {name: f"{key}.speed" for name, key in INGREDIENTS.items()},
        {
            **{f"{name}, memory": f"{key}.memory" for name, key in INGREDIENTS.items()},
            "option torch_compile, speed": "compile.speed",
            "option torch_compile, memory": "compile.memory",
            "option gradient checkpointing, speed": "checkpointing.speed",
            "option gradient checkpointing, memory": "checkpointing.memory",
            "option bfloat16, speed": "bfloat16.speed",
            "option bfloat16, memory": "bfloat16.memory",
            "option Muon, speed": "muon.speed",
        },
    ),
    Benchmark(
        "train_step",
        "Cached features of a frozen encoder",
        "A stage in which only the connector learns: `cache_image_features` against the encoder in each pass.",
        {"connector stage, cached features": "ratio.samples_per_second"},
        {"peak memory, cached / not": "ratio.peak_memory_mib"},
        ("--cached-features",),
        "cached_features",
    ),
    Benchmark(
        "nanovlm_step",
        "Training step, nanoVLM",
        "nanoVLM's own model and data path, with the same weights (converted), tokens, tiles and labels.",
        {"nanoVLM, padded rows": "ratio_padded", "nanoVLM, its packed rows": "ratio_packed"},
        {"difference of the first loss": "first_loss_difference"},
    ),
    Benchmark(
        "text_step",
        "Training step, text",
        "Our decoder against transformers' Llama: the same weights, batches and optimizer.",
        {
            "text, 1 M parameters, rows of 64": "1m-64.ratio",
            "text, 1 M parameters, rows of 128": "1m-128.ratio",
            "text, 1 M parameters, packed": "1m-128-packed.ratio",
            "text, 135 M shape, 4 layers, rows of 256": "135m-4-layers-256.ratio",
            "text, 135 M shape, 4 layers, rows of 512": "135m-4-layers-512.ratio",
            "text, 135 M shape, 4 layers, packed": "135m-4-layers-512-packed.ratio",
        },
    ),
    Benchmark(
        "data_pipeline",
        "From JPEGs to a batch",
        "One core each, against transformers' processor in TRL's collator.",
        {
            "data, equal pixels": "ratio_exact",
            "data, fast": "ratio_fast",
            "data, not enlarged": "ratio_native",
            "data, not enlarged, fast": "ratio_native_fast",
        },
        {"bytes of a batch, ours / theirs": "bytes_ratio", "two data workers over one": "ratio_two_workers"},
    ),
    Benchmark(
        "video",
        "Videos",
        "32 chosen frames of a clip, against transformers' reader with PyAV.",
        {
            "10 minutes, 180p: tiles": "ten_minutes_180p.tiles_ratio",
            "10 seconds, 720p: tiles": "ten_seconds_720p.tiles_ratio",
        },
        {"memory of a worker, 4k clip, ours / theirs": "memory_4k.share"},
    ),
    Benchmark(
        "packing",
        "Packing",
        "Rows of 4,096 tokens from a pool of 128 samples.",
        figures={
            "filled, ours": "fill",
            "filled, TRL's best-fit-decreasing with the same pool": "fill_trl_bfd_same_pool",
            "slowest of 4 processes over the mean": "slowest_of_4_over_mean.by_tokens_and_tiles",
        },
    ),
    Benchmark(
        "evaluate",
        "Answers",
        "`smol-hf evaluate` against a plain loop of transformers' `generate`, elapsed time.",
        {"answers, images": "image.ratio", "answers, text": "text.ratio", "answers, mixed": "mixed.ratio"},
    ),
    Benchmark(
        "generate",
        "Generation",
        "transformers' Llama and SmolVLM with the same weights and answers. Tokens/s after the first token.",
        {
            f"{kind}, {cache} cache, batch {batch}": f"{kind}, {cache}, {batch}.tokens_per_second_ratio"
            for kind in ("text", "image")
            for cache in ("dynamic", "static")
            for batch in (1, 8, 32)
        },
        {
            f"time to first token, {kind}, batch {batch}, theirs / ours": f"{kind}, dynamic, {batch}.first_token_ratio"
            for kind in ("text", "image")
            for batch in (1, 8, 32)
        },
    ),
    Benchmark(
        "scaling",
        "Growth",
        "The time of a step per tile, per token and per sample, the largest row over the smallest, and two processes.",
        figures={
            "16 tiles over 1, per tile": "tiles.ratio",
            "2,048 tokens over 256, per token": "length.ratio",
            "64 samples over 1, in as many tokens": "samples.ratio",
            "2 processes of one thread over 1": "processes.ratio",
        },
    ),
    Benchmark(
        "long_run",
        "A long run",
        "`smol-hf train` for 2,000 steps, with data workers and checkpoints.",
        figures={"growth of memory, MiB": "growth_mib", "speed of the second quarter over the last": "slowdown"},
    ),
    Benchmark(
        "startup",
        "Start",
        "New processes, against `trl --help`, and SmolVLM of transformers.",
        {"start, help": "help.ratio", "start, import": "import.ratio", "start, load": "load.ratio"},
        {"seconds of smol-hf --help": "help.ours_seconds"},
    ),
    Benchmark(
        "scaling_plan",
        "Many GPUs",
        "Arithmetic, checked with two CPU processes: the predicted over the measured seconds of a step.",
        figures={
            "DDP, predicted / measured": "check.DDP_predicted_over_measured",
            "FSDP2, predicted / measured": "check.FSDP2_predicted_over_measured",
        },
        words=("--check",),
    ),
    *(
        Benchmark(
            "train_step",
            f"{name}, {tokens} tokens in a row, one GPU",
            "Packed rows against transformers' SmolVLM with TRL's collator, in bfloat16 autocast.",
            {f"{name}, {tokens}, useful tokens/s": "ratio.useful_tokens_per_second"},
            {
                "model FLOPs utilisation": "smol_hf.mfu",
                "share of the time in the data path": "smol_hf.share_of_time.collate",
            },
            ("--device", "cuda", "--size", size, "--batch-size", str(batch), "--samples", str(4 * batch)),
            f"{size}-{batch}",
            gpu=True,
            seconds=75,
        )
        for name, size in (("SmolVLM2-256M", "smolvlm2-256m"), ("SmolVLM2-500M", "smolvlm2-500m"))
        for tokens, batch in (("2k", 2), ("8k", 7))
    ),
    Benchmark(
        "text_step",
        "Text, one GPU",
        "SmolLM2-135M in rows of 2,048 tokens, and a GPT of 93 M parameters with 4 rows of 64, in bfloat16 autocast.",
        {"SmolLM2-135M": "smollm2-135m-2048.ratio", "SmolLM2-135M, packed": "smollm2-135m-2048-packed.ratio"},
        {
            "SmolLM2-135M, MFU": "smollm2-135m-2048.model_flops_utilisation.smol_hf",
            "GPT of 93 M, tokens/s": "gpt-93m.tokens_per_second.smol_hf",
        },
        ("--cases", "smollm2-135m-2048", "smollm2-135m-2048-packed", "gpt-93m"),
        "text-gpu",
        gpu=True,
        seconds=60,
    ),
    Benchmark(
        "ablations",
        "What each ingredient is worth, one GPU",
        "SmolVLM2-256M, 8k tokens in a row, in bfloat16 autocast.",
        {f"GPU, {name}": f"{key}.speed" for name, key in INGREDIENTS.items()},
        {"torch_compile, speed": "compile.speed", "gradient checkpointing, speed": "checkpointing.speed"},
        (
            *("--device", "cuda", "--size", "smolvlm2-256m", "--batch-size", "7", "--samples", "14", "--rounds", "1"),
            *("--only", *INGREDIENTS.values(), "compile", "checkpointing"),
        ),
        "ablations-gpu",
        gpu=True,
        seconds=150,
    ),
)
