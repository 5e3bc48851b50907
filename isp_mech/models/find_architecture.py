"""The architecture of a loaded transformers model, as a forward of a few tokens shows it."""

from __future__ import annotations

import re
from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from isp_mech.errors import InputError
from isp_mech.models.architecture import Architecture
from isp_mech.models.length_rule import length_rule_of
from isp_mech.models.model import probe_ids
from isp_mech.models.parts import Parts, blocks_of, find_parts

# attention that looks at chosen tokens only, by rules of its own: it is left as it is
_CHOOSES_TOKENS = ("index_topk", "compress_ratios", "compress_rates", "attention_window_size")
_POSITIONS = re.compile(r"(^|[._])(pos|position|positions|wpe)[a-z_]*$")  # what embeddings of positions are called
_CAPS = ("final_logit_softcapping", "logits_soft_cap")


def architecture_of(hf: Any, name: str, run: Callable[[], Tensor] | None = None) -> Architecture:
    """The parts of a decoder; ``run`` gives the logits (row, pos, vocab) of some tokens, or some are run here.

    ``InputError`` where no logits come by an unembedding that the model has: then not even scores are defined.
    """
    config, unembed = hf.config.get_text_config(), hf.get_output_embeddings()
    if not isinstance(unembed, nn.Module) or getattr(unembed, "weight", None) is None:
        raise InputError(name, [f"{type(hf).__name__} has no unembedding, expected a causal language model"])
    n_layers = getattr(config, "num_hidden_layers", None)
    decoder = _decoder_of(hf, unembed, n_layers)
    logits: list[Tensor] = []

    def keep_logits() -> None:
        with torch.no_grad():
            logits.append(hf(probe_ids(hf, str(hf.device))).logits if run is None else run())

    numbers = [float(v) for v in vars(config).values() if isinstance(v, float) and 0 < v < 1e3]
    parts = find_parts(decoder, unembed, n_layers, keep_logits, said=numbers)
    cap = next((float(c) for n in _CAPS if (c := getattr(config, n, None))), None)
    n_heads, d_head = _heads_of(config, parts)
    no_sites = parts.no_sites or ("" if d_head else "its layers have different numbers of heads")
    mask_is_argument = bool(getattr(hf, "_supports_attention_backend", False)) and not any(
        getattr(config, n, None) for n in _CHOOSES_TOKENS
    )
    ours = mask_is_argument or config.model_type == "bloom"
    return Architecture(
        n_layers=len(parts.blocks),
        n_heads=n_heads,
        d_head=d_head,
        d_model=_width(parts, config),
        blocks=tuple(parts.blocks),
        embeddings=_embeddings(decoder),
        ln_final=parts.ln_final,
        unembed=unembed,
        logit_cap=cap,
        logit_scale=_logit_scale(config, name, unembed, parts.unembedded, logits[-1], cap),
        accepts_custom_masks=ours,
        mask_is_argument=mask_is_argument,
        accepts_trees=ours or _may_take_trees(decoder, config),
        decoder=decoder,
        no_blocks=parts.no_blocks,
        no_lens=parts.no_blocks or parts.no_lens,
        no_sites=parts.no_blocks or no_sites,
        no_attention=parts.no_blocks,
        length_rule=length_rule_of(config),
    )


def _decoder_of(hf: Any, unembed: nn.Module, n_layers: int | None) -> Any:
    """The language model inside a model of more than text, or all but the unembedding of one of text alone."""
    decoder = hf.base_model if hf.config.get_text_config() is hf.config else hf.get_decoder()
    while any(module is unembed for module in decoder.modules()):
        layers = blocks_of(decoder, n_layers)[1]
        inside = [part for part in decoder.children() if any(module is layers for module in part.modules())]
        if not inside:
            return decoder
        decoder = inside[0]
    return decoder


def _heads_of(config: Any, parts: Parts) -> tuple[int, int]:
    """How many heads a layer has, and how wide the output of each is: 0 where layers differ."""
    names = ("num_attention_heads", "num_heads", "n_head", "n_heads")
    n_heads = next((n for name in names if isinstance(n := getattr(config, name, None), int)), 1)
    widths = {weight_of(block.attn_out).shape[1] for block in parts.blocks if block.attn_out is not None}
    if len(widths) != 1 or (width := widths.pop()) % n_heads:
        return n_heads, 0
    return n_heads, width // n_heads


def weight_of(matrix: Any) -> Tensor:
    """(out, in): the weight of a linear layer, or of GPT-2's Conv1D, which stores it the other way round."""
    weight: Tensor = matrix.weight
    return weight if isinstance(matrix, nn.Linear) else weight.T


def _width(parts: Parts, config: Any) -> int:
    out = next((block.attn_out for block in parts.blocks if block.attn_out is not None), None)
    return int(config.hidden_size) if out is None else int(weight_of(out).shape[0])


def _embeddings(decoder: Any) -> tuple[nn.Module, ...]:
    """The embeddings of tokens and of learned positions."""
    tokens = decoder.get_input_embeddings()
    places = [m for n, m in decoder.named_modules() if isinstance(m, nn.Embedding) and _POSITIONS.search(n)]
    return (tokens, *(module for module in places if module is not tokens))


def _may_take_trees(decoder: nn.Module, config: Any) -> bool:
    """Whether positions come from ids or from an ALiBi that can be given, and no window counts tokens.

    Loading then tries a tree, and takes the model at its word only if the branches come out right.
    """
    windows = ("attention_types", "window_size", "sliding_window", "attention_window", *_CHOOSES_TOKENS)
    if any(getattr(config, name, None) for name in windows):
        return False
    return "position_ids" in signature(decoder.forward).parameters and not getattr(config, "alibi", False)


def _logit_scale(
    config: Any, name: str, unembed: Any, hidden: Tensor | None, logits: Tensor, cap: float | None
) -> float:
    """What logits are multiplied by after the unembedding, before a cap: by the config, checked, or as measured."""
    if hidden is None:
        raise InputError(name, ["its logits do not come from its unembedding: expected a causal language model"])
    with torch.no_grad():
        raw = unembed(hidden.to(unembed.weight.dtype)).double()
        linear = logits.reshape(-1, logits.shape[-1]).double()
        linear = linear if cap is None else cap * torch.atanh((linear / cap).clamp(-1 + 1e-7, 1 - 1e-7))
        inside = torch.ones_like(raw, dtype=torch.bool) if cap is None else linear.abs() < 2 * cap
        raw, linear = raw[inside], linear[inside]
        measured = float((raw * linear).sum() / raw.square().sum().clamp(min=1e-30))
        exact = unembed.weight.dtype == torch.float32
        said = [1.0, *(float(v) for n in ("logit_scale", "lm_head_multiplier") if (v := getattr(config, n, None)))]
        said += [1.0 / float(v)] if (v := getattr(config, "logits_scaling", None)) else []
        scale = min(said, key=lambda value: abs(value - measured))
        scale = scale if abs(scale - measured) <= (1e-3 if exact else 2e-2) * abs(measured) else measured
        off = (raw * scale - linear).abs().max() / linear.abs().max().clamp(min=1e-6)
    if not float(off) <= (1e-3 if exact else 5e-2):
        raise InputError(name, [f"its logits are not its unembedding's times a factor: they differ by {off:.2g}"])
    return scale
