"""Training steps of several sides, each in a process of its own, that take turns.

Each side has a peak of memory of its own. Other work of the machine slows all sides equally.
"""

import argparse
import gc
import resource
import time
from multiprocessing import get_context
from pathlib import Path

import torch
from compared_models import SIZES, build_samples
from options import positive
from text_step import peak_tflops

from smol_hf.estimate.traced_step import StepCounter

PARTS = ("collate", "forward", "backward", "optimizer")


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


class Side:
    """The steps of one side, and what was measured.

    Args:
        build: a function that returns (model, collate, loss) for samples and sizes, and its further arguments. It may
            add another way to build the optimizer.
    """

    def __init__(self, build, arguments):
        torch.set_num_threads(arguments.threads)
        build, *further = build
        sizes, self.device = SIZES[arguments.size], arguments.device
        samples = build_samples(arguments.samples, sizes, arguments.mixture)
        built = (*build(samples, sizes, *further), adamw)
        self.model, self.collate_on_cpu, self.loss_on_cpu, build_optimizer = built[:4]
        self.model.to(self.device).train()
        self.optimizer = build_optimizer(self.model)
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.counts = {"samples": 0, "tokens": 0, "positions": 0, "labelled": 0}
        self.losses = []
        forget_peak(self.device)
        self.before = memory(self.device)

    def clock(self):
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def collate(self, indices):
        batch = self.collate_on_cpu(indices)
        return {name: value.to(self.device) if torch.is_tensor(value) else value for name, value in batch.items()}

    def loss_of(self, batch):
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            return self.loss_on_cpu(batch)

    def step(self, indices, measured):
        times = [self.clock()]
        batch = self.collate(indices)
        times.append(self.clock())
        loss = self.loss_of(batch)
        times.append(self.clock())
        loss.backward()
        times.append(self.clock())
        self.optimizer.step()
        self.optimizer.zero_grad()
        times.append(self.clock())
        self.losses.append(loss.item())
        if not measured:
            return
        for part, start, stop in zip(PARTS, times, times[1:]):
            self.seconds[part] += stop - start
        mask = batch.get("attention_mask")
        self.counts["samples"] += len(indices)
        self.counts["positions"] += batch["input_ids"].numel()
        self.counts["tokens"] += int(mask.sum()) if mask is not None else batch["input_ids"].numel()
        self.counts["labelled"] += int((batch["labels"][:, 1:] != -100).sum())

    def flops(self, batches):
        """The FLOPs of forward and backward of all batches; None for a compiled model.

        Kernels that PyTorch has no formula for count as nothing.
        """
        if hasattr(self.model, "_orig_mod"):
            return None
        with StepCounter() as counter:
            for indices in batches:
                self.loss_of(self.collate(indices)).backward()
        return counter.flops

    def figures(self, batches, rounds):
        total, counts, peak = sum(self.seconds.values()), self.counts, memory(self.device) - self.before
        flops = self.flops(batches)
        return {
            "first_loss": self.losses[0],
            "last_loss": self.losses[-1],
            "samples_per_second": counts["samples"] / total,
            "useful_tokens_per_second": counts["tokens"] / total,
            "peak_memory_mib": peak,
            "mfu": flops and rounds * flops / total / peak_flops(self.device),
            "padding_fraction": 1 - counts["tokens"] / counts["positions"],
            "labelled_tokens": counts["labelled"],
            "share_of_time": {part: value / total for part, value in self.seconds.items()},
        }


def serve(build, arguments, connection):
    """Call methods of a `Side` as the other end of the connection asks."""
    side = Side(build, arguments)
    while True:
        name, *given = connection.recv()
        connection.send(getattr(side, name)(*given))
        if name == "figures":
            return


def run_sides(sides, arguments):
    """Measure sides {name: `build` of `Side`}. Their processes are forked, which spares them the imports.

    This process itself must not compute with tensors before.
    """
    context, ends = get_context("fork"), {}
    for name, build in sides.items():
        ends[name], other = context.Pipe()
        context.Process(target=serve, args=(build, arguments, other), daemon=True).start()
        other.close()  # so that `ask` notices the end of the process
    batches = [
        list(range(start, min(start + arguments.batch_size, arguments.samples)))
        for start in range(0, arguments.samples, arguments.batch_size)
    ]

    def ask(name, *question):
        ends[name].send(question)
        return ends[name].recv()

    for round_number in range(arguments.rounds + 1):  # the first round warms up
        for number, indices in enumerate(batches):
            for name in sorted(ends, reverse=number % 2 == 1):
                ask(name, "step", indices, round_number > 0)
    return {name: ask(name, "figures", batches, arguments.rounds) for name in ends}


def parser_of(text):
    """The options of all benchmarks of training steps."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=positive, default=32)
    parser.add_argument("--batch-size", type=positive, default=4)
    parser.add_argument("--rounds", type=positive, default=2, help="measured passes, after one to warm up")
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--mixture", action="store_true", help="samples of text, one image, two images, and frames")
    parser.add_argument("--size", choices=SIZES, default="small")
    # `torch.cuda.is_available` may initialise CUDA here, and the forked processes could not use it.
    devices = ("cpu", "cuda") if torch.backends.cuda.is_built() else ("cpu",)
    parser.add_argument("--device", choices=devices, default="cpu", help="cuda: in bfloat16 autocast")
    return parser
