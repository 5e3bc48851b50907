"""Which of a transformers model's modules is what, by the field's names (``parts.py`` finds them)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from isp_mech.models.length_rule import LengthRule


@dataclass(frozen=True)
class Block:
    """One layer's modules. ``attn_write`` and ``mlp_write`` are the modules whose output is added to
    the residual stream: the projection itself, or the post-norm after it (Gemma 2). The stream gains that output times
    ``attn_gain`` or ``mlp_gain`` (Granite's residual multiplier). ``attn_out`` is None in a layer without attention.
    """

    block: nn.Module
    attn_out: Any
    attn_write: nn.Module
    mlp_write: nn.Module
    attn_gain: float = 1.0
    mlp_gain: float = 1.0


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

    ``decoder`` is what is run from tokens to the states that are unembedded: the language model inside, where there is
    more; with ``runs_whole`` the whole model is run, since something stands between it and the unembedding.
    ``ln_final`` is None where no norm stands before the unembedding.

    What is not defined on the model, and why (empty where it is): ``no_blocks`` its layers, and so all but scores;
    ``no_lens`` the lens, and so direct effects; ``no_sites`` single heads and MLPs; ``no_attention`` its weights, which
    otherwise the layers ``attention_layers`` have; with ``gives_weights`` they come out of its own attention, if asked
    for. ``length_rule`` says how positions depend on a text's length, where they do.
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
    decoder: nn.Module
    runs_whole: bool = False
    no_blocks: str = ""
    no_lens: str = ""
    no_sites: str = ""
    no_attention: str = ""
    attention_layers: tuple[int, ...] = ()
    gives_weights: bool = False
    length_rule: LengthRule | None = None
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
