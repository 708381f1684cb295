"""Generation of smol_hf compared with transformers' Llama and SmolVLM, with the same weights.

    python benchmarks/generate.py [--new-tokens 48] [--pairs 5] [--threads 2] [--batches 1,8,32] [--cpu-time]

Prompts are texts of 64 tokens, or the same with an image of one tile of 16 tokens. Both classes answer greedily by
transformers' `generate`, with a dynamic and with a static cache. The two answers must have the same tokens.

The cores of a machine may be shared. So each measurement is a pair of calls, ours and transformers', in alternating
order, and the ratio is the median over the pairs. On a busy machine, --cpu-time with --threads 1 counts the time of
this process only.

The last line is JSON: for each prompt, cache and batch size the milliseconds to the first token, the tokens/s after
it, and the ratios (above 1: smol_hf is faster).
"""

import argparse
import json
import statistics
import time

import torch
from compared_models import SMALL, build_ours, build_peer, build_tokenizer, copy_weights
from options import positive

PROMPT = 64


def build_models():
    """Return (ours, transformers') for each kind of prompt."""
    from transformers import LlamaForCausalLM

    tokenizer = build_tokenizer()
    peer, ours = build_peer(tokenizer).eval(), build_ours(tokenizer).eval()
    copy_weights(ours, peer.state_dict())
    llama = LlamaForCausalLM(peer.config.text_config).eval()
    llama.load_state_dict(ours.language_model.state_dict())
    for model in (ours, ours.language_model, peer, llama):
        model.generation_config.eos_token_id = None
    return {"text": (ours.language_model, llama), "image": (ours, peer)}


def inputs_of(kind, batch, model):
    """Return the inputs of (ours, transformers') for random prompts of equal length."""
    generator = torch.Generator().manual_seed(batch)
    ids = torch.randint(400, SMALL.vocabulary, (batch, PROMPT), generator=generator)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if kind == "text":
        return inputs, inputs
    ids[:, 4 : 4 + model.config.image_seq_len] = model.config.image_token_id
    tiles = torch.randint(0, 256, (batch, 3, SMALL.tile, SMALL.tile), dtype=torch.uint8, generator=generator)
    normalised = (tiles.float() / 255 - 0.5) / 0.5
    return {**inputs, "pixel_values": tiles}, {**inputs, "pixel_values": normalised.unsqueeze(1)}


@torch.inference_mode()
def timed(model, inputs, new_tokens, cache, clock):
    """Generate this number of tokens → (new tokens, seconds)."""
    started = clock()
    cache = None if cache == "dynamic" else cache
    tokens = model.generate(
        **inputs, max_new_tokens=new_tokens, do_sample=False, pad_token_id=0, cache_implementation=cache
    )
    return tokens[:, PROMPT:], clock() - started


def measure(models, inputs, batch, new_tokens, cache, pairs, clock):
    """Return milliseconds to the first token, tokens/s after it, and both ratios."""
    answers = [timed(model, given, new_tokens, cache, clock)[0] for model, given in zip(models, inputs)]  # a warm-up
    assert torch.equal(*answers), "the two classes do not answer alike"
    firsts, rates = [], []
    for pair in range(pairs):
        order = (0, 1) if pair % 2 else (1, 0)
        seconds = {
            side: [timed(models[side], inputs[side], number, cache, clock)[1] for number in (1, new_tokens)]
            for side in order
        }
        firsts.append([seconds[side][0] * 1000 for side in (0, 1)])
        rates.append([(new_tokens - 1) * batch / (seconds[side][1] - seconds[side][0]) for side in (0, 1)])
    first, rate = ([statistics.median(column) for column in zip(*values)] for values in (firsts, rates))
    return {
        "first_token_ms": dict(zip(("smol_hf", "transformers"), first)),
        "tokens_per_second": dict(zip(("smol_hf", "transformers"), rate)),
        "first_token_ratio": statistics.median(theirs / ours for ours, theirs in firsts),
        "tokens_per_second_ratio": statistics.median(ours / theirs for ours, theirs in rates),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--new-tokens", type=positive, default=48)
    parser.add_argument("--pairs", type=positive, default=5)
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--cpu-time", action="store_true", help="time of this process instead of time that passes")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    results = {}
    for kind, models in build_models().items():
        for cache in ("dynamic", "static"):
            for batch in map(int, arguments.batches.split(",")):
                inputs = inputs_of(kind, batch, models[0])
                found = measure(models, inputs, batch, arguments.new_tokens, cache, arguments.pairs, clock)
                results[f"{kind}, {cache}, {batch}"] = found
                first, rate = found["first_token_ms"]["smol_hf"], found["tokens_per_second"]["smol_hf"]
                print(
                    f"{kind:5} {cache:7} batch {batch:2}: first token {first:6.1f} ms "
                    f"(×{found['first_token_ratio']:.2f}), {rate:7.0f} tokens/s "
                    f"(×{found['tokens_per_second_ratio']:.2f})"
                )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
