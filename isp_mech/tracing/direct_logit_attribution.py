"""Direct effects: what each head and MLP writes on the margin, the final norm's scale frozen."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import einsum
from torch import Tensor

from isp_mech.inference.margin import MAX_LOGITS, LogprobTerms
from isp_mech.models import ActivationRecord, Model, Norm, norm_of

PARTS = ("embed", "bias", "remainder")


@dataclass(frozen=True)
class Directions:
    """What the margin reads: ``vectors`` (n, d_model) from each predicting token after the final norm, and
    ``constant`` (owner,), what it has beside that."""

    vectors: Tensor
    constant: Tensor


def directions(model: Model, terms: LogprobTerms, normed: Tensor) -> Directions:
    """What the margin reads, given the hidden states (n, d_model) of the predicting tokens.

    At a decision position the vector is W[answer] - W[lure]. At a later token the softmax does not cancel;
    there the margin reads W[token] - E_p[W], p being the model's own next-token distribution, and the
    rest of log p is a constant (minus p's entropy). The unembedding's bias is in the constant too.
    """
    unembed, scale = model.architecture.unembed, model.architecture.logit_scale
    out = torch.zeros_like(normed, dtype=torch.float32)
    out.index_add_(0, terms.at, unembed.weight[terms.token].float() * terms.sign[:, None])
    constant = torch.zeros(terms.n_owners, device=normed.device)
    if unembed.bias is not None:
        constant.index_add_(0, terms.owner, unembed.bias[terms.token].float() * terms.sign * scale)
    weight = terms.weight
    for some in (weight.abs() > 0.5).nonzero()[:, 0].split(max(1, MAX_LOGITS // len(unembed.weight))):
        logp = model.unembed(normed[some]).log_softmax(-1)
        p = logp.exp()
        out[some] -= weight[some][:, None] * (p.to(unembed.weight.dtype) @ unembed.weight).float()
        rest = (p * logp).sum(-1)
        if unembed.bias is not None:
            rest = rest - (p @ unembed.bias.float()) * scale
        constant.index_add_(0, terms.node_owner[some], rest * weight[some])
    return Directions(out * scale, constant)


def before_norm(norm: Norm, record: ActivationRecord, direction: Tensor) -> Tensor:
    """(n, d_model): ``direction`` read before the final norm, its scale frozen at what it was."""
    assert record.final is not None
    return norm.pull_back(direction) / norm.scale(record.final)


@dataclass(frozen=True)
class DirectEffects:
    """Of every owner, nats: heads (owner, layer, head), MLPs (owner, layer), and the rest (owner, part): embedding,
    biases with the softmax's constants, and a remainder, all of which sum to the margin."""

    heads: Tensor
    mlps: Tensor
    rest: Tensor


def direct_effects(
    model: Model, norm: Norm, record: ActivationRecord, normed: Tensor, terms: LogprobTerms, margin: Tensor
) -> DirectEffects:
    """What each head and MLP writes on every owner's margin."""
    read = directions(model, terms, normed)
    before = before_norm(norm, record, read.vectors)
    heads, mlps, biases = [], [], []
    for layer in range(model.architecture.n_layers):
        by_head = head_writes(model, record, layer, before)
        heads.append(by_head)
        biases.append((record.attn[layer].float() * before).sum(-1) - by_head.sum(-1))
        mlps.append((record.mlp[layer].float() * before).sum(-1))
    add = terms.sum_by_owner
    embed = add((record.resid[0].float() * before).sum(-1))
    bias = add(sum(biases) + (read.vectors * norm.bias).sum(-1)) + read.constant
    by_heads, by_mlps = add(torch.stack(heads, 1)), add(torch.stack(mlps, 1))
    known = embed + bias + by_heads.sum((1, 2)) + by_mlps.sum(1)
    return DirectEffects(by_heads, by_mlps, torch.stack([embed, bias, margin - known], 1))


def head_writes(model: Model, record: ActivationRecord, layer: int, before: Tensor) -> Tensor:
    """(n, head): each head's write at each predicting token, read by ``before`` (n, d_model)."""
    z = record.heads[layer].float().unflatten(-1, (model.architecture.n_heads, model.architecture.d_head))
    return (z * head_reading(model, record, layer, before)).sum(-1)


def head_reading(model: Model, record: ActivationRecord, layer: int, before: Tensor) -> Tensor:
    """(n, head, d_head): what ``before`` (n, d_model) reads of each head's output before its projection."""
    block, shape = model.architecture.blocks[layer], model.architecture
    matrix, before = shape.head_matrix(layer).float(), before * block.attn_gain
    if block.attn_write is not block.attn_out:  # a norm of the sum of heads: linear once its scale is frozen
        z = record.heads[layer].float().unflatten(-1, (shape.n_heads, shape.d_head))
        post = norm_of(block.attn_write, shape.d_model)
        raw = einsum(z, matrix, "n head d_head, head d_head d_model -> n d_model")
        bias = block.attn_out.bias
        before = post.pull_back(before) / post.scale(raw if bias is None else raw + bias.float())
    return einsum(matrix, before, "head d_head d_model, n d_model -> n head d_head")
