"""Interventions as changes of given prompts, and the vectors that they are made with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from isp_mech.causal.changes import Add, At, Block, Change, Patch, Project, Replay, Reweight, Scale
from isp_mech.causal.intervention_values import DIFFERENCES, ONWARD, Intervention, Part, with_array
from isp_mech.causal.replacements import SiteOutputs, observe_role
from isp_mech.errors import InputError
from isp_mech.inference.batches import BatchPlan
from isp_mech.inference.contrast_prompts import place_prompts
from isp_mech.inference.margin import ContrastPrompt
from isp_mech.inference.tokenization import role_names, token_roles
from isp_mech.models import Model
from isp_mech.sites import DECISION, Site
from isp_mech.tasks import PairSet


@dataclass
class Bound:
    """Prompts that interventions are applied to: their roles' tokens, looked up once, and what recipes stand for there.

    ``values`` has each recipe's outputs for every prompt (one vector a site for the decision position), ``other`` the
    residual stream after each layer (prompt, layer, d_model) at the decision position of each pair's other prompt.
    """

    model: Model
    prompts: Sequence[ContrastPrompt]
    values: dict[str, SiteOutputs] = field(default_factory=dict)
    other: Tensor | None = None
    _tokens: dict[str, list[list[int]]] = field(default_factory=dict)

    def tokens(self, role: str, *, early: bool = False) -> list[list[int]]:
        """The tokens of a role in every prompt, none where it has no such role; with ``early`` those alone that stand
        before the decision position."""
        key = f"{role} {early}"
        if key not in self._tokens:
            self._tokens[key] = [self._tokens_of(prompt, role, prompt.shared - early) for prompt in self.prompts]
        return self._tokens[key]

    def _tokens_of(self, prompt: ContrastPrompt, role: str, end: int) -> list[int]:
        names = role_names([prompt.prompt])
        if role not in names:
            return []
        of_token = token_roles(prompt.encoding, prompt.prompt, names)[:end]
        return [i for i, number in enumerate(of_token) if names[number] == role]

    def changes(self, intervention: Intervention) -> tuple[Change, ...]:
        """What the intervention does to these prompts; ``InputError`` where vectors are missing."""
        return tuple(self._change(part, intervention) for part in intervention.parts)

    def _change(self, part: Part, intervention: Intervention) -> Change:
        shape = self.model.architecture
        if part.kind in ("block", "reweight"):
            layers = frozenset(range(shape.n_layers) if part.layers is None else part.layers)
            heads = None if part.heads is None else frozenset(part.heads)
            tokens = self.tokens(part.role, early=True)
            if part.kind == "block":
                return Block(tokens, layers, heads)
            return Reweight(tokens, math.log(part.number), layers, heads)
        sites = frozenset(part.sites)
        at: At = None if part.at == DECISION else "onward" if part.at == ONWARD else self.tokens(part.at)
        if part.kind == "scale":
            return Scale(sites, part.number, at)
        if part.kind == "replay":
            return Replay(sites, part.number, at)
        values = self._values(part, intervention)
        if part.kind == "replace":
            return Patch(sites, values, at)
        if part.kind == "steer":
            return Add(sites, values, part.number, at)
        if self.other is None or values.stream is None:
            raise InputError("intervention", [f"{part}: expected pairs, whose other prompt it takes the stream from"])
        layer = part.sites[0].layer
        basis = _orthonormal(intervention, part, values.stream[0, layer])
        return Project(layer, basis, self.other[:, layer] @ basis.T, at)

    def _values(self, part: Part, intervention: Intervention) -> SiteOutputs:
        """What the part's source stands for in every prompt."""
        if part.source in self.values:
            return self.values[part.source]
        n, shape = len(self.prompts), self.model.architecture
        sizes = ((shape.n_heads, shape.d_head), (shape.d_model,), (shape.d_model,))
        heads, mlps, stream = (torch.zeros(shape.n_layers, *size) for size in sizes)
        if part.source != "zero":
            missing = [str(site) for site in part.sites if f"{part.source}/{site}" not in intervention.arrays]
            if missing:
                raise InputError("intervention", [f"{part}: no vector for {', '.join(missing)}: fit it to pairs first"])
            for name, array in intervention.arrays.items():
                source, _, site = name.partition("/")
                if source == part.source:
                    of_site = torch.from_numpy(np.asarray(array, dtype=np.float32))
                    _put(heads, mlps, stream, next(s for s in part.sites if str(s) == site), of_site)
        of_all = [x[None].expand(n, *x.shape) for x in (heads, mlps)]
        last = stream[None].expand(n, *stream.shape) if part.kind != "replace" else None
        self.values[part.source] = SiteOutputs(of_all[0], of_all[1], last)
        return self.values[part.source]


def _put(heads: Tensor, mlps: Tensor, stream: Tensor, site: Site, values: Tensor) -> None:
    if site.kind == "head":
        heads[site.layer, site.head] = values
    else:
        (mlps if site.kind == "mlp" else stream)[site.layer] = values.reshape(-1, mlps.shape[-1])[0]


def _orthonormal(intervention: Intervention, part: Part, direction: Tensor) -> Tensor:
    """(r, d_model): the subspace's basis, orthonormal; of a direction alone, that of unit length."""
    given = intervention.arrays.get(f"{part.source}/{part.sites[0]}")
    rows = (
        direction[None]
        if given is None
        else torch.from_numpy(np.asarray(given, np.float32)).reshape(-1, len(direction))
    )
    return torch.linalg.qr(rows.float().T)[0].T.contiguous() if bool(rows.any()) else rows[:0].float()


def stream_at_decision(pairs: PairSet, side: str, plan: BatchPlan) -> SiteOutputs:
    """Every site's output, the residual stream's too, at the decision position of one side of the pairs."""
    placed = place_prompts(plan.model, pairs, (side,))
    return observe_role(placed, [[prompt.shared - 1] for prompt in placed.prompts], plan)


def stream_difference(source: str, conflict: SiteOutputs, plain: SiteOutputs, followed: np.ndarray) -> Tensor:
    """(layer, d_model): a difference of means of the residual stream: of conflict and plain prompts, or of the conflict
    prompts that are ``followed`` and the others; nothing where one of the two has none."""
    assert conflict.stream is not None and plain.stream is not None
    first, second = conflict.stream, plain.stream
    if source.split("#")[0] == DIFFERENCES[1]:
        which = torch.from_numpy(np.asarray(followed, dtype=bool))
        first, second = conflict.stream[which], conflict.stream[~which]
    if not len(first) or not len(second):
        return torch.zeros_like(conflict.stream[0])
    return first.mean(0) - second.mean(0)


def fit(intervention: Intervention, conflict: SiteOutputs, differences: Mapping[str, Tensor]) -> Intervention:
    """The intervention with its recipes made into vectors: the means of ``conflict`` outputs, and ``differences`` of
    the residual stream (layer, d_model)."""
    out = Intervention()
    for part in intervention.parts:
        alone = Intervention((part,), intervention.arrays)
        if part.source == "mean":
            means = {
                str(s): (conflict.mlps[:, s.layer] if s.head is None else conflict.heads[:, s.layer, s.head]).mean(0)
                for s in part.sites
            }
            alone = with_array(alone, {name: values.numpy() for name, values in means.items()})
        elif part.source in differences:
            site = part.sites[0]
            alone = with_array(alone, {str(site): differences[part.source][site.layer].numpy()})
        out = out + alone
    return out
