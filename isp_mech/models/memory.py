"""How much fits: free memory, what a token of a forward takes, and what an out-of-memory error looks like."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import torch
from transformers import PreTrainedModel

_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def free_bytes(device: str) -> int:
    """Memory (bytes) that can still be had on ``device``: a GPU's own, or the machine's within its group's limit."""
    if torch.device(device).type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    known = [n for n in (_available(), _left_in_group()) if n is not None]
    return max(0, min(known)) if known else 1 << 31  # a system that tells nothing: two GiB, as any has


def _available() -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines() if ":" in line)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        try:
            return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError, AttributeError):
            return None


def _left_in_group() -> int | None:
    try:
        return int((_CGROUP / "memory.max").read_text()) - int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):  # no group, or "max"
        return None


def bytes_per_token(hf: PreTrainedModel, d_model: int, width: int) -> int:
    """What a token takes at the peak of a forward that keeps nothing: one layer's activations, bytes.

    ``width`` is heads x d_head. An estimate from the shape, on the safe side of what was measured.
    """
    config, size = hf.config, next(hf.parameters()).element_size()
    inner = next(
        (
            n
            for name in ("intermediate_size", "ffn_dim", "n_inner")
            if isinstance(n := getattr(config, name, None), int)
        ),
        4 * d_model,
    )
    return max(2, size) * (8 * d_model + 6 * width + 3 * inner)


def bytes_kept_per_token(hf: PreTrainedModel, n_layers: int, n_heads: int, d_head: int) -> int:
    """What a token's keys and values take in all layers, where they are kept, bytes; as if queries stayed beside them,
    as they do where one product makes all three."""
    config = hf.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or n_heads
    return 3 * n_layers * heads * d_head * max(2, next(hf.parameters()).element_size())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: on a GPU, in torch's allocator on a CPU, or in Python."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def let_go() -> None:
    """Gives back what nothing holds any more: models, whose modules hold each other, and a GPU's cached blocks."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
