"""How the time of a training step grows with tiles, length, samples of a row, and processes.

    python benchmarks/scaling.py [--repeats 5] [--threads 2] [--quick]

The model is `SMALL` of `compared_models.py`. A step is forward, backward and AdamW on one packed row:

    tiles       this number of tiles, and 64 tokens of text
    length      one sample of this number of tokens
    samples     2,048 tokens, of this number of samples
    processes   1 and 2 processes of one thread each, with DistributedDataParallel over gloo and equal rows

The last line is JSON: per series the seconds of a step, and the last over the first per unit of work. A value of 1 is
linear, below 1 the larger row is cheaper per unit. For `processes` it is the rows per second of 2 over those of 1.
"""

import argparse
import json
import os
import statistics
import time
from tempfile import TemporaryDirectory

import torch
from compared_models import SMALL, build_ours, build_tokenizer
from options import positive
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from smol_hf.modeling.mask import sample_bounds

SERIES = {"tiles": [1, 2, 4, 8, 16], "length": [256, 512, 1024, 2048], "samples": [1, 4, 16, 64]}
ROW = 2048


def build_row(model, tiles: int = 0, text: int = 64, samples: int = 1) -> dict:
    """A packed row with image tokens first. All tokens of text have labels but the first of each sample."""
    random = torch.Generator().manual_seed(0)
    length = tiles * SMALL.image_seq_len + text
    ids = torch.randint(400, SMALL.vocabulary, (1, length), generator=random)
    ids[:, : tiles * SMALL.image_seq_len] = model.config.image_token_id
    positions = torch.cat([torch.arange(len(part)) for part in torch.arange(length).tensor_split(samples)])[None]
    labels = ids.masked_fill((ids == model.config.image_token_id) | (positions == 0), -100)
    row = {"input_ids": ids, "labels": labels, "position_ids": positions, **sample_bounds(positions)}
    if tiles:
        shape = (tiles, 3, SMALL.tile, SMALL.tile)
        row["pixel_values"] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=random)
    return row


def seconds_of(model, row: dict, repeats: int) -> float:
    """The median seconds of a step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    seconds = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        model(**row, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def row_of(series: str, number: int, model, length: int) -> dict:
    if series == "tiles":
        return build_row(model, tiles=number)
    return build_row(model, text=number) if series == "length" else build_row(model, text=length, samples=number)


def of_process(rank: int, world: int, folder: str, repeats: int) -> None:
    """Write the seconds of a step of one of `world` processes into `folder`."""
    os.environ.update(OMP_WAIT_POLICY="PASSIVE")
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/{world}", rank=rank, world_size=world)
    model = build_ours(build_tokenizer()).train()
    row = build_row(model, tiles=4, text=256, samples=4)
    seconds = seconds_of(DistributedDataParallel(model), row, repeats)
    if rank == 0:
        with open(f"{folder}/{world}.json", "w") as file:
            json.dump(seconds, file)
    distributed.destroy_process_group()


def processes(repeats: int) -> dict:
    seconds = {}
    with TemporaryDirectory() as folder:
        for world in (1, 2):
            multiprocessing.spawn(of_process, (world, folder, repeats), nprocs=world)
            with open(f"{folder}/{world}.json") as file:
                seconds[world] = json.load(file)
    return {"seconds": seconds, "ratio": 2 * seconds[1] / seconds[2]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--quick", action="store_true", help="only small rows, to see that all of it runs")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = build_ours(build_tokenizer()).train()
    results = {}
    for series, numbers in SERIES.items():
        numbers = numbers[:2] if arguments.quick else numbers
        length = 256 if arguments.quick else ROW
        seconds = {n: seconds_of(model, row_of(series, n, model, length), arguments.repeats) for n in numbers}
        first, last = numbers[0], numbers[-1]
        work = 1 if series == "samples" else last / first
        results[series] = {"seconds": seconds, "ratio": seconds[last] / seconds[first] / work}
        shown = "  ".join(f"{number}: {value * 1000:.0f} ms" for number, value in seconds.items())
        print(f"{series:10} {shown}  per unit ×{results[series]['ratio']:.2f}", flush=True)
    results["processes"] = processes(arguments.repeats)
    print(f"processes  2 do {results['processes']['ratio']:.2f}× the rows of 1", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
