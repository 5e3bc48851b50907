"""Mades as changes of given prompts, and the vectors that they are made with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from isp_mech.causal.activation_patching import changed_margins
from isp_mech.causal.changes import Add, At, Block, Change, Patch, Project, Replay, Reweight, Scale
from isp_mech.causal.intervention_parts import DIFFERENCES, ONWARD, Made, Part
from isp_mech.causal.replacements import SiteOutputs, observe_role, replacement_outputs
from isp_mech.errors import InputError
from isp_mech.inference.batches import BatchPlan
from isp_mech.inference.contrast_prompts import place_prompts
from isp_mech.inference.margin import ContrastPrompt, contrast_prompts
from isp_mech.inference.tokenization import role_names, token_roles
from isp_mech.models import Model
from isp_mech.sites import DECISION, REPLACEMENTS, Site
from isp_mech.tasks import PairSet, Side


@dataclass
class Bound:
    """Prompts that interventions are applied to: their roles' tokens, looked up once, and what recipes stand for there.

    ``values`` has each recipe's outputs for every prompt (one vector a site for the decision position), ``own`` the
    residual stream after each layer (prompt, layer, d_model) at the decision position, ``other`` that of each pair's
    other prompt. Neutral prompts have none (``is_neutral``): a swap leaves them as they are.
    """

    model: Model
    prompts: Sequence[ContrastPrompt]
    values: dict[str, SiteOutputs] = field(default_factory=dict)
    own: Tensor | None = None
    other: Tensor | None = None
    is_neutral: bool = False
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

    def changes(self, intervention: Made) -> tuple[Change, ...]:
        """What the intervention does to these prompts; ``InputError`` where vectors are missing."""
        return tuple(self._change(part, intervention) for part in intervention.parts)

    def _change(self, part: Part, intervention: Made) -> Change:
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
        if part.kind == "swap" and self.is_neutral:
            return Scale(frozenset(), 1.0)
        values = self._values(part, intervention)
        if part.kind == "replace":
            return Patch(sites, values, at)
        if part.kind == "steer":
            return Add(sites, values, part.number, at)
        if self.other is None or values.stream is None:
            expected = "expected intervene(...) with pairs: it takes the stream from a pair's other prompt"
            raise InputError("intervention", [f"{part}: {expected}"])
        layer = part.sites[0].layer
        basis = _orthonormal(intervention, part, values.stream[0, layer])
        return Project(layer, basis, self.other[:, layer] @ basis.T, at)

    def _values(self, part: Part, intervention: Made) -> SiteOutputs:
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


def _orthonormal(intervention: Made, part: Part, direction: Tensor) -> Tensor:
    """(r, d_model): the subspace's basis, orthonormal; of a direction alone, that of unit length."""
    given = intervention.arrays.get(f"{part.source}/{part.sites[0]}")
    rows = (
        direction[None]
        if given is None
        else torch.from_numpy(np.asarray(given, np.float32)).reshape(-1, len(direction))
    )
    return torch.linalg.qr(rows.float().T)[0].T.contiguous() if bool(rows.any()) else rows[:0].float()


@dataclass(frozen=True)
class Streams:
    """Every site's output, the residual stream's too, at the decision position of both sides of the pairs; ``followed``
    says which conflict prompts are answered rightly."""

    conflict: SiteOutputs
    plain: SiteOutputs
    followed: np.ndarray

    def own_and_other(self, side: Literal["conflict", "plain"]) -> tuple[Tensor, Tensor]:
        """The residual stream (pair, layer, d_model) of one side, and that of the other."""
        assert self.conflict.stream is not None and self.plain.stream is not None
        both = self.conflict.stream, self.plain.stream
        return both if side == "conflict" else both[::-1]

    def differences(self, chosen: Sequence[int]) -> dict[str, Tensor]:
        """(layer, d_model) by recipe: differences of means over the chosen pairs."""
        conflict, plain = (outputs.of(chosen, "cpu") for outputs in (self.conflict, self.plain))
        return {name: stream_difference(name, conflict, plain, self.followed[list(chosen)]) for name in DIFFERENCES}


def observe_streams(
    asked: Sequence[Made], pairs: PairSet, plan: BatchPlan, *, followed: np.ndarray | None = None
) -> Streams | None:
    """What recipes are made from; None where all interventions are fitted. ``followed`` is measured where it is not
    known."""
    if all(part.is_fitted and part.kind != "swap" for one in asked for part in one.parts):
        return None
    placed = [place_prompts(plan.model, pairs, (side,)) for side in ("conflict", "plain")]
    conflict, plain = (observe_role(side, [[prompt.shared - 1] for prompt in side.prompts], plan) for side in placed)
    if followed is None:
        followed = changed_margins(placed[0].prompts, [()], plan)[:, 0] > 0
    return Streams(conflict, plain, followed)


def prompts_of(pairs: PairSet, side: Side, model: Model) -> list[ContrastPrompt]:
    """One side's prompts with both completions; on the neutral side those of the neutral prompt."""
    if side != "neutral":
        return place_prompts(model, pairs, (side,)).prompts
    return contrast_prompts(
        model,
        [f"{pair.id} (neutral)" for pair in pairs],
        [pair.neutral for pair in pairs if pair.neutral is not None],
        [str(pair.neutral_answer) for pair in pairs],
        [str(pair.neutral_lure) for pair in pairs],
    )


def bind_side(
    pairs: PairSet, side: Side, plan: BatchPlan, streams: Streams | None, asked: Sequence[Made], *, seed: int
) -> Bound:
    """One side of the pairs, with what the recipes of ``asked`` stand for there."""
    prompts = prompts_of(pairs, side, plan.model)
    bound = Bound(plan.model, prompts, is_neutral=side == "neutral")
    if streams is None:
        return bound
    for source in {part.source for one in asked for part in one.parts if not part.is_fitted} & {*REPLACEMENTS}:
        bound.values[source] = replacement_outputs(source, streams.conflict, plain=streams.plain, seed=seed)
    for name, difference in streams.differences(range(len(pairs))).items():
        bound.values[name] = of_stream(difference, len(prompts))
    if side != "neutral":
        bound.own, bound.other = streams.own_and_other(side)
    return bound


def of_stream(values: Tensor, n: int) -> SiteOutputs:
    """The same vector for each of ``n`` prompts, at the stream after each layer (layer, d_model)."""
    heads = torch.zeros(1, len(values), 1, 1).expand(n, -1, -1, -1)
    nothing = torch.zeros_like(values)[None].expand(n, *values.shape)
    return SiteOutputs(heads, nothing, values[None].expand(n, *values.shape))


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


def changed_by(made: Made, prompts: Sequence[ContrastPrompt], plan: BatchPlan) -> np.ndarray:
    """(prompt,): the margins with what is made, done to all of them. ``InputError`` for a role that none has."""
    bound = Bound(plan.model, prompts)
    check_roles([made], [bound])
    return changed_margins(prompts, [bound.changes(made)], plan, doing="intervene")[:, 0]


def check_roles(asked: Sequence[Made], bound: Sequence[Bound]) -> None:
    """``InputError`` for a role that no prompt has."""
    roles = dict.fromkeys(role for one in asked for part in one.parts for role in part.roles)
    missing = [role for role in roles if not any(tokens for some in bound for tokens in some.tokens(role))]
    if missing:
        known = ", ".join(role_names([prompt.prompt for some in bound for prompt in some.prompts]))
        raise InputError("intervention", [f"no token of role {role!r}, found {known}" for role in missing])
