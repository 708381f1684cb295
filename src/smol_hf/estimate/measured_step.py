"""Two real training steps in a process of their own: seconds of the second, and the most memory that the process took.

python -m smol_hf.estimate.measured_step '{"target": …}'
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import torch

from smol_hf.estimate.estimate import build_on_meta
from smol_hf.estimate.target import OPTIMIZERS, resolve
from smol_hf.estimate.traced_step import training_step

# glibc puts ever larger blocks into its heap, where gaps remain: the process then takes up to a quarter more than its
# tensors. With a fixed threshold each large block comes from the system and goes back to it.
LARGE_BLOCKS_APART = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


def measure(arguments: dict) -> dict[str, float]:
    """Run this module with the arguments of `estimate`; returns `peak` in bytes and `seconds_per_step`.

    Raises:
        RuntimeError: when the process fails, for want of memory for example.
    """
    command = [sys.executable, "-m", "smol_hf.estimate.measured_step", json.dumps(arguments)]
    finished = subprocess.run(command, env={**os.environ, **LARGE_BLOCKS_APART}, capture_output=True, text=True)
    if finished.returncode:
        reason = finished.stderr.strip().splitlines()[-1:] or [f"exit code {finished.returncode}"]
        raise RuntimeError(f"the measured step failed: {reason[0]}")
    return json.loads(finished.stdout.splitlines()[-1])


def status(key: str) -> int:
    """Bytes under a key of this process's status: VmRSS is the memory now, VmHWM the most so far."""
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def warm_up(build_optimizer) -> None:
    """What the first step of a process loads is not the model's."""
    layer = torch.nn.Linear(64, 64)
    layer(torch.zeros(8, 64)).sum().backward()
    build_optimizer(layer.parameters()).step()


def main(arguments: dict) -> dict[str, float]:
    target, shape = resolve(**arguments)
    build_optimizer = OPTIMIZERS[arguments["optimizer"]]
    warm_up(build_optimizer)
    build_on_meta(target)  # loads what it needs, without memory for the model
    before = status("VmRSS")
    model = build_on_meta(target)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.zero_()
    model.tie_weights()
    model.train()
    optimizer = build_optimizer([weight for weight in model.parameters() if weight.requires_grad])
    training_step(model, shape, optimizer)
    started = time.perf_counter()
    training_step(model, shape, optimizer)
    return {"peak": status("VmHWM") - before, "seconds_per_step": time.perf_counter() - started}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(json.loads(sys.argv[1]))) + "\n")
