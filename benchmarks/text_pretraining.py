"""How well a small language model learns a text, against a trigram model of its bytes.

    python benchmarks/text_pretraining.py --data tinyshakespeare.txt --seconds 300
    python benchmarks/text_pretraining.py --data tinyshakespeare.txt --steps 300 --optimizers adamw muon

Trains `--preset` (smollm-tiny, about a million parameters) on the text for about `--seconds`, and measures bits per
byte on the same held-out end of the text: those of the model, and those of a trigram model of bytes, interpolated with
its bigrams and unigrams, whose weights are chosen on the last tenth of the training text. One JSON line at the end.

The second command compares optimizers by their validation loss: each at `--rates`, then the best rate of each with all
`--seeds`. The slower optimizers are also compared in the time of the first, with fewer steps.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from options import positive

from smol_hf.commands.main import main as smol_hf
from smol_hf.text.documents.held_out import HeldOut, Split
from smol_hf.text.documents.readers import open_documents

FRACTION = 0.05
TRIAL_STEPS = 20


def halves(path: Path, fraction: float) -> tuple[bytes, bytes]:
    """The bytes that are trained on, and those held out, as a run splits them."""
    parts = {False: [], True: []}
    for part in Split(open_documents(str(path)), HeldOut(fraction)):
        parts[part.is_held_out].append("".join(part.chunks))
    return "".join(parts[False]).encode(), "".join(parts[True]).encode()


class Trigrams:
    """p(c | a, b) = mixture of the counts of abc, bc, c and of a uniform byte."""

    def __init__(self, text: bytes):
        codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64)
        self.one = np.bincount(codes, minlength=256).astype(float)
        self.two = np.bincount(codes[:-1] * 256 + codes[1:], minlength=256**2).reshape(256, 256).astype(float)
        three = codes[:-2] * 256**2 + codes[1:-1] * 256 + codes[2:]
        self.three = np.bincount(three, minlength=256**3).reshape(256, 256, 256).astype(np.float32)

    def estimates(self, text: bytes) -> np.ndarray:
        """(4, bytes): the four estimates of each byte after the second."""
        codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64)
        a, b, c = codes[:-2], codes[1:-1], codes[2:]
        pairs = np.maximum(self.three.sum(-1)[a, b], 1)
        return np.stack(
            [
                self.three[a, b, c] / pairs,
                self.two[b, c] / np.maximum(self.two.sum(-1)[b], 1),
                self.one[c] / self.one.sum(),
                np.full(len(c), 1 / 256),
            ]
        )

    def fit(self, text: bytes, rounds: int = 50) -> np.ndarray:
        """The weights of the mixture, by expectation maximisation on a text that was not counted."""
        estimates, weights = self.estimates(text), np.full(4, 0.25)
        for _ in range(rounds):
            shares = weights[:, None] * estimates
            weights = (shares / shares.sum(0)).mean(1)
        return weights

    def bits_per_byte(self, text: bytes, weights: np.ndarray) -> float:
        return float(-np.log2(weights @ self.estimates(text)).mean())


def trigram_bits(train: bytes, held_out: bytes) -> float:
    known = len(train) * 9 // 10
    weights = Trigrams(train[:known]).fit(train[known:])
    return Trigrams(train).bits_per_byte(held_out, weights)


def pretrain(data: Path, preset: str, steps: int, folder: Path, *more: str, name: str = "run") -> dict:
    words = ["pretrain", "--data", str(data), "--preset", preset, "--steps", str(steps)]
    words += ["--output", str(folder / name), "--documents_cache", str(folder / "cache")]
    words += [f"--validation_fraction={FRACTION}", "--save_strategy=no", "--num_checkpoints=null", *more]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = smol_hf(words)
    if code:
        raise RuntimeError(f"smol-hf pretrain failed:\n{printed.getvalue()}")
    return json.loads(printed.getvalue().strip().splitlines()[-1])


def measure(data: Path, preset: str, seconds: float, steps: int | None, *more: str) -> dict:
    train, held_out = halves(data, FRACTION)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if steps is None:
            trial = pretrain(data, preset, TRIAL_STEPS, folder / "trial", f"--eval_delay={TRIAL_STEPS + 1}", *more)
            steps = max(round(0.85 * seconds / (trial["seconds"] / TRIAL_STEPS)), 1)
        started = time.perf_counter()
        found = pretrain(data, preset, steps, folder, *more)
        elapsed = time.perf_counter() - started
    bits = trigram_bits(train, held_out)
    return {
        "benchmark": "text_pretraining", "data": data.name, "train_bytes": len(train), "held_out_bytes": len(held_out),
        "preset": preset, "parameters": found["parameters"], "steps": steps, "seconds": round(elapsed, 1),
        "tokens_per_second": found["tokens_per_second"], "bits_per_byte": round(found["bits_per_byte"], 4),
        "trigram_bits_per_byte": round(bits, 4), "ratio": round(found["bits_per_byte"] / bits, 4),
        "perplexity_per_byte": round(math.exp(found["bits_per_byte"] * math.log(2)), 3),
    }  # fmt: skip


OPTIM = {"adamw": "adamw_torch_fused"}  # other names are values of the key `optim`


def compare(
    data: Path, preset: str, steps: int, optimizers: list[str], rates: list[float], seeds: list[int], *more: str
) -> dict:
    """Validation losses of each optimizer after the same steps, and in the time of the first one.

    Runs with the same rate or seed follow each other, so that their times can be compared. On a CPU it is the time of
    this process. It includes the training of a tokenizer, unless --tokenizer names one.
    """
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    with tempfile.TemporaryDirectory() as folder:

        def run(optimizer: str, rate: float, seed: int, steps: int = steps) -> dict:
            words = [f"--optim={OPTIM.get(optimizer, optimizer)}", f"--learning_rate={rate}", f"--seed={seed}"]
            name = f"{optimizer}-{rate}-{seed}-{steps}"
            started = clock()
            found = pretrain(data, preset, steps, Path(folder), *words, f"--eval_delay={steps + 1}", *more, name=name)
            return found | {"time": clock() - started}

        run(optimizers[0], rates[0], seeds[0], 1)  # writes the token cache and loads libraries
        swept = {rate: {name: run(name, rate, seeds[0]) for name in optimizers} for rate in rates}
        best = {name: min(rates, key=lambda rate: swept[rate][name]["validation_loss"]) for name in optimizers}
        further = [{name: run(name, best[name], seed) for name in optimizers} for seed in seeds[1:]]
        found: dict = {}
        for name in optimizers:
            pairs = [pair[name]["time"] / pair[optimizers[0]]["time"] for pair in (*swept.values(), *further)]
            time_of_a_step = statistics.median(pairs)
            found[name] = {
                "losses_of_rates": {rate: round(swept[rate][name]["validation_loss"], 4) for rate in rates},
                "losses": [round(each[name]["validation_loss"], 4) for each in (swept[best[name]], *further)],
                "time_of_a_step": round(time_of_a_step, 3), "times": [round(pair, 3) for pair in pairs],
            }  # fmt: skip
            if name != optimizers[0]:
                fewer = max(round(steps / time_of_a_step), 1)
                losses = [run(name, best[name], seed, fewer)["validation_loss"] for seed in seeds]
                found[name] |= {"same_time": {"steps": fewer, "losses": [round(loss, 4) for loss in losses]}}
    return {"benchmark": "text_pretraining", "data": data.name, "preset": preset, "steps": steps, "optimizers": found}


def main(command_line: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a text")
    parser.add_argument("--preset", default="smollm-tiny")
    parser.add_argument("--seconds", type=float, default=300, help="about how long to train (default 300)")
    parser.add_argument("--steps", type=positive, help="number of steps, instead of --seconds")
    parser.add_argument("--optimizers", nargs="+", help="compare these: adamw, muon, or others of the key optim")
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-3, 3e-3, 1e-2], help="peak learning rates")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    arguments, more = parser.parse_known_args(command_line)
    if arguments.optimizers:
        if arguments.steps is None:
            parser.error("--optimizers needs --steps")
        each = (arguments.optimizers, arguments.rates, arguments.seeds)
        result = compare(arguments.data, arguments.preset, arguments.steps, *each, *more)
    else:
        result = measure(arguments.data, arguments.preset, arguments.seconds, arguments.steps, *more)
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
