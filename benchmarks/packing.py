"""How full rows become: the online pool against TRL's best-fit-decreasing on the same stream of lengths.

    python benchmarks/packing.py [--samples 20000] [--context-length 4096] [--pool 128]

The lengths are heavy-tailed: 10 % of the samples are text alone, the others have 1 to 17 tiles of 64 tokens (up to
1,100 with their marks), and the text is log-normal with a median of 140 tokens.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import pyarrow
from datasets import Dataset
from options import positive
from trl import pack_dataset

from smol_hf.data.stream.packing import PackingPool, Planned

TILES, SHARES = [0, 1, 3, 5, 7, 9, 10, 13, 16], [0.10, 0.20, 0.10, 0.15, 0.12, 0.08, 0.05, 0.15, 0.05]
TOKENS_OF_A_TILE = 67


def lengths(number: int, context_length: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(tokens, tiles) of `number` samples; all fit a row."""
    random = np.random.default_rng(seed)
    tiles = random.choice(TILES, size=number, p=SHARES)
    text = np.clip(np.exp(random.normal(np.log(140), 1.1, number)), 8, None).astype(int)
    return np.minimum(tiles * TOKENS_OF_A_TILE + text, context_length), tiles


def pack_stream(samples: list[Planned], context_length: int, size: int, max_tiles: int | None) -> list[list[Planned]]:
    pool, waiting, rows = PackingPool(context_length, max_tiles=max_tiles, size=size), iter(samples), []
    while True:
        while pool.has_room and (sample := next(waiting, None)) is not None:
            pool.add(sample)
        row = pool.next_row()
        if not row:
            return rows
        rows.append(row)


def fill(rows: list[list[int]], context_length: int) -> float:
    return sum(map(sum, rows)) / (len(rows) * context_length)


def slowest_over_mean(rows: list[list[Planned]], tiles: np.ndarray, processes: int = 4) -> float:
    """The tiles of the process that has the most in a step, over the mean of all: what waiting for it costs."""
    counts = np.array([sum(tiles[sample.reference] for sample in row) for row in rows])
    steps = counts[: len(counts) // processes * processes].reshape(-1, processes)
    return round(float(steps.max(1).mean() / counts.mean()), 3)


def trl_rows(tokens: np.ndarray, context_length: int, chunk: int) -> list[list[int]]:
    """TRL's `bfd` sees the chunk as one batch."""
    rows = []
    for start in range(0, len(tokens), chunk):
        ids = pyarrow.array([np.zeros(length, dtype=np.int32) for length in tokens[start : start + chunk]])
        packed = pack_dataset(Dataset(pyarrow.table({"input_ids": ids})), context_length, "bfd")
        rows += packed["seq_lengths"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=positive, default=20_000)
    parser.add_argument("--context-length", type=positive, default=4096)
    parser.add_argument("--pool", type=positive, default=128)
    arguments = parser.parse_args()
    context = arguments.context_length
    tokens, tiles = lengths(arguments.samples, context)
    samples = [Planned(i, int(tokens[i]), int(tiles[i])) for i in range(len(tokens))]

    started = time.process_time()
    rows = pack_stream(samples, context, arguments.pool, None)
    microseconds = (time.process_time() - started) / len(samples) * 1e6
    assert sorted(sample.reference for row in rows for sample in row) == list(range(len(samples)))
    budget = int(np.ceil(1.1 * context * tiles.mean() / tokens.mean()))
    bounded = pack_stream(samples, context, arguments.pool, budget)
    by_tokens = pack_stream([Planned(s.reference, s.num_tokens) for s in samples], context, arguments.pool, None)
    peer = trl_rows(tokens, context, arguments.pool)
    figures = {
        "fill": round(fill([[s.num_tokens for s in row] for row in rows], context), 4),
        "fill_trl_bfd_same_pool": round(fill(peer, context), 4),
        "fill_with_tile_budget": round(fill([[s.num_tokens for s in row] for row in bounded], context), 4),
        "microseconds_per_sample": round(microseconds, 2),
        "slowest_of_4_over_mean": {
            "by_tokens_alone": slowest_over_mean(by_tokens, tiles),
            "by_tokens_and_tiles": slowest_over_mean(rows, tiles),
            "with_tile_budget": slowest_over_mean(bounded, tiles),
        },
        "samples": len(samples),
        "rows": len(rows),
        "truncated": 0,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
