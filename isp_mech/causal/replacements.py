"""What replaces a site's output: its value elsewhere, or nothing.

A site's output at the decision position (``inference/margin.py``), or at all tokens of a role, is replaced by
``mean``: that over the conflict prompts of the other pairs, ``resample``: another pair's conflict prompt, ``plain``:
the same pair's plain prompt, ``zero``: nothing (off-distribution, for comparison only). At a role it is one vector a
site, the mean over the role's tokens there, since prompts have different numbers of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from isp_mech.errors import InputError
from isp_mech.inference.batches import BatchPlan
from isp_mech.inference.contrast_prompts import PlacedPrompts, batch_terms, place_prompts
from isp_mech.inference.margin import ContrastPrompt, margin_of
from isp_mech.inference.tokenization import role_names, token_roles
from isp_mech.models import Batch, RecordSpec, TokenPlaces
from isp_mech.sites import DECISION, REPLACEMENTS
from isp_mech.tasks import PairSet
from isp_mech.tracing.direct_logit_attribution import before_norm, directions, head_reading


@dataclass(frozen=True)
class SiteOutputs:
    """Every site's output, for every pair: heads (pair, layer, head, d_head), MLP writes and, at a role's tokens, the
    residual stream after each layer (pair, layer, d_model)."""

    heads: Float[Tensor, "pair layer head d_head"]
    mlps: Float[Tensor, "pair layer d_model"]
    stream: Float[Tensor, "pair layer d_model"] | None = None

    @property
    def has_stream(self) -> bool:
        return self.stream is not None

    def map(self, change: Callable[[Tensor], Tensor]) -> SiteOutputs:
        """With ``change`` applied to each."""
        stream = None if self.stream is None else change(self.stream)
        return SiteOutputs(change(self.heads), change(self.mlps), stream)

    def of(self, pairs: Sequence[int], device: str) -> SiteOutputs:
        """Those of some pairs, on a device."""
        return self.map(lambda x: x[list(pairs)].to(device))

    def minus(self, other: SiteOutputs) -> SiteOutputs:
        """The differences of heads and MLPs."""
        return SiteOutputs(self.heads - other.heads, self.mlps - other.mlps)


@dataclass(frozen=True)
class ObservedSide:
    """One side's forward: outputs, margins (pair,), and, per pair, what each head's output
    (pair, layer, head, d_head) and each MLP's write (pair, d_model) is multiplied with in its direct
    effect at the decision position."""

    outputs: SiteOutputs
    margins: np.ndarray
    read_heads: Float[Tensor, "pair layer head d_head"]
    read_mlps: Float[Tensor, "pair d_model"]


def observe(placed: PlacedPrompts, plan: BatchPlan) -> ObservedSide:
    """Runs one side of the pairs as it is and keeps what replacing needs, in the pairs' order.

    Without a lens on the model, what is read is NaN. Of completions that branch, in a model that takes chains alone,
    the margin is that of the first token that differs.
    """
    model, shape, n = plan.model, plan.model.architecture, len(placed.prompts)
    heads = torch.zeros(n, shape.n_layers, shape.n_heads, shape.d_head)
    mlps = torch.zeros(n, shape.n_layers, shape.d_model)
    unknown = torch.nan if shape.no_lens else 0.0
    read_heads, read_mlps = torch.full_like(heads, unknown), torch.full((n, shape.d_model), unknown)
    margins = np.zeros(n)
    norm = None if shape.no_lens else shape.norm()

    def run(rows: list[int], batch: Batch) -> None:
        asked = batch_terms(model, placed, rows, batch, tokens="first" if placed.forked else "all")
        terms, owners = asked.terms, asked.owners
        forward = model.forward(batch, at=TokenPlaces(terms.rows, terms.nodes), record=asked.record)
        record, normed = forward.record, forward.hidden
        decision = _decisions(terms.node_owner)
        with torch.no_grad():
            for layer in range(shape.n_layers):
                z = record.heads[layer][decision].float()
                heads[owners, layer] = z.unflatten(-1, (shape.n_heads, shape.d_head)).cpu()
                mlps[owners, layer] = record.mlp[layer][decision].float().cpu()
            if norm is not None:
                before = before_norm(norm, record, directions(model, terms, normed).vectors)
                for layer in range(shape.n_layers):
                    read_heads[owners, layer] = head_reading(model, record, layer, before)[decision].cpu()
                read_mlps[owners] = before[decision].cpu()
            margins[owners] = margin_of(model, normed, terms).cpu().numpy()

    plan.run_trees(placed.trees, run, "outputs")
    return ObservedSide(SiteOutputs(heads, mlps), margins, read_heads, read_mlps)


def _decisions(node_owner: Tensor) -> Tensor:
    """The number of each owner's decision position: the first of its predicting tokens."""
    _, first = np.unique(node_owner.cpu().numpy(), return_index=True)
    return torch.from_numpy(first).to(node_owner.device)


def role_tokens(prompts: Sequence[ContrastPrompt], role: str) -> list[list[int]]:
    """Which tokens of each prompt have the role; ``InputError`` names every prompt with none."""
    out = []
    for prompt in prompts:
        names = role_names([prompt.prompt])
        of_token = token_roles(prompt.encoding, prompt.prompt, names)[: prompt.shared]
        out.append([i for i, number in enumerate(of_token) if names[number] == role])
    without = [
        f"{prompt.owner}: no token of role {role!r}, found {', '.join(role_names([prompt.prompt]))}"
        for prompt, tokens in zip(prompts, out, strict=True)
        if not tokens
    ]
    if without:
        raise InputError("positions", without)
    return out


def observe_role(placed: PlacedPrompts, tokens: Sequence[Sequence[int]], plan: BatchPlan) -> SiteOutputs:
    """Runs one side of the pairs as it is and keeps the sites' outputs, the residual stream's too, as their means over
    the role's tokens, in the pairs' order."""
    model, shape, n = plan.model, plan.model.architecture, len(placed.prompts)
    heads, mlps, stream = (
        torch.zeros(n, shape.n_layers, *size) for size in ((shape.n_heads, shape.d_head), *((shape.d_model,),) * 2)
    )

    def run(trees: list[int], batch: Batch) -> None:
        owners = [i for t in trees for i in placed.owners[t]]
        at = [
            (row, placed.paths[i][0].path[token], i)
            for row, t in enumerate(trees)
            for i in placed.owners[t]
            for token in tokens[i]
        ]
        rows, nodes, of = torch.tensor(at, device=model.device).T
        record = model.forward(batch, record=RecordSpec(rows, nodes)).record
        assert record.final is not None
        count = torch.tensor([len(tokens[i]) for i in owners], dtype=torch.float32)
        for layer in range(shape.n_layers):
            after = record.resid[layer + 1] if layer + 1 < shape.n_layers else record.final
            z = record.heads[layer].unflatten(-1, (shape.n_heads, shape.d_head))
            for into, values in ((heads, z), (mlps, record.mlp[layer]), (stream, after)):
                total = torch.zeros(n, *values.shape[1:]).index_add_(0, of.cpu(), values.float().cpu())[owners]
                into[owners, layer] = total / count.view(-1, *[1] * (total.dim() - 1))

    plan.run_trees(placed.trees, run, "outputs")
    return SiteOutputs(heads, mlps, stream)


@dataclass(frozen=True)
class ConflictSide:
    """The pairs' conflict prompts as the model runs them, and what may replace their sites, by kind of replacement.

    At a role's tokens ``observed`` is None, since margins and direct effects are of the decision position.
    """

    placed: PlacedPrompts
    outputs: SiteOutputs
    replacements: Mapping[str, SiteOutputs]
    observed: ObservedSide | None = None
    tokens: list[list[int]] | None = None

    @property
    def prompts(self) -> list[ContrastPrompt]:
        return self.placed.prompts


def observe_conflict(
    pairs: PairSet, plan: BatchPlan, kinds: Sequence[str], *, positions: str = DECISION, seed: int = 0
) -> ConflictSide:
    """Runs the conflict prompts, and the plain ones where a replacement is taken from them.

    Raises ``InputError`` for an unknown kind, and where ``mean`` or ``resample`` has no other pair.
    """
    check_replacements(kinds, len(pairs))
    if reason := plan.model.architecture.no_sites:
        raise InputError(plan.model.name, [f"heads and MLPs are not defined on it: {reason}"])
    conflict = place_prompts(plan.model, pairs, ("conflict",))
    plain = place_prompts(plan.model, pairs, ("plain",)) if "plain" in kinds else None
    if positions == DECISION:
        observed, tokens = observe(conflict, plan), None
        own = observed.outputs
        of_plain = None if plain is None else observe(plain, plan).outputs
    else:
        observed, tokens = None, role_tokens(conflict.prompts, positions)
        own = observe_role(conflict, tokens, plan)
        of_plain = None if plain is None else observe_role(plain, role_tokens(plain.prompts, positions), plan)
    by_kind = {kind: replacement_outputs(kind, own, plain=of_plain, seed=seed) for kind in kinds}
    return ConflictSide(conflict, own, by_kind, observed, tokens)


def check_replacements(kinds: Sequence[str], n_pairs: int | None = None) -> None:
    """``InputError`` for an unknown kind, none, one twice, and one that needs other pairs where there are none."""
    wrong = [f"{k!r}: expected one of {', '.join(REPLACEMENTS)}" for k in kinds if k not in REPLACEMENTS]
    if not kinds or len(set(kinds)) < len(kinds):
        wrong.append(f"{list(kinds)}: expected one or more, each once")
    if not wrong and n_pairs is not None and n_pairs < 2:
        needing = [kind for kind in kinds if kind in ("mean", "resample")]
        wrong = [f"{k!r} needs the other pairs: expected at least two pairs, found {n_pairs}" for k in needing]
    if wrong:
        raise InputError("replacement", wrong)


def replacement_outputs(
    kind: str, conflict: SiteOutputs, *, plain: SiteOutputs | None = None, seed: int = 0
) -> SiteOutputs:
    """What replaces every site of every pair, shaped as ``conflict``; see ``check_replacements`` for errors."""
    n = len(conflict.heads)
    check_replacements([kind], n)
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


def direct_parts(observed: ObservedSide, replacement: SiteOutputs) -> np.ndarray:
    """(pair, site): what each replacement would take from the margin by the site's own write alone,
    everything between left as it was; sites in the order of ``sites.all_sites``."""
    heads = ((observed.outputs.heads - replacement.heads) * observed.read_heads).sum(-1)
    mlps = ((observed.outputs.mlps - replacement.mlps) * observed.read_mlps[:, None]).sum(-1)
    return torch.cat([heads, mlps[:, :, None]], 2).flatten(1).numpy()
