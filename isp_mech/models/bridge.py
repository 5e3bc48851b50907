"""By TransformerLens's names: raw activations of a few prompts, and lenses in its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isp_mech.errors import InputError
from isp_mech.models.memory import free_bytes

PROBES = (7, 11)  # lengths at which shapes are looked at: what differs grows with the prompt
SHARE = 0.5  # of the memory that is free


def capture(
    bridge: Any, prompts: Sequence[Sequence[int]], names: Sequence[str], *, name: str, limit_gb: float | None
) -> list[dict[str, Tensor]]:
    """Per prompt of token ids, its activations by name, without an axis for the prompt. See ``Model.capture``."""
    wanted = _names(bridge, names, name)
    small, large = (_shapes(bridge, wanted, length) for length in PROBES)
    silent = [f"{hook}: this model does not come by it" for hook in wanted if hook not in large]
    if silent:
        raise InputError(f"{name}: capture", silent)
    need = sum(_bytes(small[hook][0], *large[hook], len(ids)) for ids in prompts for hook in wanted)
    device = next(bridge.parameters()).device
    limit = free_bytes(str(device)) * SHARE if limit_gb is None else limit_gb * 1e9
    if need > limit:
        most = max(map(len, prompts))
        what = f"{len(wanted)} activations of {len(prompts)} prompts of up to {most} tokens"
        found = f"would take {need / 1e9:.3g} GB, expected at most {limit / 1e9:.3g} GB"
        raise InputError(f"{name}: capture", [f"{what} {found}: ask for fewer names or prompts, or raise limit_gb"])
    out = []
    for ids in prompts:
        with torch.no_grad():
            _, cache = bridge.run_with_cache(torch.tensor([list(ids)], device=device), names_filter=list(wanted))
        out.append({hook: cache[hook][0].clone() for hook in wanted})
    return out


def _names(bridge: Any, names: Sequence[str], name: str) -> list[str]:
    """The hooks that names and patterns stand for, each once; ``InputError`` for what stands for none."""
    known = list(bridge.hook_dict)
    found: dict[str, None] = {}
    problems = []
    for given in names:
        fits = [hook for hook in known if hook == given or fnmatchcase(hook, given)]
        found |= dict.fromkeys(fits)
        if not fits:
            near = get_close_matches(given, known, n=3)
            problems.append(f"{given!r}: no such name" + (f"; near it: {', '.join(near)}" if near else ""))
    if problems or not found:
        raise InputError(f"{name}: capture", problems or ["no names: expected some, as blocks.0.attn.hook_pattern"])
    return list(found)


def _shapes(bridge: Any, wanted: Sequence[str], length: int) -> Mapping[str, tuple[tuple[int, ...], int]]:
    device = next(bridge.parameters()).device
    with torch.no_grad():
        _, cache = bridge.run_with_cache(torch.arange(length, device=device)[None], names_filter=list(wanted))
    return {hook: (tuple(cache[hook].shape), cache[hook].element_size()) for hook in wanted if hook in cache.keys()}


def _bytes(small: Sequence[int], large: Sequence[int], size: int, length: int) -> int:
    """Of one activation at ``length`` tokens, from its shapes at the two probes' lengths."""
    for a, b in zip(small, large, strict=True):
        size *= a if a == b else max(1, round(a + (b - a) * (length - PROBES[0]) / (PROBES[1] - PROBES[0])))
    return size


def read_jacobians(path: str | Path) -> dict[int, Tensor]:
    """The maps (d_model, d_model) of a Jacobian lens that TransformerLens can read, by the block after which
    each applies. ``InputError`` for a file that is none."""
    from transformer_lens.tools.analysis import JacobianLens

    try:
        return dict(JacobianLens.load(str(path)).jacobians)
    except Exception as error:  # a damaged file can make the loader raise anything
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(str(path), [f"no lens that TransformerLens can read: {first}"]) from error
