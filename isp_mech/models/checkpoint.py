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
    missing = sorted({*info["missing_keys"], *_missing_unsaid(hf, held)} - wrong)
    problems += _listed(missing, [f"is missing, expected one of shape {_shown(shapes.get(n, ()))}" for n in missing])
    more = sorted(n for n in info["unexpected_keys"] if not _is_old_buffer(n, held))
    problems += _listed(more, [f"has no place in {type(hf).__name__}"] * len(more))
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


def _is_old_buffer(name: str, held: Mapping[str, TensorHeader] | None) -> bool:
    """By its name and, where that is known, a shape that no weight has."""
    if not _OLD_BUFFERS.search(name):
        return False
    tensor = None if held is None else held.get(name)
    is_mask = name.endswith((".bias", ".masked_bias"))
    return tensor is None or not is_mask or len(tensor.shape) != 1


def _listed(names: list[str], what: list[str]) -> list[str]:
    told = [f"tensor {name}: {text}" for name, text in zip(names[:NAMED], what, strict=False)]
    return told + ([f"... and {len(names) - NAMED} more: {what[-1]}"] if len(names) > NAMED else [])


def _shown(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one number"
