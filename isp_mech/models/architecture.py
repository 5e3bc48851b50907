"""Which of a transformers model's modules is what, by the field's names.

The map comes from TransformerLens's architecture adapters, which need no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_config_from_hf

from isp_mech.errors import InputError


@dataclass(frozen=True)
class Block:
    """One layer's modules. ``attn_write`` and ``mlp_write`` are the modules whose output is added to
    the residual stream: the projection itself, or the post-norm after it (Gemma 2)."""

    block: nn.Module
    attn_out: Any
    attn_write: nn.Module
    mlp_write: nn.Module


@dataclass(frozen=True)
class Norm:
    """The final norm with its scale frozen at one input: ``y = gain * (x - mean) / scale + bias``.

    ``centred`` says whether the mean is taken off (LayerNorm) or not (RMSNorm).
    """

    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    eps: float
    centred: bool

    def scale(self, x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n 1"]:
        """The divisor at ``x``: standard deviation (LayerNorm) or root mean square (RMSNorm)."""
        x = x.float()
        x = x - x.mean(-1, keepdim=True) if self.centred else x
        return (x.square().mean(-1, keepdim=True) + self.eps).sqrt()

    def pull_back(self, direction: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """The direction before the norm that reads what ``direction`` reads after it, scale apart."""
        pulled = direction * self.gain
        return pulled - pulled.mean(-1, keepdim=True) if self.centred else pulled

    def __call__(self, x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        scale = self.scale(x)
        x = x.float()
        x = x - x.mean(-1, keepdim=True) if self.centred else x
        return x / scale * self.gain + self.bias


@dataclass(frozen=True)
class Architecture:
    """A decoder's parts. ``accepts_custom_masks``: its attention is ours, and takes the mask and position ids it is
    given; ``mask_is_argument``: as arguments of the forward (Bloom's finds them in the batch); ``accepts_trees``:
    whether by ours or its own, its forward over a tree gives what each branch gives; ``selects_tokens``: whether its
    last layer can be computed at few tokens alone.

    ``ln_final`` is None where no norm stands before the unembedding (then there is no lens).
    """

    n_layers: int
    n_heads: int
    d_head: int
    d_model: int
    blocks: tuple[Block, ...]
    embeddings: tuple[nn.Module, ...]
    ln_final: nn.Module | None
    unembed: Any
    logit_cap: float | None
    logit_scale: float
    accepts_custom_masks: bool
    mask_is_argument: bool
    accepts_trees: bool
    selects_tokens: bool = False

    def head_matrix(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """The output projection of a layer, split over its heads (a view of the parameter)."""
        out = self.blocks[layer].attn_out
        weight = out.weight.T if isinstance(out, nn.Linear) else out.weight  # GPT-2's Conv1D stores (in, out)
        return weight.reshape(self.n_heads, self.d_head, self.d_model)

    def norm(self) -> Norm:
        """The final norm as numbers. Raises ``ValueError`` for a norm that is neither kind."""
        return norm_of(self.ln_final, self.d_model)


def norm_of(module: nn.Module | None, d_model: int) -> Norm:
    """``module`` as a ``Norm``, found by what it does and checked on random vectors."""
    if module is None:
        raise ValueError("the model has no final norm: lens and direct effects are not defined on it")
    eps = next(
        (float(getattr(module, n)) for n in ("eps", "variance_epsilon", "norm_eps", "epsilon") if hasattr(module, n)),
        0.0,
    )
    parameter = next(module.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    dtype = parameter.dtype if parameter is not None else torch.float32
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        probe = torch.randn(4, d_model, generator=generator).to(device=device, dtype=dtype) * 4
        want = module(probe).float()
        zero = module(torch.zeros_like(probe[:1])).float()[0]
        for centred in (True, False):
            unit = Norm(torch.ones_like(zero), torch.zeros_like(zero), eps, centred)(probe.float())
            gain = ((want - zero) * unit).sum(0) / unit.square().sum(0)
            norm = Norm(gain.clone(), zero.clone(), eps, centred)
            if torch.allclose(norm(probe.float()), want, atol=1e-4 if dtype == torch.float32 else 5e-2, rtol=1e-3):
                return norm
    raise ValueError(
        f"{type(module).__name__} is neither a LayerNorm nor an RMSNorm: lens and direct effects are not defined on it"
    )


def architecture_of(hf: Any, name: str) -> Architecture:
    """The parts of a transformers decoder. ``InputError`` where TransformerLens has no adapter for it."""
    kind = type(hf).__name__
    try:
        config = build_bridge_config_from_hf(hf.config, kind, name, torch.float32)
        adapter = ArchitectureAdapterFactory.select_architecture_adapter(config)
    except (ValueError, KeyError) as error:
        raise InputError(
            name, [f"architecture {kind} is not known to TransformerLens: expected a decoder it supports"]
        ) from error
    mapping = adapter.component_mapping
    assert mapping is not None
    layers = adapter.get_component(hf, "blocks")
    inside = mapping["blocks"].submodules
    blocks = []
    for i, layer in enumerate(layers):

        def part(path: str, i: int = i) -> Any:
            return adapter.get_component(hf, f"blocks.{i}.{path}")

        attn_out = part("attn.o")
        mlp_out = part("mlp") if inside["mlp"].name else part("mlp.out")
        if "residual" in signature(mlp_out.forward).parameters:  # Bloom's adds the stream itself
            mlp_out = part("mlp.out")
        blocks.append(
            Block(
                block=layer,
                attn_out=attn_out,
                attn_write=part("ln1_post") if "ln1_post" in inside else attn_out,
                mlp_write=part("ln2_post") if "ln2_post" in inside else mlp_out,
            )
        )
    mask_is_argument = bool(getattr(hf, "_supports_attention_backend", False))
    ours = mask_is_argument or hf.config.model_type == "bloom"
    ln_final = adapter.get_component(hf, "ln_final") if "ln_final" in mapping and mapping["ln_final"].name else None
    out = blocks[0].attn_out
    d_model, width = out.weight.shape if isinstance(out, nn.Linear) else out.weight.shape[::-1]
    return Architecture(
        n_layers=len(blocks),
        n_heads=int(config.n_heads),
        d_head=width // int(config.n_heads),
        d_model=d_model,
        blocks=tuple(blocks),
        embeddings=tuple(adapter.get_component(hf, key) for key in ("embed", "pos_embed") if key in mapping),
        ln_final=ln_final,
        unembed=hf.get_output_embeddings(),
        logit_cap=getattr(hf.config, "final_logit_softcapping", None),
        logit_scale=_logit_scale(hf.config),
        accepts_custom_masks=ours,
        mask_is_argument=mask_is_argument,
        accepts_trees=ours or _may_take_trees(hf),
    )


def _may_take_trees(hf: Any) -> bool:
    """Whether positions come from ids or from an ALiBi that can be given, and no window counts tokens.

    Loading then tries a tree, and takes the model at its word only if the branches come out right.
    """
    config = hf.config
    windows = ("attention_types", "window_size", "sliding_window", "attention_window")
    if any(getattr(config, name, None) for name in windows):
        return False
    return "position_ids" in signature(hf.base_model.forward).parameters and not getattr(config, "alibi", False)


def _logit_scale(config: Any) -> float:
    if getattr(config, "logit_scale", None) is not None:  # Cohere multiplies
        return float(config.logit_scale)
    if getattr(config, "logits_scaling", None) is not None:  # Granite divides
        return 1.0 / float(config.logits_scaling)
    return 1.0
