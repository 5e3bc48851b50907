"""What the scripts that measure have in common."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # Linux tells a process's peak here
TOLD = RESET.exists()


def peak_memory(run: Callable[[], object]) -> float:
    """GB that this process holds at the peak of ``run()`` above what it held before; call it once in a process."""

    def told(field: str) -> float:
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) / 1e6

    gc.collect()
    torch.ones(1)
    before = told("VmRSS")
    RESET.write_text("5")  # the high-water mark starts anew
    run()
    return told("VmHWM") - before
