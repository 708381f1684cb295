"""Two real training steps in a new process: seconds of the second step, and peak memory of the process.

python -m smol_hf.estimate.measured_step '{"target": …}'
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from smol_hf.estimate.estimate import build_on_meta
from smol_hf.estimate.target import OPTIMIZERS, resolve
from smol_hf.estimate.traced_step import training_step

# By default glibc also puts large blocks into its heap, whose fragmentation adds up to 25 % to the memory of the
# tensors. With a fixed threshold, each large block comes from the system and is returned to it.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


def measure(arguments: dict) -> dict[str, float]:
    """Run this module with the arguments of `estimate`. Raises RuntimeError if the process fails."""
    command = [sys.executable, "-m", "smol_hf.estimate.measured_step", json.dumps(arguments)]
    finished = subprocess.run(command, env={**os.environ, **MALLOC}, capture_output=True, text=True)
    if finished.returncode:
        reason = finished.stderr.strip().splitlines()[-1:] or [f"exit code {finished.returncode}"]
        raise RuntimeError(f"the measured step failed: {reason[0]}")
    return json.loads(finished.stdout.splitlines()[-1])


def status(key: str) -> int:
    """Read a size of this process in bytes: VmRSS is the current memory, VmHWM the peak."""
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def warm_up(build_optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    """Load the libraries that the first step of a process loads, which are not part of the model's memory."""
    layer = torch.nn.Linear(64, 64)
    layer(torch.zeros(8, 64)).sum().backward()
    build_optimizer(layer.parameters()).step()


def main(arguments: dict[str, Any]) -> dict[str, float]:
    target, shape = resolve(**arguments)
    build_optimizer = OPTIMIZERS[arguments["optimizer"]]
    warm_up(build_optimizer)
    build_on_meta(target)  # loads libraries, without memory for the model
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
