"""Flips: which items are lost and which are gained from each size to the next, and what sets the lost ones apart.

    flipped = flips(im.score(pairs, family), traces=im.trace(pairs, family), sites=im.locate(pairs, family))
    figures.flips_over_size(flipped)

Accuracy says how many items are right; two sizes of equal accuracy may be right on different ones. A step is
a model and the next larger one of the same table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import special

from isp_mech.errors import InputError
from isp_mech.scaling.group_rows import Row, groups, mean_columns, with_q
from isp_mech.stats import ranks
from isp_mech.tables import Run, Table, make_run, table

Side = Literal["conflict", "plain", "neutral", "item"]
KINDS = ("kept", "lost", "gained", "missed")
STEP = ("task", "model_from", "n_params_from", "model", "n_params")


@dataclass(frozen=True)
class Flips:
    """Tables ``flips`` (a row per item and step), ``flip_steps`` (a row per step, with a test of lost against
    gained) and ``flip_traces`` (a row per step and feature: what lost items have more of than kept ones)."""

    flips: Table
    flip_steps: Table
    flip_traces: Table


def flips(
    scores: object, *, traces: object = None, sites: object = None, side: Side | None = None, seed: int = 0
) -> Flips:
    """What every item does from each size to the next larger one, on one side, joined to its traces and effects.

    ``scores`` is what ``score`` gave for several models (or its table "items"); ``side`` is ``conflict`` for
    pairs and ``item`` for task files unless given. A step's change of accuracy comes with a 95 % bootstrap
    interval over items and the exact p of McNemar's test, q by Benjamini-Hochberg over all steps.

    ``flip_traces`` compares the lost items with the kept ones: ``auc`` (0..1, 0.5: alike) is the probability
    that a lost one has more of a feature, with bootstrap interval, permutation p, and q over all rows. From the
    scores: ``margin before`` (nats, at the smaller model: was it on the edge?) and ``lure strength`` (nats,
    minus the plain side's margin at the larger model: how sure it is of the lure where the lure is right). With
    ``traces`` (what ``trace`` gave): ``lens peak`` (nats, the largest conflict margin after any sublayer below
    the last: was the answer ahead inside?), ``attention to ROLE`` (share, mean over heads). With ``sites``
    (what ``locate`` gave): ``override`` (nats, minus the summed total effects of the sites whose mean effect is
    significantly negative), all at the larger model. Where under two items were lost or kept, auc has no interval.

    ``InputError`` for fewer than two models, a side that is not there, or items that some models lack.
    """
    items = _table(scores, "items", "flips")
    every = items.frame
    there = sorted(set(every["side"]))
    side = side or ("conflict" if "conflict" in there else "item")
    if side not in there:
        raise InputError("flips", [f"side {side!r}: expected one of {', '.join(there) or 'none'}"])
    rows = every[every["side"] == side]
    _check(rows)
    frame = pd.concat([step for _, of_task in groups(rows, ["task"]) for step in _steps(of_task)], ignore_index=True)
    frame = frame.assign(side=side)
    run = _run(items, side, seed)
    return Flips(
        table("flips", frame, run),
        table("flip_steps", _step_rows(frame, seed), run),
        table("flip_traces", _trace_rows(frame, _features(every, side, traces, sites), seed), run),
    )


def _table(given: object, name: str, subject: str) -> Table:
    held = given if isinstance(given, Table) else getattr(given, name, None)
    if not isinstance(held, Table) or held.name != name:
        shown = f"table {held.name!r}" if isinstance(held, Table) else type(given).__name__
        raise InputError(subject, [f"found {shown}, expected a table {name!r} or what holds one"])
    return held


def _run(items: Table, side: str, seed: int) -> Run:
    run = items.run
    return make_run(
        model=run.model, revision=run.revision, task=run.task, method="flips between sizes", seed=seed,
        dtype=run.dtype, device=run.device, settings={"side": side}, notes=run.notes,
    )  # fmt: skip


def _check(rows: pd.DataFrame) -> None:
    problems = []
    for task, here in rows.groupby("task", sort=False):
        models = {str(name): set(rows["item"]) for name, rows in here.groupby("model", sort=False)}
        every = set().union(*models.values())
        if len(models) < 2:
            problems.append(f"{task}: one model, {', '.join(models)}: expected two or more")
        again = here[here.duplicated(["model", "item"])]
        problems += [
            f"{task}: item {item!r} is there twice for {name}, expected it once"
            for name, item in again[["model", "item"]].itertuples(index=False)
        ]
        problems += [
            f"{task}: {name} lacks {len(every - has)} of {len(every)} items, such as {min(every - has)!r}"
            for name, has in models.items()
            if every - has
        ]
    if problems:
        raise InputError("flips", problems)


def _steps(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """A frame for every step of one task, from small to large: a row per item."""
    sizes = rows[["n_params", "model"]].drop_duplicates().sort_values(["n_params", "model"])
    of_model = [rows[rows["model"] == name] for name in sizes["model"]]
    for smaller, larger in zip(of_model, of_model[1:], strict=False):
        before = smaller[["item", "model", "n_params", "correct", "margin"]]
        step = larger[["task", "item", "model", "n_params", "correct", "margin"]].merge(
            before, on="item", suffixes=("", "_from")
        )
        was, now = step["correct_from"], step["correct"]
        step["kind"] = np.select([was & now, was, now], ["kept", "lost", "gained"], "missed")
        yield step.rename(columns={"margin": "margin_to"}).drop(columns=["correct", "correct_from"])


def _step_rows(frame: pd.DataFrame, seed: int) -> list[Row]:
    rows = []
    for head, step in groups(frame, [*STEP, "side"]):
        count = {kind: int((step["kind"] == kind).sum()) for kind in KINDS}
        moved = step["kind"].map({"gained": 1.0, "lost": -1.0}).fillna(0.0)
        change = mean_columns(["change"], moved.to_numpy(float), seed=seed)
        rows.append(head | count | change | {"p": mcnemar_p(count["lost"], count["gained"])})
    return with_q(rows)


def _trace_rows(frame: pd.DataFrame, features: pd.DataFrame, seed: int) -> list[Row]:
    rows = []
    before = frame[["task", "model", "item", "margin_from"]].rename(columns={"margin_from": "value"})
    joined = pd.concat([before.assign(feature="margin before", unit="nats"), features], ignore_index=True)
    for head, step in groups(frame, [*STEP, "side"]):
        here = joined[(joined["task"] == head["task"]) & (joined["model"] == head["model"])]
        here = here[here["value"].notna()].merge(step[["item", "kind"]], on="item")
        for feature, known in groups(here, ["feature", "unit"]):
            row, values = head | feature, {}
            for kind in ("lost", "kept"):
                values[kind] = known.loc[known["kind"] == kind, "value"].to_numpy(float)
                row[f"n_{kind}"] = len(values[kind])
                row[f"mean_{kind}"] = values[kind].mean() if len(values[kind]) else np.nan
            rows.append(row | _compared(values["lost"], values["kept"], seed))
    return with_q(rows)


def _compared(lost: ArrayLike, kept: ArrayLike, seed: int) -> Row:
    lo, hi, p = auc_interval(lost, kept, seed=seed)
    return {"auc": auc(lost, kept), "auc_lo": lo, "auc_hi": hi, "p": p}


def _features(items: pd.DataFrame, side: str, traces: object, sites: object) -> pd.DataFrame:
    """``task model item feature unit value``: what is known of each item at each model."""
    parts = [pd.DataFrame(columns=["task", "model", "item", "value", "feature", "unit"])]
    plain = items[items["side"] == "plain"]
    if side == "conflict" and len(plain):
        strength = plain[["task", "model", "item"]].assign(value=-plain["margin"])
        parts.append(strength.assign(feature="lure strength", unit="nats"))
    if traces is not None:
        parts += [_lens_peak(_table(traces, "lens", "flips: traces").frame, side)]
        parts += [_attention(_table(traces, "attention", "flips: traces").frame, side)]
    if sites is not None:
        parts += [_override(sites, side)]
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def _lens_peak(lens: pd.DataFrame, side: str) -> pd.DataFrame:
    rows = lens[(lens["side"] == side) & (lens["depth"] < 1)]
    peak = rows.groupby(["task", "model", "pair"], sort=False)["margin"].max()
    return _feature(peak, feature="lens peak", unit="nats")


def _attention(attention: pd.DataFrame, side: str) -> pd.DataFrame:
    rows = attention[attention["side"] == side]
    mean = rows.groupby(["task", "model", "pair", "role"], sort=False)["weight"].mean()
    found = _feature(mean, unit="share")
    return found.assign(feature="attention to " + found["role"].astype(str)).drop(columns="role")


def _override(sites: object, side: str) -> pd.DataFrame:
    effects, chosen = (_table(sites, name, "flips: sites").frame for name in ("effects", "sites"))
    place = ["task", "model", "layer", "kind", "head"]
    effects = effects[(effects["side"] == side) & effects["effect"].notna()]
    first = effects.groupby(["task", "model"], sort=False)["replacement"].transform("first")
    marked = chosen.loc[chosen["significant"] & (chosen["effect"] < 0), place]
    rows = effects[effects["replacement"] == first].merge(marked.assign(marked=True), on=place, how="left")
    rows["value"] = -rows["effect"].where(rows["marked"].notna(), 0.0).astype(float)
    total = rows.groupby(["task", "model", "pair"], sort=False)["value"].sum()
    return _feature(total, feature="override", unit="nats")


def _feature(of_pairs: pd.Series, **cells: str) -> pd.DataFrame:
    return of_pairs.rename("value").reset_index().rename(columns={"pair": "item"}).assign(**cells)


def auc(group: ArrayLike, other: ArrayLike) -> float:
    """The probability, 0..1, that a value of ``group`` is larger than one of ``other``, ties counted half; 0.5 says
    that neither is ahead, NaN that one is empty. Source: Mann and Whitney 1947.

    >>> auc([3.0, 4.0], [1.0, 3.0])
    0.875
    """
    a, b = np.asarray(group, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if not len(a) or not len(b):
        return float("nan")
    above = ranks(np.concatenate([a, b]))[: len(a)].sum() - len(a) * (len(a) + 1) / 2
    return float(above / (len(a) * len(b)))


def auc_interval(
    group: ArrayLike, other: ArrayLike, *, n_boot: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """``(lo, hi, p)`` of ``auc``: percentile bootstrap within each group, and the two-sided p of one half by
    ``n_boot`` random relabellings, (1 + as far from one half) / (1 + n_boot). NaN where a group has under two.
    """
    a, b = np.asarray(group, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if len(a) < 2 or len(b) < 2:
        return float("nan"), float("nan"), float("nan")
    wins = (a[:, None] > b) + 0.5 * (a[:, None] == b)
    rng = np.random.default_rng(seed)
    left = rng.multinomial(len(a), np.full(len(a), 1 / len(a)), size=n_boot)
    right = rng.multinomial(len(b), np.full(len(b), 1 / len(b)), size=n_boot)
    drawn = np.einsum("di,ij,dj->d", left, wins, right, optimize=True) / wins.size
    lo, hi = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    all_ranks = ranks(np.concatenate([a, b]))
    sums = np.array([rng.permutation(all_ranks)[: len(a)].sum() for _ in range(n_boot)])
    null = (sums - len(a) * (len(a) + 1) / 2) / wins.size
    far = np.abs(null - 0.5) >= abs(wins.mean() - 0.5) - 1e-9
    return float(lo), float(hi), float((1 + far.sum()) / (1 + n_boot))


def mcnemar_p(lost: int, gained: int) -> float:
    """Two-sided exact p, 0..1, of "as many are lost as gained" for items that changed: a fair coin's binomial; 1 where
    none changed. Source: McNemar 1947.

    >>> mcnemar_p(5, 0), mcnemar_p(3, 3)
    (0.0625, 1.0)
    """
    total, few = lost + gained, min(lost, gained)
    return float(min(1.0, 2 * special.bdtr(few, total, 0.5))) if total else 1.0
