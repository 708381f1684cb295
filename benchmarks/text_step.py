"""Training steps of our decoder beside transformers' LlamaForCausalLM, in one process.

    python benchmarks/text_step.py [--steps 20] [--threads 2] [--cases NAME ...] [--quick]

Same configuration, weights, batches and optimizer (AdamW); every token is labelled, as in pretraining. The two take
steps in turns, so that whatever else the machine does slows both; the losses of each step must agree. A step is
forward, loss, backward, AdamW. Each case prints medians, and the last line is JSON: per case and side tokens/s, and
their ratio, the median of what Llama took over what ours took in the same turn.

On a GPU the published sizes are measured too, in bfloat16 autocast, with the model FLOPs utilisation

    tokens/s · (6 · parameters + 12 · layers · width · sequence) / peak        (PaLM, arXiv:2204.02311, appendix B)

where the parameters include a tied head once, the width is heads · head_dim, and the peak is that of dense bfloat16
matrices in the vendor's data sheet.

`--quick` runs all cases, the GPU's included, at tiny sizes on what is there. With other work on the machine,
`--threads 1` is disturbed least.
"""

import argparse
import json
import statistics
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from options import positive
from transformers import LlamaConfig, LlamaForCausalLM

from smol_hf.modeling.configuration_smol_hf_text import SmolHFTextConfig
from smol_hf.modeling.mask import sample_bounds
from smol_hf.modeling.modeling_smol_hf_text import SmolHFForCausalLM
from smol_hf.training.model.presets import llama_style, preset_config

WARMUP_STEPS = 3
PEAK_TFLOPS = {
    "H200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "A100": 312, "L40S": 362, "L40": 181, "L4": 121,
    "RTX 4090": 165,
}  # fmt: skip
PUBLISHED = {"gpt-93m": "19,000 to 21,000 tokens/s"}


@dataclass
class Case:
    """Rows of `sequence` tokens, each of `documents` documents, packed."""

    preset: str
    rows: int
    sequence: int
    documents: int = 1
    layers: int | None = None
    vocabulary: int | None = None
    gpu: bool = False

    def config(self):
        if self.preset == "1m":
            settings = llama_style(128, 384, 4, 4, 2, 10000.0, 2048, 1024)
        else:
            settings = preset_config(self.preset).to_dict()
        changed = {"num_hidden_layers": self.layers, "vocab_size": self.vocabulary}
        settings |= {key: value for key, value in changed.items() if value is not None}
        return SmolHFTextConfig(**{**settings, "no_rope_layers": None})


CASES = {
    "1m-64": Case("1m", 8, 64),
    "1m-128": Case("1m", 8, 128),
    "1m-128-packed": Case("1m", 8, 128, documents=4),
    "135m-4-layers-256": Case("smollm2-135m", 1, 256, layers=4),
    "135m-4-layers-512": Case("smollm2-135m", 1, 512, layers=4),
    "135m-4-layers-512-packed": Case("smollm2-135m", 1, 512, layers=4, documents=4),
    "smollm2-135m-2048": Case("smollm2-135m", 8, 2048, gpu=True),
    "smollm2-135m-2048-packed": Case("smollm2-135m", 8, 2048, documents=4, gpu=True),
    "gpt-93m": Case("gpt-93m", 4, 64, gpu=True),
}


def llama_of(config):
    """Transformers' configuration of the same model, None where Llama has no such model."""
    if config.position_embedding_type != "rotary" or config.norm_type != "rms_norm" or not config.gated_mlp:
        return None
    names = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "rope_parameters",
        "tie_word_embeddings", "attention_bias", "mlp_bias", "pad_token_id", "bos_token_id", "eos_token_id",
    )  # fmt: skip
    return LlamaConfig(rms_norm_eps=config.norm_eps, **{name: getattr(config, name) for name in names})


def build_sides(config, device):
    """{name: model}, of equal weights."""
    torch.manual_seed(0)
    sides = {"smol_hf": SmolHFForCausalLM(config)}
    if (llama := llama_of(config)) is not None:
        sides["llama"] = LlamaForCausalLM(llama)
        sides["llama"].load_state_dict(sides["smol_hf"].state_dict())
    return {name: model.to(device).train() for name, model in sides.items()}


def build_batch(case, vocabulary, device, seed):
    """Random tokens; of each document all but the first token are labelled, as our collator packs."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocabulary, (case.rows, case.sequence), generator=random)
    length = case.sequence // case.documents
    batch = {"input_ids": ids, "labels": ids.clone()}
    if case.documents > 1:
        batch["position_ids"] = (torch.arange(case.sequence) % length).expand(case.rows, -1)
        batch["labels"][:, ::length] = -100
    batch["num_items_in_batch"] = (batch["labels"][:, 1:] != -100).sum()
    return {name: tensor.to(device) for name, tensor in batch.items()}


def ours(batch):
    """The batch as our collator gives it: where samples begin in packed rows."""
    return batch | sample_bounds(batch["position_ids"]) if "position_ids" in batch else batch


def run_step(model, optimizer, batch, precision):
    """(seconds, loss) of one step."""
    synchronize = torch.cuda.synchronize if batch["input_ids"].is_cuda else lambda: None
    synchronize()
    start = time.perf_counter()
    with precision():
        loss = model(**batch, use_cache=False).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    synchronize()
    return time.perf_counter() - start, loss.item()


def flops_per_token(model, config, sequence):
    parameters = sum(weight.numel() for weight in model.parameters())
    if config.position_embedding_type == "learned":
        parameters -= model.model.embed_positions.weight.numel()  # looked up, never multiplied
    width = config.num_attention_heads * config.head_dim
    return 6 * parameters + 12 * config.num_hidden_layers * width * sequence


def peak_tflops(device):
    name = torch.cuda.get_device_name(device) if device == "cuda" else ""
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


def measure(case, steps, device):
    config = case.config()
    sides = build_sides(config, device)
    optimizers = {
        name: torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        for name, model in sides.items()
    }
    bfloat16 = case.gpu
    precision = (lambda: torch.autocast(device, torch.bfloat16)) if bfloat16 else nullcontext
    seconds = {name: [] for name in sides}
    for step in range(WARMUP_STEPS + steps):
        batch = build_batch(case, config.vocab_size, device, seed=step)
        losses = {}
        for name in sorted(sides, reverse=step % 2):  # who goes first changes
            given = ours(batch) if name == "smol_hf" else batch
            taken, losses[name] = run_step(sides[name], optimizers[name], given, precision)
            if step >= WARMUP_STEPS:
                seconds[name].append(taken)
        spread = max(losses.values()) - min(losses.values())
        if spread > (0.05 if bfloat16 else 1e-4):
            raise AssertionError(f"step {step}: the losses differ: {losses}")
    tokens = case.rows * case.sequence
    result = {
        "parameters": sum(weight.numel() for weight in sides["smol_hf"].parameters()),
        "tokens_per_step": tokens,
        "last_loss": losses["smol_hf"],
        "tokens_per_second": {name: tokens / statistics.median(taken) for name, taken in seconds.items()},
    }
    if "llama" in seconds:
        turns = [theirs / ours for theirs, ours in zip(seconds["llama"], seconds["smol_hf"])]
        result["ratio"] = statistics.median(turns)
    if case.gpu and (peak := peak_tflops(device)):
        flops = flops_per_token(sides["smol_hf"], config, case.sequence)
        result["peak_tflops"] = peak
        result["model_flops_utilisation"] = {
            name: rate * flops / (peak * 1e12) for name, rate in result["tokens_per_second"].items()
        }
    return result


def describe(name, result):
    rates = ", ".join(f"{side} {rate:,.0f} tokens/s" for side, rate in result["tokens_per_second"].items())
    line = f"{name:26} {rates}"
    if "ratio" in result:
        line += f", ratio {result['ratio']:.3f}"
    if "model_flops_utilisation" in result:
        used = result["model_flops_utilisation"]["smol_hf"]
        line += f", {used:.1%} of {result['peak_tflops']} TFLOP/s"
    return line + (f" (published: {PUBLISHED[name]})" if name in PUBLISHED else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=positive, default=20, help="measured steps of each side, after 3 to warm up")
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that all of it runs")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    results = {"device": torch.cuda.get_device_name() if gpu else f"cpu, {arguments.threads} threads"}
    for name in arguments.cases:
        case = CASES[name]
        if arguments.quick:
            case = replace(case, rows=1, sequence=32, layers=1, vocabulary=512)
        elif case.gpu and not gpu:
            print(f"{name:26} not measured: there is no GPU")
            results[name] = None
            continue
        results[name] = measure(case, arguments.steps, device)
        print(describe(name, results[name]), flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
