"""What stands in for a site's output: its value elsewhere, or nothing.

A site's output at the decision position (``margins.py``), or at all tokens of a role, is replaced by ``mean``: that
over the conflict prompts of the other pairs, ``resample``: another pair's conflict prompt, ``plain``: the same pair's
plain prompt, ``zero``: nothing (off-distribution, for comparison only). At a role it is one vector a site, the mean
over the role's tokens there, since prompts have different numbers of them. Locating and verifying, keeping and edges
work on what is here; ``replacing.py`` puts it in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from isp_mech.errors import InputError
from isp_mech.inference.batches import batches
from isp_mech.inference.contrast_prompts import Prepared, watch_batch
from isp_mech.inference.margin import ContrastPrompt, margin_of
from isp_mech.inference.tokenization import role_names, token_roles
from isp_mech.models import Model, RecordSpec
from isp_mech.sites import REPLACEMENTS
from isp_mech.tracing.direct_logit_attribution import directions, head_reading, reading


@dataclass(frozen=True)
class Outputs:
    """Every site's output, for every pair: heads (pair, layer, head, d_head), MLP writes and, at a role's tokens, the
    residual stream after each layer (pair, layer, d_model)."""

    heads: Float[Tensor, "pair layer head d_head"]
    mlps: Float[Tensor, "pair layer d_model"]
    stream: Float[Tensor, "pair layer d_model"] | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Outputs:
        """With ``change`` applied to each."""
        stream = None if self.stream is None else change(self.stream)
        return Outputs(change(self.heads), change(self.mlps), stream)

    def of(self, pairs: Sequence[int], device: str) -> Outputs:
        """Those of some pairs, on a device."""
        return self.map(lambda x: x[list(pairs)].to(device))


@dataclass(frozen=True)
class Seen:
    """One side's forward: outputs, margins (pair,), and, per pair, what each head's output
    (pair, layer, head, d_head) and each MLP's write (pair, d_model) is multiplied with in its direct
    effect at the decision position."""

    outputs: Outputs
    margins: np.ndarray
    read_heads: Float[Tensor, "pair layer head d_head"]
    read_mlps: Float[Tensor, "pair d_model"]


def observe(model: Model, prepared: Prepared, *, batch_size: int | str = "auto", progress: bool = False) -> Seen:
    """Runs one side of the pairs as it is and keeps what replacing needs, in the pairs' order."""
    shape, n = model.architecture, len(prepared.forks)
    heads = torch.zeros(n, shape.n_layers, shape.n_heads, shape.d_head)
    mlps = torch.zeros(n, shape.n_layers, shape.d_model)
    read_heads, read_mlps, margins = torch.zeros_like(heads), torch.zeros(n, shape.d_model), np.zeros(n)
    norm = shape.norm()
    with tqdm(
        total=len(prepared.trees), desc=f"{model.name}: outputs", unit="prompt", disable=not progress, leave=False
    ) as bar:
        for rows, batch in batches(prepared.trees, batch_size):
            look = watch_batch(model, prepared, rows, batch)
            hidden, record = model.forward(batch, watch=look.watch)
            decision = _decisions(look.terms.node_owner)
            with torch.no_grad():
                before = reading(norm, record, directions(model, look.terms, hidden))
                for layer in range(shape.n_layers):
                    z = record.heads[layer][decision].float()
                    heads[look.owners, layer] = z.unflatten(-1, (shape.n_heads, shape.d_head)).cpu()
                    mlps[look.owners, layer] = record.mlp[layer][decision].float().cpu()
                    read_heads[look.owners, layer] = head_reading(model, record, layer, before)[decision].cpu()
                read_mlps[look.owners] = before[decision].cpu()
                margin = margin_of(model, hidden[look.terms.rows, look.terms.nodes], look.terms)
            margins[look.owners] = margin.cpu().numpy()
            bar.update(len(rows))
    return Seen(Outputs(heads, mlps), margins, read_heads, read_mlps)


def _decisions(node_owner: Tensor) -> Tensor:
    """The number of each owner's decision position: the first of its predicting tokens."""
    _, first = np.unique(node_owner.cpu().numpy(), return_index=True)
    return torch.from_numpy(first).to(node_owner.device)


def role_tokens(forks: Sequence[ContrastPrompt], role: str) -> list[list[int]]:
    """Which tokens of each prompt have the role; ``InputError`` names every prompt with none."""
    out = []
    for fork in forks:
        names = role_names([fork.prompt])
        of_token = token_roles(fork.encoding, fork.prompt, names)[: fork.shared]
        out.append([i for i, number in enumerate(of_token) if names[number] == role])
    without = [
        f"{fork.owner}: no token of role {role!r}, found {', '.join(role_names([fork.prompt]))}"
        for fork, tokens in zip(forks, out, strict=True)
        if not tokens
    ]
    if without:
        raise InputError("positions", without)
    return out


def observe_role(
    model: Model, prepared: Prepared, tokens: Sequence[Sequence[int]], *, batch_size: int | str = "auto"
) -> Outputs:
    """Runs one side of the pairs as it is and keeps the sites' outputs, the residual stream's too, as their means over
    the role's tokens, in the pairs' order."""
    shape, n = model.architecture, len(prepared.forks)
    heads, mlps, stream = (
        torch.zeros(n, shape.n_layers, shape.n_heads, shape.d_head),
        torch.zeros(n, shape.n_layers, shape.d_model),
        torch.zeros(n, shape.n_layers, shape.d_model),
    )
    for trees, batch in batches(prepared.trees, batch_size):
        owners = [i for t in trees for i in prepared.owners[t]]
        at = [
            (row, prepared.places[i][0].path[token], i)
            for row, t in enumerate(trees)
            for i in prepared.owners[t]
            for token in tokens[i]
        ]
        rows, nodes, of = torch.tensor(at, device=model.device).T
        _, record = model.forward(batch, watch=RecordSpec(rows, nodes))
        assert record.final is not None
        count = torch.tensor([len(tokens[i]) for i in owners], dtype=torch.float32)
        for layer in range(shape.n_layers):
            after = record.resid[layer + 1] if layer + 1 < shape.n_layers else record.final
            z = record.heads[layer].unflatten(-1, (shape.n_heads, shape.d_head))
            for into, values in ((heads, z), (mlps, record.mlp[layer]), (stream, after)):
                total = torch.zeros(n, *values.shape[1:]).index_add_(0, of.cpu(), values.float().cpu())[owners]
                into[owners, layer] = total / count.view(-1, *[1] * (total.dim() - 1))
    return Outputs(heads, mlps, stream)


def replacement_outputs(kind: str, conflict: Outputs, *, plain: Outputs | None = None, seed: int = 0) -> Outputs:
    """What stands in for every site of every pair, shaped as ``conflict``.

    Raises ``InputError`` for an unknown kind, and where ``mean`` or ``resample`` has no other pair.
    """
    n = len(conflict.heads)
    if kind not in REPLACEMENTS:
        raise InputError("replacement", [f"{kind!r}: expected one of {', '.join(REPLACEMENTS)}"])
    if kind in ("mean", "resample") and n < 2:
        raise InputError("replacement", [f"{kind!r} needs the other pairs: expected at least two pairs, found {n}"])
    if kind == "zero":
        return conflict.map(torch.zeros_like)
    if kind == "plain":
        if plain is None:
            raise ValueError("replacement 'plain' needs the plain prompts' outputs")
        return plain
    if kind == "mean":  # over the others: a pair's own output has no say in what replaces it
        return conflict.map(lambda x: (x.sum(0, keepdim=True) - x) / (n - 1))
    other = derangement(n, seed)
    return conflict.map(lambda x: x[other])


def derangement(n: int, seed: int) -> np.ndarray:
    """A permutation of n that leaves nothing in place: a random cycle through all."""
    order = np.random.default_rng(seed).permutation(n)
    out = np.empty(n, dtype=np.int64)
    out[order] = np.roll(order, 1)
    return out


def direct_parts(seen: Seen, stand_in: Outputs) -> np.ndarray:
    """(pair, site): what each replacement would take from the margin by the site's own write alone,
    everything between left as it was; sites in the order of ``sites.all_sites``."""
    heads = ((seen.outputs.heads - stand_in.heads) * seen.read_heads).sum(-1)
    mlps = ((seen.outputs.mlps - stand_in.mlps) * seen.read_mlps[:, None]).sum(-1)
    return torch.cat([heads, mlps[:, :, None]], 2).flatten(1).numpy()
