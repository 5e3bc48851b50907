"""Interventions at the decision position: sites' outputs scaled, and attention to a role blocked.

``scale_sites`` multiplies what sites write by alpha (Yu et al. 2023, arXiv 2310.15910): 0 takes it away, 1 leaves
it, 2 doubles it. ``knock_out`` lets nothing flow by attention from a role's tokens to the decision position (and to
the completion's tokens after it), in all layers or in one (Geva et al. 2023, arXiv 2304.14767). Both take one
forward of the prompt and one of a few tokens for each intervention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from isp_mech.causal.activation_patching import Block, Change, Scale, changed_margins
from isp_mech.causal.intervention_changes import bind_side, check_roles, observe_streams
from isp_mech.causal.intervention_values import Intervention, parse_intervention
from isp_mech.causal.replacements import role_tokens
from isp_mech.causal.site_sets import sites_for
from isp_mech.errors import InputError
from isp_mech.inference.batches import BatchPlan, BatchSize, each_model
from isp_mech.inference.contrast_prompts import SIDES, head_of, place_prompts, run_of
from isp_mech.inference.tokenization import OTHER, role_names
from isp_mech.models import Models
from isp_mech.stats import benjamini_hochberg
from isp_mech.tables import Run, Table, concat, table
from isp_mech.tables.columns import flip_p, mean_columns
from isp_mech.tables.site_tables import AnySites
from isp_mech.tasks import PairSet, Side

ALPHAS = (0.0, 0.5, 1.0, 2.0)


def scale_sites(
    sites: AnySites,
    pairs: PairSet,
    models: Models,
    *,
    alphas: Sequence[float] = ALPHAS,
    batch_size: BatchSize = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Table:
    """Table ``interventions``: accuracy and margin on both sides with the sites' outputs multiplied by each alpha.

    ``sites`` are heads and MLPs, the same for all models or by the model's name, or what ``locate`` gave (its
    significant sites). They are scaled together, each as it comes out in the run in which those before it are
    scaled already. ``InputError`` for no sites, sites a model does not have, and an alpha that is no finite number.
    """
    wrong = [f"alpha {a!r}: expected a finite number" for a in alphas if not np.isfinite(a)]
    if wrong or not alphas:
        raise InputError("scale", wrong or ["no alphas: expected one or more"])
    parts = []
    for plan in each_model(models, batch_size, progress=progress):
        chosen = sites_for(sites, plan.model)
        if not chosen:
            raise InputError("scale", [f"{plan.model.name}: no sites: expected one or more"])
        place, rows = " ".join(map(str, chosen)), []
        for side in SIDES:
            prompts = place_prompts(plan.model, pairs, (side,)).prompts
            changes = [Scale(frozenset(chosen), alpha) for alpha in (1.0, *alphas)]
            margins = changed_margins(prompts, changes, plan, doing="scale")
            rows += [
                _Outcome(side, "scale", place, "", alpha).row(margins[:, 0], margins[:, 1 + i], seed)
                for i, alpha in enumerate(alphas)
            ]
        parts.append(_table(plan, pairs, rows, "scale: sites' outputs multiplied", seed))
    return _joined(parts)


def knock_out(
    pairs: PairSet,
    models: Models,
    *,
    roles: Sequence[str] | None = None,
    each_layer: bool = False,
    batch_size: BatchSize = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Table:
    """Table ``interventions``: accuracy and margin on the conflict side without attention to each role.

    ``roles`` defaults to those that every conflict prompt has, ``other`` (all tokens of no role) left out. With
    ``each_layer`` attention is also blocked in one layer at a time. ``InputError`` for a role that a prompt does not
    have, and for a model whose attention does not accept custom masks.
    """
    asked = list(roles) if roles is not None else _common_roles(pairs)
    if not asked:
        raise InputError("knockout", ["no role that every conflict prompt has: expected one or more"])
    method = "knockout: no attention from the decision position to a role"
    parts = []
    for plan in each_model(models, batch_size, progress=progress):
        prompts = place_prompts(plan.model, pairs, ("conflict",)).prompts
        layers = range(plan.model.architecture.n_layers)
        windows = {"all": frozenset(layers)} | ({str(i): frozenset({i}) for i in layers} if each_layer else {})
        changes: list[Change] = [Scale(frozenset(), 1.0)]
        for role in asked:
            before = [
                [i for i in tokens if i < prompt.shared - 1]
                for prompt, tokens in zip(prompts, role_tokens(prompts, role), strict=True)
            ]
            changes += [Block(before, window) for window in windows.values()]
        margins = changed_margins(prompts, changes, plan, doing="knockout")
        places = [(role, name) for role in asked for name in windows]
        rows = [
            _Outcome("conflict", "knockout", role, name, np.nan).row(margins[:, 0], margins[:, 1 + i], seed)
            for i, (role, name) in enumerate(places)
        ]
        parts.append(_table(plan, pairs, rows, method, seed))
    return _joined(parts)


def intervene(
    interventions: Intervention | str | Sequence[Intervention | str],
    pairs: PairSet,
    models: Models,
    *,
    sides: Sequence[Side] = ("conflict", "plain", "neutral"),
    batch_size: BatchSize = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Table:
    """Table ``interventions``: accuracy and margin on each side with each intervention, all in the same forwards.

    ``place`` is the intervention as text, ``intervention`` its kinds; on the neutral side, where pairs have one, the
    margin is that of its own two completions. A part whose source is a recipe takes its vectors from these pairs: means
    over the other pairs, differences of means over all of them; what is to be judged on other pairs is fitted before
    (``restoration``). A side whose prompts have no token of a role is left as it is by what needs that role.
    ``InputError`` for a role that no prompt of any side has.
    """
    given = [interventions] if isinstance(interventions, Intervention | str) else list(interventions)
    asked = [parse_intervention(one) if isinstance(one, str) else one for one in given]
    parts = []
    for plan in each_model(models, batch_size, progress=progress):
        streams = observe_streams(asked, pairs, plan)
        there = [side for side in sides if side != "neutral" or all(pair.neutral is not None for pair in pairs)]
        bound = {side: bind_side(pairs, side, plan, streams, asked, seed=seed) for side in there}
        check_roles(asked, list(bound.values()))
        rows = []
        for side, of_side in bound.items():
            changes = [(), *(of_side.changes(one) for one in asked)]
            margins = changed_margins(of_side.prompts, changes, plan, doing="intervene")
            rows += [
                _Outcome(side, one.kinds, str(one), "", np.nan).row(margins[:, 0], margins[:, 1 + i], seed)
                for i, one in enumerate(asked)
            ]
        parts.append(_table(plan, pairs, rows, "intervene: a forward changed in one or several ways", seed))
    return _joined(parts)


def _common_roles(pairs: PairSet) -> list[str]:
    """The roles that every conflict prompt has."""
    by_pair = [set(role_names([pair.conflict])) - {OTHER} for pair in pairs]
    return [role for role in role_names([pairs[0].conflict]) if all(role in roles for roles in by_pair)]


@dataclass(frozen=True)
class _Outcome:
    """One intervention on one side: what it is called in the table."""

    side: str
    intervention: str
    place: str
    layers: str
    alpha: float

    def row(self, before: np.ndarray, after: np.ndarray, seed: int) -> dict[str, str | float]:
        """From the margins (answer less lure) as they are and with the intervention; the plain prompt asks for the
        lure."""
        right = (after < 0) if self.side == "plain" else (after > 0)
        values = np.stack([right.astype(float), after, before - after], 1)
        means = mean_columns("", values, seed)
        row: dict[str, str | float] = {
            **vars(self),
            "p": float(flip_p(values[:, 2:], seed)[0]),
            "q": np.nan,
            "n": len(after),
        }
        for i, name in enumerate(("accuracy", "margin", "effect")):
            row |= {name + end: of_all[i] for end, of_all in means.items()}
        return row


def _table(plan: BatchPlan, pairs: PairSet, rows: Sequence[dict[str, str | float]], method: str, seed: int) -> Table:
    model = plan.model
    settings = {"n_pairs": len(pairs)}
    run: Run = run_of(model, task=pairs.name, method=method, seed=seed, settings=settings, notes=plan.notes())
    return table("interventions", [{**head_of(model, pairs.name), **row} for row in rows], run)


def _joined(parts: Sequence[Table]) -> Table:
    joined = concat(list(parts))
    return replace(joined, frame=joined.frame.assign(q=benjamini_hochberg(joined.frame["p"].to_numpy())))
