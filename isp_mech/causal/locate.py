"""Locating: the total effect of every head and MLP on the margin, exact or by gradients, with error control.

effect = margin as it is - margin with the site's output at the decision position replaced. A site with
a positive effect pushes towards the prompt's answer, one with a negative effect towards the lure: the
override is the sum of those. See ``replacements.py`` for what replaces a site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from isp_mech.causal.activation_patching import Patch, changed_margins
from isp_mech.causal.attribution_patching import GRADIENT_STEPS, approximate_effects
from isp_mech.causal.replacements import ConflictSide, check_replacements, direct_parts, observe_conflict
from isp_mech.causal.screening import EXACT, FIRST_TOKEN, is_costly, screened
from isp_mech.errors import InputError
from isp_mech.inference.batches import BatchPlan, BatchSize, each_model
from isp_mech.inference.contrast_prompts import head_of, noted, run_of
from isp_mech.inference.margin import ContrastPrompt
from isp_mech.models import ChatSetting, Models
from isp_mech.scaling.summaries import join_sites
from isp_mech.sites import DECISION, METHODS, Method, Replacement, Site, all_sites
from isp_mech.stats import LEVEL, benjamini_hochberg, spearman
from isp_mech.tables import Run, Table, concat, table
from isp_mech.tables.columns import crossed, flip_p, mean_columns, site_axis
from isp_mech.tasks import PairSet
from isp_mech.tracing.trace import Head

CHECKED = 16  # pairs whose effects are computed exactly beside an approximation


@dataclass(frozen=True)
class Sites:
    """Tables ``effects`` (pair x site x replacement), ``sites`` (site, for the first replacement) and
    ``stability`` (rank agreement between replacements and between halves of the pairs)."""

    effects: Table
    sites: Table
    stability: Table


def locate(
    pairs: PairSet,
    models: Models,
    *,
    replacement: Replacement | Sequence[Replacement] = "mean",
    method: Method = "exact",
    positions: str = DECISION,
    chat: ChatSetting | None = None,
    batch_size: BatchSize = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Sites:
    """Total and direct effect, in nats, of every head and MLP of every model on the conflict margin.

    ``replacement`` is one of mean, resample, plain, zero, or several; the first of several makes the
    ``sites`` table, with 95 % bootstrap intervals over pairs, a two-sided sign-flip p, and q by
    Benjamini-Hochberg over all sites of all models together. ``direct_effect`` is the part of the same
    difference that goes by the site's own write, the final norm's scale frozen. ``method`` exact: each
    effect is the one that a forward of its own would give; for every site (exhaustive) or, where completions have
    several tokens and the vocabulary is large, for those that matter at the first token at which the completions
    differ, and for a random tenth of the others: the column ``measured`` says which, the Run what that tenth missed.
    For very large models, attribution (one gradient) or integrated (five for each layer), see
    ``attribution_patching.py``: there the table ``stability`` and the Run have the rank correlation with the exact
    effects over the sites, on 16 pairs.

    ``positions`` decision: a site is what it writes where the completion is decided. With a role of the conflict
    prompts ("negation", "definition", ...) a site is what it writes at all of the role's tokens, and the residual
    stream after each layer (kind ``resid``) is a site too; there the direct effect is none, but for tokens of the
    role at the decision position, and is left out. ``chat`` is as in ``score``.
    """
    kinds = (replacement,) if isinstance(replacement, str) else tuple(replacement)
    if method not in METHODS:
        raise InputError("locate", [f"method {method!r}: expected one of {', '.join(METHODS)}"])
    check_replacements(kinds)
    if positions != DECISION and method != "exact":
        raise InputError("locate", [f"method {method!r} with positions {positions!r}: expected method exact"])
    asked = _Asked(pairs, kinds, method, positions, seed)
    located, refused = [], []
    for plan in each_model(models, batch_size, chat=chat, progress=progress):
        if reason := plan.model.architecture.no_sites:
            refused.append(f"{plan.model.name}: heads and MLPs are not defined on it: {reason}")
        else:
            located.append(_locate_model(asked, plan))
    if refused and not located:
        raise InputError("locate", refused)
    found = join_located(located)
    return Sites(*(noted(part, refused) for part in (found.effects, found.sites, found.stability)))


@dataclass(frozen=True)
class _Asked:
    """What is asked of every model; ``kinds`` are the replacements."""

    pairs: PairSet
    kinds: Sequence[str]
    method: str
    positions: str
    seed: int


@dataclass(frozen=True)
class _Measured:
    """A model's effects (pair, site) by replacement; ``direct`` is empty where it is not defined, ``agreement`` with
    exact effects where they are not exact."""

    sites: Sequence[Site]
    effects: Mapping[str, np.ndarray]
    direct: Mapping[str, np.ndarray]
    agreement: Mapping[str, float]
    how: np.ndarray  # of each site: how its effect was measured
    notes: Sequence[str] = ()


def join_located(parts: Sequence[Sites]) -> Sites:
    """Several models' sites as one; q and ``significant`` are taken over all of them together."""
    sites = join_sites([part.sites for part in parts])
    return Sites(concat([part.effects for part in parts]), sites, concat([part.stability for part in parts]))


def _locate_model(asked: _Asked, plan: BatchPlan) -> Sites:
    model, pairs = plan.model, asked.pairs
    conflict = observe_conflict(pairs, plan, asked.kinds, positions=asked.positions, seed=asked.seed)
    if asked.method == "exact" and is_costly(conflict.prompts, model):
        measured = _screened(conflict, plan, asked.seed)
    elif asked.method in ("exact", "exhaustive"):
        measured = _exact(conflict, plan)
    else:
        measured = _approximate(conflict, plan, asked.method)
    by = f"gradients ({asked.method})" if asked.method in GRADIENT_STEPS else "exact replacement"
    at_decision = asked.positions == DECISION
    where = "at the decision position" if at_decision else f"at the tokens of role {asked.positions}"
    run = run_of(
        model,
        task=pairs.name,
        method=f"locate: total effect by {by} {where}",
        seed=asked.seed,
        settings={
            "replacement": ", ".join(asked.kinds),
            "positions": asked.positions,
            "n_pairs": len(pairs),
            "level": LEVEL,
        },
        notes=[
            *(
                f"{model.name}: effects by {by}, replacement {kind}: rank correlation {rho:.2f} with the exact effects "
                f"over all sites, on {min(CHECKED, len(pairs))} pairs"
                for kind, rho in measured.agreement.items()
            ),
            *measured.notes,
            *plan.notes(),
        ],
    )
    head = head_of(model, pairs.name)
    return Sites(
        _effects_table(head, [pair.id for pair in pairs], measured, run),
        _sites_table(head, measured, asked, run),
        _stability_table(head, measured, asked, run),
    )


def _effects(
    conflict: ConflictSide, prompts: Sequence[ContrastPrompt], sites: Sequence[Site], plan: BatchPlan
) -> np.ndarray:
    """(replacement, prompt, site): what replacing each site takes from the margin, all in the same forwards."""
    changes = [
        Patch(these, values)
        for values in conflict.replacements.values()
        for these in (frozenset[Site](), *(frozenset({site}) for site in sites))
    ]
    margins = changed_margins(prompts, changes, plan, tokens=conflict.tokens)
    by_kind = margins.reshape(len(prompts), len(conflict.replacements), 1 + len(sites))
    return (by_kind[:, :, :1] - by_kind[:, :, 1:]).transpose(1, 0, 2)


def _sites_of(conflict: ConflictSide, plan: BatchPlan) -> tuple[Site, ...]:
    shape = plan.model.architecture
    return all_sites(shape.n_layers, shape.n_heads, stream=conflict.observed is None)


def _direct(conflict: ConflictSide) -> dict[str, np.ndarray]:
    observed = conflict.observed
    return {kind: direct_parts(observed, v) for kind, v in conflict.replacements.items()} if observed else {}


def _exact(conflict: ConflictSide, plan: BatchPlan, most: int | None = None) -> _Measured:
    """Every site replaced, on all pairs or on the first ``most``."""
    sites = _sites_of(conflict, plan)
    effects = _effects(conflict, conflict.prompts[:most], sites, plan)
    how = np.full(len(sites), EXACT, dtype=object)
    return _Measured(sites, dict(zip(conflict.replacements, effects, strict=True)), _direct(conflict), {}, how)


def _screened(conflict: ConflictSide, plan: BatchPlan, seed: int) -> _Measured:
    """Every site at the first token that differs; those that matter there, and some others, on the whole margin too."""
    sites = _sites_of(conflict, plan)

    def measure(prompts: Sequence[ContrastPrompt], some: Sequence[int]) -> np.ndarray:
        return _effects(conflict, prompts, [sites[i] for i in some], plan)

    found = screened(measure, conflict.prompts, len(sites), model=plan.model.name, places="sites", seed=seed)
    by_kind = dict(zip(conflict.replacements, found.effects, strict=True))
    return _Measured(sites, by_kind, _direct(conflict), {}, found.how, (found.note,))


def _approximate(conflict: ConflictSide, plan: BatchPlan, method: str) -> _Measured:
    """Every site's effect by gradients, held against the exact ones on a few pairs."""
    exact, steps = _exact(conflict, plan, CHECKED), GRADIENT_STEPS[method]
    effects = {
        kind: approximate_effects(conflict.prompts, conflict.outputs, values, plan, steps=steps)
        for kind, values in conflict.replacements.items()
    }
    agreement = {k: spearman(exact.effects[k].mean(0), effects[k][:CHECKED].mean(0)) for k in effects}
    how = np.full(len(exact.sites), "gradients", dtype=object)
    return _Measured(exact.sites, effects, exact.direct, agreement, how)


def _effects_table(head: Head, ids: Sequence[str], measured: _Measured, run: Run) -> Table:
    kinds, nothing = list(measured.effects), np.full((len(ids), len(measured.sites)), np.nan)
    pair = {"pair": ids, "side": ["conflict"] * len(ids)}
    columns = crossed(head, {"replacement": kinds}, pair, site_axis(measured.sites))
    columns |= {
        "effect": np.stack([measured.effects[k] for k in kinds]).ravel().astype(np.float32),
        "direct_effect": np.stack([measured.direct.get(k, nothing) for k in kinds]).ravel().astype(np.float32),
        "measured": np.tile(measured.how, len(kinds) * len(ids)),
    }
    return table("effects", columns, run)


def _sites_table(head: Head, measured: _Measured, asked: _Asked, run: Run) -> Table:
    effects, direct = measured.effects[asked.kinds[0]], measured.direct.get(asked.kinds[0])
    p = np.where(measured.how == FIRST_TOKEN, np.nan, flip_p(effects, asked.seed))
    q = benjamini_hochberg(p)
    columns = crossed(head, site_axis(measured.sites)) | mean_columns("effect", effects, asked.seed)
    columns |= {
        "direct_effect": np.full(len(p), np.nan) if direct is None else direct.mean(0).astype(float),
        "p": p,
        "q": q,
        "significant": q <= LEVEL,
        "measured": measured.how,
    }
    return table("sites", columns, run)


def _stability_table(head: Head, measured: _Measured, asked: _Asked, run: Run) -> Table:
    effects, rows = measured.effects, []
    if measured.agreement:
        agreement = measured.agreement[asked.kinds[0]]
        rows.append({**head, "replacement_a": "exact", "replacement_b": asked.method, "spearman": agreement})
    rows += [
        {**head, "replacement_a": a, "replacement_b": b, "spearman": spearman(effects[a].mean(0), effects[b].mean(0))}
        for a, b in combinations(effects, 2)
    ]
    first = next(iter(effects.values()))
    if len(first) >= 2:
        order = np.random.default_rng(asked.seed).permutation(len(first))
        half_a, half_b = first[order[: len(first) // 2]].mean(0), first[order[len(first) // 2 :]].mean(0)
        rows.append(
            {**head, "replacement_a": "half_a", "replacement_b": "half_b", "spearman": spearman(half_a, half_b)}
        )
    return table("stability", rows, run)
