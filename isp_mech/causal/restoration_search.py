"""The search for an intervention that restores prompt-following, on the pairs that choose it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from torch import Tensor

from isp_mech.causal.activation_patching import changed_margins
from isp_mech.causal.changes import Together
from isp_mech.causal.intervention_changes import Bound
from isp_mech.causal.intervention_parts import DIFFERENCES
from isp_mech.causal.intervention_values import (
    Intervention,
    block,
    replacing,
    replay,
    reweight,
    scale,
    steer,
)
from isp_mech.causal.neutral_text import decision_states, next_token_information
from isp_mech.causal.prompt_copies import RunCache
from isp_mech.inference.batches import BatchPlan
from isp_mech.inference.tokenization import OTHER, role_names
from isp_mech.sites import Searched, Site, all_sites
from isp_mech.tasks import PairSet

ALPHAS: Mapping[str, tuple[float, ...]] = {
    "replace": (1.0,),
    "scale": (0.0, 2.0, -1.0, 4.0),
    "replay": (1.0, 3.0, -2.0),
    "steer": (1.0, 2.0, 4.0, -1.0, -2.0),
}
LOG_FACTORS = (2.0, 4.0, 8.0, -2.0, -4.0)
MOST_PARTS = 6  # that are chosen one after the other
BEST = 8  # single changes of which more are put together
LEAST_STEP = 0.02  # of the pairs that choose: a further part has to make so many more right
FEW = 60  # pairs, at most, on which many single changes are looked through, and random ones judged
LOOKED_THROUGH = 40  # single changes that are left then, to be judged on all pairs


@dataclass
class PromptSide:
    """Prompts of one kind, of one half of the pairs, and what was run of them."""

    bound: Bound
    plan: BatchPlan
    cache: RunCache

    @cached_property
    def unchanged(self) -> Tensor:
        """The states at the decision position (prompt, d_model) of the model as it is."""
        return decision_states(self.bound.prompts, self.plan)

    @cached_property
    def information(self) -> float:
        """Nats that neutral texts tell the model as it is of the next token; the same for every kind that is judged."""
        return next_token_information(self.unchanged, self.plan.model)

    def margins(self, changes: Sequence[Together]) -> np.ndarray:
        """(prompt, change)"""
        return changed_margins(self.bound.prompts, changes, self.plan, cache=self.cache, doing="restore")

    def of(self, interventions: Sequence[Intervention]) -> np.ndarray:
        """(prompt, intervention)"""
        return self.margins([self.bound.changes(one) for one in interventions])


@dataclass(frozen=True)
class PairHalf:
    """Both sides of some pairs; ``quick`` ones at the first token that differs where the whole margin is costly, and
    ``few`` of these on the conflict side, and the ``rest``."""

    conflict: PromptSide
    plain: PromptSide
    quick_conflict: PromptSide
    quick_plain: PromptSide
    few: PromptSide
    rest: PromptSide


@dataclass(frozen=True)
class Judged:
    """An intervention on the half that chooses: how many conflict prompts are right with it, and the mean margin."""

    made: Intervention
    right: int
    margin: float

    @property
    def rank(self) -> tuple[int, tuple[float, ...], float]:
        """More right, then smaller, then by the margin."""
        return self.right, tuple(-x for x in size_of(self.made)), self.margin


def size_of(made: Intervention) -> tuple[float, ...]:
    """Parts, sites or layers, and how far their numbers are from changing nothing: smaller ones first."""
    strength = {"block": 9.0}  # as a factor that leaves no weight
    cells = sum(len(p.sites) if p.sites else 1.0 if p.layers is None else len(p.layers) / 1e4 for p in made.parts)
    far = sum(
        strength.get(p.kind, abs(np.log(p.number)) if p.kind == "reweight" else abs(p.number - (p.kind == "scale")))
        for p in made.parts
    )
    return len(made.parts), cells, far


Asked = Literal["conflict", "plain", "few", "rest", "neutral"]  # prompts that single changes are tried on


@dataclass
class Search:
    """The search of interventions on one half, of one kind after the other: margins that are known, ``known``, are not
    run again."""

    half: PairHalf
    neutral: PromptSide
    plain_floor: float
    neutral_ceiling: float
    known: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)

    def margins(self, of: Asked, some: Sequence[Intervention]) -> np.ndarray:
        """(prompt, intervention)"""
        half = self.half
        side = {
            "conflict": half.quick_conflict,
            "plain": half.quick_plain,
            "few": half.few,
            "rest": half.rest,
            "neutral": self.neutral,
        }[of]
        new = [one for one in some if (of, same_as(one)) not in self.known]
        if new:
            self.known |= {(of, same_as(one)): x for one, x in zip(new, side.of(new).T, strict=True)}
        return np.stack([self.known[of, same_as(one)] for one in some], 1)

    @cached_property
    def nothing(self) -> Judged:
        """The model as it is."""
        return _judged(Intervention(), self.half.quick_conflict.of([Intervention()])[:, 0])

    def judged(self, ranked: Sequence[Judged], most: int) -> list[Judged]:
        """The first ``most`` of those that are better than nothing and cost little enough. What one costs is looked at
        only where it may be among them."""
        left, found = [one for one in ranked if _merit(one) > _merit(self.nothing)], list[Judged]()
        while left and len(found) < most:
            wanted = most - len(found)
            found += self.cheap(left[:wanted])
            left = left[wanted:]
        return found

    def cheap(self, some: Sequence[Judged]) -> list[Judged]:
        """Those that cost little enough; plain prompts, which are more and longer, are asked last."""
        of_model = [one for one in some if not one.made.roles]
        kept = list(some)
        if of_model:
            losses = neutral_losses(self.neutral, self.margins("neutral", [one.made for one in of_model])).T
            per_token = {id(m): loss_per_token(self.neutral, loss) for m, loss in zip(of_model, losses, strict=True)}
            kept = [one for one in some if per_token.get(id(one), 0.0) <= self.neutral_ceiling]
        if not kept:
            return []
        plain = self.margins("plain", [one.made for one in kept])
        return [one for one, right in zip(kept, (plain < 0).mean(0), strict=True) if right >= self.plain_floor - 1e-9]

    def on_all(self, some: Sequence[Intervention]) -> list[Judged]:
        """Judged on all pairs, the best first."""
        return _ranked(some, self.margins("conflict", some)) if some else []

    def looked_through(self, singles: Sequence[Intervention]) -> list[Judged]:
        """The single changes, the best first; of many those that are the best by a few pairs."""
        if len(singles) <= LOOKED_THROUGH:
            return self.on_all(singles)
        few = self.margins("few", singles)
        number = {id(one): i for i, one in enumerate(singles)}
        kept = [one.made for one in _ranked(singles, few)[:LOOKED_THROUGH]]
        of_kept = few[:, [number[id(one)] for one in kept]]
        return _ranked(kept, np.concatenate([of_kept, self.margins("rest", kept)]))

    def best(self, singles: Sequence[Intervention], most: int) -> Intervention:
        """The best of the single ones, and of sums of them that are made one after the other; nothing where no change
        is better than none."""
        ranked = self.judged(self.looked_through(singles), BEST)
        steps, pool = [self.nothing, *ranked], [found.made for found in ranked]
        step = max(1, LEAST_STEP * len(self.half.quick_conflict.bound.prompts))
        here = ranked[0] if ranked else self.nothing
        while here.made.parts and len(here.made.parts) < most:
            more = [here.made + one for one in pool if not _overlap(here.made, one)]
            found = self.judged([one for one in self.on_all(more) if one.right >= here.right + step], 1)
            if not found:
                break
            here = found[0]
            steps.append(here)
        return max(steps, key=lambda f: f.rank).made


def same_as(made: Intervention) -> str:
    """A text that is equal where two interventions do the same: what one site writes, replayed alpha times where it is
    changed, is scaling by 1 + alpha, since nothing before the site is changed."""
    part = made.parts[0] if len(made.parts) == 1 else None
    if part is None or part.kind != "replay" or len(part.sites) != 1:
        return str(made)
    return str(scale(part.sites, 1 + part.number, at=part.at))


def _judged(made: Intervention, margins: np.ndarray) -> Judged:
    return Judged(made, int((margins > 0).sum()), float(margins.mean()))


def _ranked(made: Sequence[Intervention], margins: np.ndarray) -> list[Judged]:
    """The best first, by (pair, intervention) margins."""
    judged = (_judged(one, margins[:, i]) for i, one in enumerate(made))
    return sorted(judged, key=_merit, reverse=True)


def _merit(one: Judged) -> tuple[int, float]:
    return one.right, one.margin


def _overlap(a: Intervention, b: Intervention) -> bool:
    def cells(one: Intervention) -> set[object]:
        return {x for p in one.parts for x in (p.sites or [(p.role, p.layers)])}

    return bool(cells(a) & cells(b))


def candidates(kind: Searched, roles: Sequence[str], n_layers: int, n_heads: int, at: str) -> list[Intervention]:
    """The grid of one kind: single changes; none of a swap, whose directions are trained."""
    if kind == "swap":
        return []
    if kind in ("block", "reweight"):
        windows = dict.fromkeys([None, *(tuple(w) for w in _windows(n_layers))])
        if kind == "block":
            return [block(role, layers=w) for role in roles for w in windows]
        return [reweight(r, float(np.exp(x)), layers=w) for r in roles for w in windows for x in LOG_FACTORS]
    if kind == "steer":
        layers = range(n_layers)
        return [steer(i, v, a, at=at) for i in layers for v in DIFFERENCES for a in ALPHAS["steer"]]
    make: dict[str, Callable[[Site, float], Intervention]] = {
        "replace": lambda site, _: replacing(site, "mean", at=at),
        "scale": lambda site, alpha: scale(site, alpha, at=at),
        "replay": lambda site, alpha: replay(site, alpha, at=at),
    }
    return [make[kind](site, alpha) for site in all_sites(n_layers, n_heads) for alpha in ALPHAS[kind]]


def _windows(n_layers: int) -> list[range]:
    """Halves of the layers: the first, the middle one, the last."""
    half = n_layers // 2
    return [range(half), range(n_layers // 4, n_layers // 4 + half), range(half, n_layers)] if half else []


def common_roles(pairs: PairSet) -> list[str]:
    """The roles that every conflict prompt has, ``other`` left out."""
    by_pair = [set(role_names([pair.conflict])) - {OTHER} for pair in pairs]
    return [role for role in role_names([pairs[0].conflict]) if all(role in roles for roles in by_pair)]


def neutral_losses(neutral: PromptSide, margins: np.ndarray) -> np.ndarray:
    """(text, change): minus log p of each text's last word, nats."""
    return -margins


def answer_lengths(neutral: PromptSide) -> np.ndarray:
    return np.array([len(prompt.answer.targets) for prompt in neutral.bound.prompts])


def loss_per_token(neutral: PromptSide, losses: np.ndarray) -> float:
    return float(losses.sum() / answer_lengths(neutral).sum())
