"""Whether transformers' config of a GGUF file says what the file says; and what its reader leaves out, where the file
tells."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from isp_mech.errors import InputError
from isp_mech.weight_files import GGUFHeader

# field of the file (after the architecture's name): what transformers' configs call it
_SAME = {
    "block_count": ("num_hidden_layers",),
    "context_length": ("max_position_embeddings",),
    "embedding_length": ("hidden_size",),
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps", "layer_norm_epsilon"),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"),
    "attention.sliding_window": ("sliding_window",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "logit_scale": ("logit_scale",),
    "expert_count": ("num_local_experts", "num_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "vocab_size": ("vocab_size",),
}
# what a model's tensors say too, or what changes no number
_SAID_BY_SHAPES = (
    "feed_forward_length", "expert_feed_forward_length", "expert_shared_feed_forward_length", "tensor_data_layout",
    "attention.causal", "use_parallel_residual", "rope.scaling.finetuned", "attention.max_alibi_bias",
)  # fmt: skip
_SAID_BY_SHAPES_TOO = ("ssm.", "shortconv.")
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
LLAMA3_FACTORS = (8.0, 32.0)  # Llama 3.1; Llama 3.2


def mend_config(config: Any, header: GGUFHeader, path: Path) -> None:
    """Puts into ``config`` what transformers' reader passes over: how positions rotate, windows, the scale of
    attention. ``InputError`` where the file asks for a rotation that is not known here."""
    said = _fields(header)
    if (window := said.get("attention.sliding_window")) and config.model_type == "phi3":
        config.sliding_window = window
    if config.model_type in ("gemma2", "gemma3_text") and config.num_hidden_layers in (46, 62):
        # the 27B models, of which no field tells: they scale by the width of a head that the others do not have
        config.query_pre_attn_scalar = config.hidden_size // config.num_attention_heads
    rotation = _rotation(said, header, path, config)
    if rotation is not None:
        full = config.rope_parameters.get("full_attention", config.rope_parameters)
        full.update(rotation)


def _rotation(said: dict[str, Any], header: GGUFHeader, path: Path, config: Any) -> dict[str, Any] | None:
    kind, factor = said.get("rope.scaling.type", "none"), said.get("rope.scaling.factor", 1.0)
    factor = said.get("rope.scale_linear", factor)
    if "rope_factors_long.weight" in header.tensors:
        raise InputError(str(path), ["its positions rotate by two lists of factors (longrope), which are not read"])
    if "rope_freqs.weight" in header.tensors:
        return _llama3(_read_factors(path), config, path)
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": float(factor)}
    raise InputError(str(path), [f"rope.scaling.type {kind!r}: expected none or linear, which are read"])


def _read_factors(path: Path) -> np.ndarray:
    import gguf

    (found,) = [tensor for tensor in gguf.GGUFReader(str(path)).tensors if tensor.name == "rope_freqs.weight"]
    return np.asarray(found.data, dtype=np.float32)


def _llama3(factors: np.ndarray, config: Any, path: Path) -> dict[str, Any]:
    """The parameters of Llama 3's rotation that give the file's factors: those of 3.1 or 3.2."""
    theta, d_head = _theta(config), _d_head(config)
    for factor in LLAMA3_FACTORS:
        if len(factors) == d_head // 2 and np.allclose(factors, _llama3_factors(theta, d_head, factor), rtol=1e-4):
            return {"rope_type": "llama3", "factor": factor, **LLAMA3}
    raise InputError(str(path), ["rope_freqs.weight: factors that are neither Llama 3.1's nor 3.2's are not read"])


def _llama3_factors(theta: float, d_head: int, factor: float) -> np.ndarray:
    """By how much each frequency is divided (Llama 3's published rule)."""
    length = 2 * math.pi * theta ** (np.arange(0, d_head, 2) / d_head)
    original, low, high = LLAMA3["original_max_position_embeddings"], LLAMA3["low_freq_factor"], 4.0
    smooth = (original / length - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    return np.where(length < original / high, 1.0, np.where(length > original / low, factor, between))


def config_problems(config: Any, header: GGUFHeader) -> list[str]:
    """Fields of the file that ``config`` does not have, or has otherwise, each named."""
    problems = []
    for name, value in _fields(header).items():
        if isinstance(value, tuple):
            value = value[0] if len(set(value)) == 1 else value
        got = _in_config(name, config, header)
        if name in _SAID_BY_SHAPES or name.startswith(_SAID_BY_SHAPES_TOO) or got is _PASSED:
            continue
        if got is _UNKNOWN:
            if not _read_by_its_own_function(header):
                problems.append(f"{header.architecture}.{name} = {value!r}: transformers' reader passes it over")
        elif not _alike(value, got):
            problems.append(f"{header.architecture}.{name} = {value!r}, and transformers' reader makes it {got!r}")
    return problems


_UNKNOWN, _PASSED = object(), object()


def _in_config(name: str, config: Any, header: GGUFHeader) -> Any:
    """What ``config`` has for a field of the file."""
    if name in _SAME:
        return next((v for a in _SAME[name] if (v := getattr(config, a, None)) is not None), None)
    if name in ("attention.key_length", "attention.value_length"):
        return _d_head(config)
    if name == "rope.dimension_count":
        full = _full_rotation(config)
        share = full.get("partial_rotary_factor", getattr(config, "partial_rotary_factor", None))
        return round(_d_head(config) * (1.0 if share is None else share))
    if name == "rope.freq_base":
        return _theta(config)
    if name == "rope.freq_base_swa":
        return config.rope_parameters.get("sliding_attention", {}).get("rope_theta")
    if name == "attention.scale":
        return 1 / math.sqrt(getattr(config, "query_pre_attn_scalar", None) or _d_head(config))
    if name.startswith(("rope.scaling.", "rope.scale_linear")):
        return _PASSED  # what is not known was refused before
    return _UNKNOWN


def _fields(header: GGUFHeader) -> dict[str, Any]:
    prefix = f"{header.architecture}."
    return {name.removeprefix(prefix): value for name, value in header.fields.items() if name.startswith(prefix)}


def _full_rotation(config: Any) -> dict[str, Any]:
    given = getattr(config, "rope_parameters", None) or {}
    return dict(given.get("full_attention", given))


def _theta(config: Any) -> float:
    return float(_full_rotation(config).get("rope_theta", getattr(config, "rope_theta", math.nan)))


def _d_head(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _alike(said: Any, got: Any) -> bool:
    if isinstance(said, float) and isinstance(got, int | float):
        return math.isclose(said, got, rel_tol=1e-5)
    if isinstance(said, tuple):
        return True  # one for each layer: the shapes of their tensors are held against the model's
    return bool(said == got)


def _read_by_its_own_function(header: GGUFHeader) -> bool:
    """Whether transformers reads the architecture by a function of its own, which knows its fields."""
    try:
        from transformers.integrations.gguf import GGUF_CONFIG_ARCHS
    except ImportError:
        return False
    return header.architecture in GGUF_CONFIG_ARCHS
