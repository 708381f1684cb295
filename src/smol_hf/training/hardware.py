"""On what a run computes."""

from __future__ import annotations

import os
import platform
from collections import Counter

import torch
from accelerate import PartialState
from accelerate.utils import gather_object


def hardware() -> str:
    """The devices of all processes, asked on each of them: `2 × NVIDIA H100 80GB HBM3`, `CPU (x86_64, 8 cores)`."""
    if torch.cuda.is_available() and PartialState().device.type == "cuda":
        own = torch.cuda.get_device_name(PartialState().device)
    else:
        own = f"CPU ({platform.machine()}, {os.cpu_count()} cores)"
    devices = Counter(gather_object([own]))
    return ", ".join(name if number == 1 else f"{number} × {name}" for name, number in devices.items())
