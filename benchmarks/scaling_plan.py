"""Expected time of a training step on many GPUs, computed from the time on one and the speed of the links.

    python benchmarks/scaling_plan.py
    python benchmarks/scaling_plan.py --tflops 310 --network 25 --models smolvlm2-256m

The plan is arithmetic, not a measurement. It assumes:

- each GPU trains one packed row of `--length` tokens at `--tflops`; backward takes two thirds of the time;
- rings inside a machine (`--link` GB/s a GPU), and one network card for each GPU (`--network` GB/s);
- DDP sums float32 gradients; FSDP2 gathers and sums bfloat16 numbers, as `recipes/accelerate` sets them;
- communication overlaps with computation, except that of the first and the last unit (a layer, or a bucket of DDP);
- a step waits for the process whose row has the most work. The rows come from the packing of a simulated mixture.

The figures of lanes and shuffling come from the data stream's own order, with parquet files of 1,000 rows a row group.
A lane reads the rows of a group in random order, and then the next group. So a step has samples of few groups on few
GPUs: shuffle the rows when you write files that are sorted by topic.

`--check` trains two CPU processes with DDP and FSDP2, and compares the time of a step with the prediction of the same
arithmetic. There the processors also do the communication, so nothing overlaps.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from options import positive
from packing import lengths, pack_stream
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from smol_hf.data.stream.order import Permutations, SourceOrder
from smol_hf.data.stream.packing import Planned
from smol_hf.estimate.estimate import estimate
from smol_hf.modeling.configuration_smol_hf_text import SmolHFTextConfig
from smol_hf.modeling.modeling_smol_hf_text import SmolHFForCausalLM

GPUS_OF_A_MACHINE = 8
STRATEGIES = ("DDP", "FSDP2", "HSDP")
BUCKET = 25e6  # bytes of a bucket of DDP
ROW_GROUP = 1000  # rows
OF_A_WEIGHT = 12  # bytes in a checkpoint: the weight and two moments, float32
SEVERAL = 8  # steps of each measurement


@dataclass(frozen=True)
class Links:
    """Bytes per second of a GPU, and the seconds that a collective takes without data."""

    inside: float
    between: float
    latency: float

    def gather(self, size: float, gpus: int) -> float:
        """Seconds in which each GPU gets `size` bytes, of which it has a part. Reduce-scatter takes the same time.

        Inside a machine each GPU passes on all bytes. Between machines, its card carries its part of them.
        """
        inner = min(gpus, GPUS_OF_A_MACHINE)
        machines = gpus // inner
        inside = size * (inner - 1) / inner / self.inside
        between = size * (machines - 1) / machines / (inner * self.between)
        return inside + between + self.latency * np.log2(gpus)

    def reduce(self, size: float, gpus: int) -> float:
        """Seconds of an all-reduce: a reduce-scatter and a gather."""
        return 2 * self.gather(size, gpus)


def communication(strategy: str, weights: int, units: int, gpus: int, links: Links, compute: float) -> float:
    """Seconds of a step in which the GPUs wait for communication."""
    forward, backward = compute / 3, compute * 2 / 3
    if strategy == "DDP":
        size = 4 * weights
        return max(links.reduce(min(BUCKET, size), gpus), links.reduce(size, gpus) - backward)
    shards = min(gpus, GPUS_OF_A_MACHINE) if strategy == "HSDP" else gpus
    unit = links.gather(2 * weights / units, shards)
    gathered = reduced = unit * units
    if strategy == "HSDP" and gpus > shards:  # each GPU sums its part with the same part of the other machines
        size = 2 * weights / shards * (1 - shards / gpus) * 2
        reduced += size / links.between + units * links.latency * np.log2(gpus // shards)
    last = reduced / units
    return max(unit, gathered - forward) + max(last, gathered + reduced - backward)


def work_of_rows(length: int, per_token: float, per_tile: float, samples: int = 40_000) -> np.ndarray:
    """FLOPs of packed rows of a simulated mixture, as multiples of their mean."""
    tokens, tiles = lengths(samples, length)
    planned = [Planned(number, int(tokens[number]), int(tiles[number])) for number in range(samples)]
    rows = pack_stream(planned, length, 128, None)[:-20]  # the last ones are not full
    work = [sum(per_token * each.num_tokens + per_tile * each.num_tiles for each in row) for row in rows]
    return np.array(work) / np.mean(work)


def slowest(work: np.ndarray, gpus: int) -> float:
    """Work of the process that has the most in a step, over the mean."""
    drawn = np.random.default_rng(0).choice(work, (200, gpus))
    return float(drawn.max(1).mean())


def lanes_for(gpus: int, workers: int, least: int = 16) -> int:
    return gpus * workers * -(-least // (gpus * workers))


def row_groups_of_a_step(lanes: int, rows: int, gpus: int, samples_per_row: int) -> int:
    """Row groups from which the samples of a step come. Each GPU's row is filled by one lane."""
    sizes = np.full(rows // ROW_GROUP, ROW_GROUP)
    permutations = Permutations("data", sizes, False, seed=0, lanes=lanes, used=range(gpus))
    orders = [SourceOrder(permutations, lane) for lane in range(gpus)]
    return len({order.locate(number)[1] for order in orders for number in range(samples_per_row)})


def hash_speed() -> float:
    """Bytes per second of the manifest's SHA-256 on this machine."""
    block = os.urandom(1 << 26)
    started = time.perf_counter()
    hashlib.sha256(block).digest()
    return len(block) / (time.perf_counter() - started)


def plan(arguments) -> list[dict]:
    links = Links(arguments.link * 1e9, arguments.network * 1e9, arguments.latency * 1e-6)
    hashed, results = hash_speed(), []
    for name in arguments.models:
        facts = estimate(name, length=arguments.length, tiles=arguments.tiles, dtype="bfloat16")
        weights, flops = facts["trained_parameters"], facts["flops"]
        compute = flops["per_step"] / (arguments.tflops * 1e12)
        work = work_of_rows(arguments.length, flops["per_token"], flops["per_tile"])
        saved = OF_A_WEIGHT * weights
        for gpus in arguments.gpus:
            factor, lanes = slowest(work, gpus), lanes_for(gpus, arguments.workers)
            disks = {"DDP": arguments.disk, "FSDP2": min(gpus * arguments.disk, arguments.storage)}
            shared = {
                "slowest_over_mean": round(factor, 3),
                "data_lanes": lanes,
                "rows_of_a_lane": arguments.rows // lanes,
                "row_groups_of_a_step": row_groups_of_a_step(lanes, arguments.rows, gpus, arguments.samples_per_row),
                "checkpoint_gb": round(saved / 1e9, 2),
                "checkpoint_seconds": {
                    **{kind: round(saved / (speed * 1e9), 1) for kind, speed in disks.items()},
                    "hashes": round(saved / hashed, 1),
                },
            }
            for strategy in STRATEGIES:
                exposed = communication(strategy, weights, arguments.units, gpus, links, compute)
                step = compute * factor + exposed
                one = {"model": name, "gpus": gpus, "strategy": strategy, "seconds": round(step, 4)}
                one |= {"waits_for_links": round(exposed / step, 3), "efficiency": round(compute / step, 3)}
                results.append({**one, "tokens_per_second": round(gpus * arguments.length / step), **shared})
    return results


def print_table(results: list[dict]) -> None:
    print(
        f"{'model':16}{'GPUs':>5}  {'strategy':9}{'step':>9}{'links':>7}{'efficiency':>12}{'tokens/s':>14}{'lanes':>7}"
    )
    for each in results:
        print(
            f"{each['model']:16}{each['gpus']:5}  {each['strategy']:9}{each['seconds'] * 1000:6.0f} ms"
            f"{each['waits_for_links']:7.1%}{each['efficiency']:12.1%}{each['tokens_per_second']:14,}"
            f"{each['data_lanes']:7,}"
        )


def small_model() -> SmolHFForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 320, "intermediate_size": 960, "num_hidden_layers": 6, "num_attention_heads": 5}
    return SmolHFForCausalLM(SmolHFTextConfig(vocab_size=4096, num_key_value_heads=5, **sizes))


def seconds_of(work, times: int = SEVERAL) -> float:
    """Median seconds of the slower process."""
    seconds = []
    for number in range(times + 2):
        dist.barrier()
        started = time.perf_counter()
        work()
        taken = torch.tensor(time.perf_counter() - started, dtype=torch.float64)
        dist.all_reduce(taken, dist.ReduceOp.MAX)
        if number > 1:  # the first two warm up
            seconds.append(float(taken))
    return float(np.median(seconds))


def measure_two(rank: int, folder: str) -> None:
    """Write the seconds of steps and of collectives of two CPU processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    ids = torch.randint(4096, (4, 256), generator=torch.Generator().manual_seed(rank))

    def step(model):
        model(input_ids=ids, labels=ids).loss.backward()
        model.zero_grad()

    alone = small_model()
    size = sum(weight.numel() for weight in alone.parameters())
    flat, part = torch.zeros(size), torch.zeros(size // 2)
    facts = {"weights": size, "alone": seconds_of(lambda: step(alone))}
    facts["all_reduce"] = seconds_of(lambda: dist.all_reduce(flat))
    facts["gather"] = seconds_of(lambda: dist.all_gather_into_tensor(flat[: size // 2 * 2], part))
    facts["reduce_scatter"] = seconds_of(lambda: dist.reduce_scatter_tensor(part, flat[: size // 2 * 2]))
    replicated = DistributedDataParallel(small_model())
    facts["DDP"] = seconds_of(lambda: step(replicated))
    sharded = small_model()
    mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
    for each in (*sharded.model.layers, sharded):
        fully_shard(each, mesh=mesh)
    facts["FSDP2"] = seconds_of(lambda: step(sharded))
    if rank == 0:
        Path(folder, "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    dist.destroy_process_group()


def check() -> dict:
    """Compare the prediction for two CPU processes with what they take."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(measure_two, (folder,), nprocs=2)
        facts = json.loads(Path(folder, "facts.json").read_text(encoding="utf-8"))
    predicted = {
        "DDP": facts["alone"] + facts["all_reduce"],
        "FSDP2": facts["alone"] + 2 * facts["gather"] + facts["reduce_scatter"],
    }
    ratios = {f"{name}_predicted_over_measured": round(value / facts[name], 3) for name, value in predicted.items()}
    return {**{name: round(value, 4) for name, value in facts.items()}, **ratios}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", nargs="+", default=["smolvlm2-256m", "smolvlm2-500m", "smolvlm2-2.2b"])
    add("--gpus", type=positive, nargs="+", default=[8, 64, 512], help="multiples of 8 above 8")
    add("--tflops", type=float, default=400, help="achieved by one GPU, see the figures of your own run")
    add("--length", type=positive, default=8192, help="tokens of a row")
    add("--tiles", type=positive, default=40, help="image tiles of a row")
    add("--samples-per-row", type=positive, default=14)
    add("--units", type=positive, default=44, help="layers that FSDP2 gathers one by one")
    add("--link", type=float, default=400, help="GB/s of a GPU inside its machine")
    add("--network", type=float, default=45, help="GB/s of a GPU's network card")
    add("--latency", type=float, default=15, help="microseconds of a collective, for each doubling of the GPUs")
    add("--workers", type=int, default=8, help="data workers of a process")
    add("--rows", type=int, default=20_000_000, help="rows of the data")
    add("--disk", type=float, default=2, help="GB/s that one process writes")
    add("--storage", type=float, default=20, help="GB/s of the shared file system")
    add("--check", action="store_true", help="compare the arithmetic with two CPU processes")
    arguments = parser.parse_args(words)
    results = plan(arguments)
    print_table(results)
    print(json.dumps({"plan": results, **({"check": check()} if arguments.check else {})}))


if __name__ == "__main__":
    main()
