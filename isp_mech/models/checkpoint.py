"""Whether a checkpoint holds its model's tensors, all of them and no others. Random weights in place of missing ones
would be numbers of another model."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from isp_mech.weight_files import TensorHeader, read_safetensors_header, weight_files

NAMED = 8  # tensors of one kind that are named
# masks and positions that old checkpoints keep beside the weights
_OLD_BUFFERS = re.compile(r"\.(attn|attention)\.(bias|masked_bias)$|rotary_emb\.inv_freq$|(^|\.)position_ids$")


def loading_problems(
    hf: PreTrainedModel, info: Mapping[str, Any], held: Mapping[str, TensorHeader] | None = None
) -> list[str]:
    """What is wrong with what was loaded, by transformers' ``output_loading_info`` and, with ``held``, by the headers
    of the files: tensors that are missing, of another shape, or of no place in the model.

    Tied weights need to be there once. Buffers of old checkpoints may be there.
    """
    shapes = {name: tuple(t.shape) for name, t in hf.state_dict().items()}
    problems = [
        f"tensor {name}: of shape {_shown(found)}, expected {_shown(expected)}"
        for name, found, expected in sorted((n, tuple(a), tuple(b)) for n, a, b in info["mismatched_keys"])
    ]
    wrong = {name for name, _, _ in info["mismatched_keys"]}
    missing = {*info["missing_keys"], *_missing_unsaid(hf, held)} - wrong
    again = {name for name, source in getattr(hf, "all_tied_weights_keys", {}).items() if source in missing}
    texts = {n: f"is missing, expected one of shape {_shown(shapes.get(n, ()))}" for n in sorted(missing - again)}
    problems += _listed(texts, "are missing")
    more = {*info["unexpected_keys"], *_unexpected_unsaid(shapes, held)}
    kind = type(hf).__name__
    texts = {n: f"has no place in {kind}" for n in sorted(more) if not _is_old_buffer(n, held)}
    problems += _listed(texts, f"have no place in {kind}")
    return problems + [str(message).strip().splitlines()[0] for message in info["error_msgs"]]


def headers_of(folder: Path) -> dict[str, TensorHeader]:
    """The tensors of the files that transformers loads of a folder; empty where they cannot be read."""
    held: dict[str, TensorHeader] = {}
    for file in weight_files(folder)[0]:
        held |= read_safetensors_header(file)
    return held


def _missing_unsaid(hf: PreTrainedModel, held: Mapping[str, TensorHeader] | None) -> list[str]:
    """Missing tensors that the model's class keeps transformers from naming."""
    patterns: Collection[str] = getattr(hf, "_keys_to_ignore_on_load_missing", None) or ()
    if held is None or not patterns:
        return []
    hushed = re.compile("|".join(f"({pattern})" for pattern in patterns))
    prefix = f"{hf.base_model_prefix}."
    tied = getattr(hf, "all_tied_weights_keys", {})
    parameters = {name for name, _ in hf.named_parameters()}
    return [
        name
        for name in parameters - set(tied)
        if hushed.search(name) and name not in held and name.removeprefix(prefix) not in held
    ]


def _unexpected_unsaid(known: Collection[str], held: Mapping[str, TensorHeader] | None) -> list[str]:
    """Tensors that are called like a buffer of old checkpoints, which transformers then passes over, and are none."""
    called = [name for name in held or () if _OLD_BUFFERS.search(name)]
    return [name for name in called if not _is_old_buffer(name, held) and not any(k.endswith(name) for k in known)]


def _is_old_buffer(name: str, held: Mapping[str, TensorHeader] | None) -> bool:
    """By its name and, where that is known, a shape that no weight has."""
    if not _OLD_BUFFERS.search(name):
        return False
    tensor = None if held is None else held.get(name)
    is_mask = name.endswith((".bias", ".masked_bias"))
    return tensor is None or not is_mask or len(tensor.shape) != 1


def _listed(texts: Mapping[str, str], of_the_rest: str) -> list[str]:
    told = [f"tensor {name}: {text}" for name, text in texts.items()]
    return [*told[:NAMED], f"and {len(told) - NAMED} more {of_the_rest}"] if len(told) > NAMED else told


def _shown(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one number"
