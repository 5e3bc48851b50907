"""Locating: the total effect of every head and MLP on the margin, exact or by gradients, with error control.

effect = margin as it is - margin with the site's output at the decision position replaced. A site with
a positive effect pushes towards the prompt's answer, one with a negative effect towards the lure: the
override is the sum of those. What replaces a site is told in ``stand_ins.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from isp_mech.causal.activation_patching import margins_by_stand_in
from isp_mech.causal.attribution_patching import STEPS, approximate_effects
from isp_mech.causal.replacements import direct_parts, observe, observe_role, replacement_outputs, role_tokens
from isp_mech.errors import InputError
from isp_mech.inference.batches import check_batch_size
from isp_mech.inference.contrast_prompts import prepare, run_of
from isp_mech.models import Model, Models, members
from isp_mech.scaling.summaries import join_sites
from isp_mech.sites import DECISION, METHODS, REPLACEMENTS, Site, all_sites
from isp_mech.stats import LEVEL, benjamini_hochberg, bootstrap_interval, sign_flip_p, spearman
from isp_mech.tables import Run, Table, concat, table
from isp_mech.tasks import PairSet
from isp_mech.tracing.trace import optional_heads, site_columns

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
    replacement: str | Sequence[str] = "mean",
    method: str = "exact",
    positions: str = DECISION,
    batch_size: int | str = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Sites:
    """Total and direct effect, in nats, of every head and MLP of every model on the conflict margin.

    ``replacement`` is one of mean, resample, plain, zero, or several; the first of several makes the
    ``sites`` table, with 95 % bootstrap intervals over pairs, a two-sided sign-flip p, and q by
    Benjamini-Hochberg over all sites of all models together. ``direct_effect`` is the part of the same
    difference that goes by the site's own write, the final norm's scale frozen. ``method`` exact: each
    effect is the one that a forward of its own would give. For very large models, attribution (one gradient)
    or integrated (five for each layer), see ``approximating.py``: there the table ``stability`` and the Run
    have the rank correlation with the exact effects over the sites, on 16 pairs.

    ``positions`` decision: a site is what it writes where the completion is decided. With a role of the conflict
    prompts ("negation", "definition", ...) a site is what it writes at all of the role's tokens, and the residual
    stream after each layer (kind ``resid``) is a site too; there the direct effect is none, but for tokens of the
    role at the decision position, and is left out.
    """
    check_batch_size(batch_size)
    kinds = (replacement,) if isinstance(replacement, str) else tuple(replacement)
    unknown = [f"{k!r}: expected one of {', '.join(REPLACEMENTS)}" for k in kinds if k not in REPLACEMENTS]
    if method not in METHODS:
        raise InputError("locate", [f"method {method!r}: expected one of {', '.join(METHODS)}"])
    if unknown or not kinds or len(set(kinds)) < len(kinds):
        raise InputError("replacement", unknown or [f"{list(kinds)}: expected one or more, each once"])
    if positions != DECISION and method != "exact":
        raise InputError("locate", [f"method {method!r} with positions {positions!r}: expected method exact"])
    options = Options(kinds, method, positions, batch_size, seed, progress)
    return join([_locate_model(model, pairs, options) for model in members(models)])


@dataclass(frozen=True)
class Options:
    """The options of ``locate``."""

    kinds: Sequence[str]
    method: str
    positions: str
    batch_size: int | str
    seed: int
    progress: bool


@dataclass(frozen=True)
class Measured:
    """A model's effects (pair, site) by replacement; ``direct`` is empty where it is not defined, ``agreement`` with
    exact effects where they are not exact."""

    sites: Sequence[Site]
    effects: Mapping[str, np.ndarray]
    direct: Mapping[str, np.ndarray]
    agreement: Mapping[str, float]


def join(parts: Sequence[Sites]) -> Sites:
    """Several models' sites as one; q and ``significant`` are taken over all of them together."""
    sites = join_sites([part.sites for part in parts])
    return Sites(concat([part.effects for part in parts]), sites, concat([part.stability for part in parts]))


def _locate_model(model: Model, pairs: PairSet, options: Options) -> Sites:
    o = options
    measured = (_at_decision if o.positions == DECISION else _at_role)(model, pairs, o)
    by = "exact replacement" if o.method == "exact" else f"gradients ({o.method})"
    where = "at the decision position" if o.positions == DECISION else f"at the tokens of role {o.positions}"
    run = run_of(
        model,
        task=pairs.name,
        method=f"locate: total effect by {by} {where}",
        seed=o.seed,
        settings={
            "replacement": ", ".join(o.kinds),
            "positions": o.positions,
            "n_pairs": len(pairs),
            "level": LEVEL,
        },
        notes=[
            f"{model.name}: effects by {by}, replacement {kind}: rank correlation {rho:.2f} with the exact effects "
            f"over all sites, on {min(CHECKED, len(pairs))} pairs"
            for kind, rho in measured.agreement.items()
        ],
    )
    head = {"model": model.name, "n_params": model.n_params, "task": pairs.name}
    return Sites(
        _effects_table(head, [pair.id for pair in pairs], measured, run),
        _sites_table(head, measured, o.kinds[0], o.seed, run),
        _stability_table(head, measured, o, run),
    )


def _at_decision(model: Model, pairs: PairSet, o: Options) -> Measured:
    conflict = prepare(model, pairs, ("conflict",))
    seen = observe(model, conflict, batch_size=o.batch_size, progress=o.progress)
    plain = None
    if "plain" in o.kinds:
        plain = observe(model, prepare(model, pairs, ("plain",)), batch_size=o.batch_size, progress=o.progress).outputs
    sites = all_sites(model.architecture.n_layers, model.architecture.n_heads)
    stand_ins = {kind: replacement_outputs(kind, seen.outputs, plain=plain, seed=o.seed) for kind in o.kinds}
    checked = len(pairs) if o.method == "exact" else min(CHECKED, len(pairs))
    margins = margins_by_stand_in(
        model,
        conflict.forks[:checked],
        [stand_in.of(range(checked), "cpu") for stand_in in stand_ins.values()],
        [frozenset({site}) for site in sites],
        batch_size=o.batch_size,
        progress=o.progress,
    )
    effects = dict(zip(o.kinds, seen.margins[:checked, None] - margins, strict=True))
    direct = {kind: direct_parts(seen, stand_in) for kind, stand_in in stand_ins.items()}
    if o.method == "exact":
        return Measured(sites, effects, direct, {})
    agreement, exact = {}, effects
    for kind, stand_in in stand_ins.items():
        effects = effects | {
            kind: approximate_effects(
                model,
                conflict.forks,
                seen.outputs,
                stand_in,
                steps=STEPS[o.method],
                batch_size=o.batch_size,
                progress=o.progress,
            )
        }
        agreement[kind] = spearman(exact[kind].mean(0), effects[kind][:checked].mean(0))
    return Measured(sites, effects, direct, agreement)


def _at_role(model: Model, pairs: PairSet, o: Options) -> Measured:
    conflict = prepare(model, pairs, ("conflict",))
    tokens = role_tokens(conflict.forks, o.positions)
    own = observe_role(model, conflict, tokens, batch_size=o.batch_size)
    plain = None
    if "plain" in o.kinds:
        on_plain = prepare(model, pairs, ("plain",))
        plain = observe_role(model, on_plain, role_tokens(on_plain.forks, o.positions), batch_size=o.batch_size)
    sites = all_sites(model.architecture.n_layers, model.architecture.n_heads, stream=True)
    margins = margins_by_stand_in(
        model,
        conflict.forks,
        [replacement_outputs(kind, own, plain=plain, seed=o.seed) for kind in o.kinds],
        [frozenset(), *(frozenset({site}) for site in sites)],
        tokens=tokens,
        batch_size=o.batch_size,
        progress=o.progress,
    )
    effects = margins[:, :, :1] - margins[:, :, 1:]
    return Measured(sites, dict(zip(o.kinds, effects, strict=True)), {}, {})


def _effects_table(head: dict, ids: Sequence[str], measured: Measured, run: Run) -> Table:
    layer, number, kind = site_columns(measured.sites)
    kinds = list(measured.effects)
    which, pair, site = (i.ravel() for i in np.indices((len(kinds), len(ids), len(layer))))

    def text(values: Sequence[str], index: np.ndarray) -> np.ndarray:
        return np.array(values, dtype=object)[index]

    nothing = np.full((len(ids), len(layer)), np.nan)
    columns = {
        "model": text([head["model"]], np.zeros_like(pair)),
        "n_params": np.full(len(pair), head["n_params"]),
        "task": text([head["task"]], np.zeros_like(pair)),
        "pair": text(ids, pair),
        "side": text(["conflict"], np.zeros_like(pair)),
        "layer": layer[site],
        "kind": kind[site],
        "head": optional_heads(number[site]),
        "replacement": text(kinds, which),
        "effect": np.stack([measured.effects[k] for k in kinds]).ravel().astype(np.float32),
        "direct_effect": np.stack([measured.direct.get(k, nothing) for k in kinds]).ravel().astype(np.float32),
    }
    return table("effects", columns, run)


def _sites_table(head: dict, measured: Measured, replacement: str, seed: int, run: Run) -> Table:
    layer, number, kind = site_columns(measured.sites)
    effects, direct = measured.effects[replacement], measured.direct.get(replacement)
    few = len(effects) < 2
    nothing = np.full(len(layer), np.nan)
    lo, hi = (nothing, nothing) if few else bootstrap_interval(effects, seed=seed)
    p = nothing if few else sign_flip_p(effects, seed=seed)
    q = benjamini_hochberg(p)
    columns = {
        **{k: np.full(len(layer), v, dtype=object if isinstance(v, str) else None) for k, v in head.items()},
        "layer": layer,
        "kind": kind,
        "head": optional_heads(number),
        "effect": effects.mean(0),
        "effect_lo": lo,
        "effect_hi": hi,
        "direct_effect": nothing if direct is None else direct.mean(0).astype(float),
        "p": p,
        "q": q,
        "significant": q <= LEVEL,
    }
    return table("sites", columns, run)


def _stability_table(head: dict, measured: Measured, o: Options, run: Run) -> Table:
    effects, rows = measured.effects, []
    if measured.agreement:
        agreement = measured.agreement[o.kinds[0]]
        rows.append({**head, "replacement_a": "exact", "replacement_b": o.method, "spearman": agreement})
    rows += [
        {**head, "replacement_a": a, "replacement_b": b, "spearman": spearman(effects[a].mean(0), effects[b].mean(0))}
        for a, b in combinations(effects, 2)
    ]
    first = next(iter(effects.values()))
    if len(first) >= 2:
        order = np.random.default_rng(o.seed).permutation(len(first))
        half_a, half_b = first[order[: len(first) // 2]].mean(0), first[order[len(first) // 2 :]].mean(0)
        rows.append(
            {**head, "replacement_a": "half_a", "replacement_b": "half_b", "spearman": spearman(half_a, half_b)}
        )
    return table("stability", rows, run)
