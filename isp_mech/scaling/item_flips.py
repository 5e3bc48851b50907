"""Flips: which items are lost and which are gained from each size to the next, and what sets the lost ones apart.

    flipped = flips(im.score(pairs, family), traces=im.trace(pairs, family), sites=im.locate(pairs, family))
    figures.flips_over_size(flipped)

Accuracy says how many items are right; two sizes of equal accuracy may be right on different ones. A step is
a model and the next larger one of the same table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from isp_mech import stats
from isp_mech.errors import InputError
from isp_mech.tables import Run, Table, make_run, table

KINDS = ("kept", "lost", "gained", "missed")
_STEP = ["model_from", "n_params_from", "model", "n_params"]


@dataclass(frozen=True)
class Flips:
    """Tables ``flips`` (a row per item and step), ``flip_steps`` (a row per step, with a test of lost against
    gained) and ``flip_traces`` (a row per step and feature: what lost items have more of than kept ones)."""

    flips: Table
    flip_steps: Table
    flip_traces: Table


def flips(scores: Any, *, traces: Any = None, sites: Any = None, side: str | None = None, seed: int = 0) -> Flips:
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
    found = items.frame
    there = sorted(set(found["side"]))
    side = side or ("conflict" if "conflict" in there else "item")
    if side not in there:
        raise InputError("flips", [f"side {side!r}: expected one of {', '.join(there) or 'none'}"])
    steps = [_steps(rows) for _, rows in found[found["side"] == side].groupby("task", sort=False)]
    _check(found[found["side"] == side])
    frame = pd.concat(steps, ignore_index=True)
    run = _run(items, side, seed)
    features = _features(found, side, traces, sites)
    return Flips(
        table("flips", frame.assign(side=side), run),
        table("flip_steps", _step_rows(frame, side, seed), run),
        table("flip_traces", _trace_rows(frame, features, side, seed), run),
    )


def _table(given: Any, name: str, subject: str) -> Table:
    found = given if isinstance(given, Table) else getattr(given, name, None)
    if not isinstance(found, Table) or found.name != name:
        shown = f"table {found.name!r}" if isinstance(found, Table) else type(given).__name__
        raise InputError(subject, [f"found {shown}, expected a table {name!r} or what holds one"])
    return found


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


def _steps(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per item and step of one task, steps from small to large."""
    sizes = rows[["n_params", "model"]].drop_duplicates().sort_values(["n_params", "model"])
    names = list(sizes["model"])
    known = {name: rows[rows["model"] == name] for name in names}
    parts = [pd.DataFrame()]
    for smaller, larger in zip(names, names[1:], strict=False):
        before = known[smaller][["item", "model", "n_params", "correct", "margin"]]
        step = known[larger][["task", "item", "model", "n_params", "correct", "margin"]].merge(
            before, on="item", suffixes=("", "_from")
        )
        step["kind"] = np.select(
            [step["correct_from"] & step["correct"], step["correct_from"], step["correct"]],
            ["kept", "lost", "gained"],
            "missed",
        )
        parts.append(step.rename(columns={"margin": "margin_to"}).drop(columns=["correct", "correct_from"]))
    return pd.concat(parts, ignore_index=True)


def _step_rows(frame: pd.DataFrame, side: str, seed: int) -> list[dict]:
    rows = []
    for key, step in frame.groupby(["task", *_STEP], sort=False):
        count = {kind: int((step["kind"] == kind).sum()) for kind in KINDS}
        moved = np.array(step["kind"] == "gained", dtype=float) - np.array(step["kind"] == "lost", dtype=float)
        lo, hi = stats.bootstrap_interval(moved, seed=seed)
        rows.append(
            {**_head(key), "side": side, **count, "change": moved.mean(), "change_lo": lo, "change_hi": hi,
             "p": stats.mcnemar_p(count["lost"], count["gained"])}
        )  # fmt: skip
    return _with_q(rows)


def _head(key: tuple) -> dict:
    return dict(zip(("task", *_STEP), key, strict=True))


def _with_q(rows: list[dict]) -> list[dict]:
    q = stats.benjamini_hochberg([row["p"] for row in rows])
    return [row | {"q": float(one)} for row, one in zip(rows, q, strict=True)]


def _trace_rows(frame: pd.DataFrame, features: pd.DataFrame, side: str, seed: int) -> list[dict]:
    rows = []
    before = frame[["task", "model", "item", "margin_from"]].rename(columns={"margin_from": "value"})
    joined = pd.concat([before.assign(feature="margin before", unit="nats"), features], ignore_index=True)
    for key, step in frame.groupby(["task", *_STEP], sort=False):
        head = _head(key)
        here = joined[(joined["task"] == head["task"]) & (joined["model"] == head["model"])]
        here = here[here["value"].notna()].merge(step[["item", "kind"]], on="item")
        for (feature, unit), known in here.groupby(["feature", "unit"], sort=False):
            lost, kept = (known.loc[known["kind"] == kind, "value"].to_numpy(float) for kind in ("lost", "kept"))
            lo, hi, p = stats.auc_interval(lost, kept, seed=seed)
            rows.append(
                {**head, "side": side, "feature": feature, "unit": unit,
                 "mean_lost": lost.mean() if len(lost) else np.nan, "mean_kept": kept.mean() if len(kept) else np.nan,
                 "auc": stats.auc(lost, kept), "auc_lo": lo, "auc_hi": hi, "p": p,
                 "n_lost": len(lost), "n_kept": len(kept)}
            )  # fmt: skip
    return _with_q(rows)


def _features(items: pd.DataFrame, side: str, traces: Any, sites: Any) -> pd.DataFrame:
    """``task model item feature unit value``: what is known of each item at each model."""
    parts = [pd.DataFrame(columns=["task", "model", "item", "value", "feature", "unit"])]
    plain = items[items["side"] == "plain"]
    if side == "conflict" and len(plain):
        found = plain[["task", "model", "item"]].assign(value=-plain["margin"])
        parts.append(found.assign(feature="lure strength", unit="nats"))
    if traces is not None:
        parts += [_lens_peak(_table(traces, "lens", "flips: traces").frame, side)]
        parts += [_attention(_table(traces, "attention", "flips: traces").frame, side)]
    if sites is not None:
        parts += [_override(sites, side)]
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def _lens_peak(lens: pd.DataFrame, side: str) -> pd.DataFrame:
    rows = lens[(lens["side"] == side) & (lens["depth"] < 1)]
    peak = rows.groupby(["task", "model", "pair"], sort=False)["margin"].max().rename("value").reset_index()
    return peak.rename(columns={"pair": "item"}).assign(feature="lens peak", unit="nats")


def _attention(attention: pd.DataFrame, side: str) -> pd.DataFrame:
    rows = attention[attention["side"] == side]
    mean = rows.groupby(["task", "model", "pair", "role"], sort=False)["weight"].mean().rename("value").reset_index()
    named = mean.assign(feature="attention to " + mean["role"].astype(str), unit="share")
    return named.drop(columns="role").rename(columns={"pair": "item"})


def _override(sites: Any, side: str) -> pd.DataFrame:
    effects, chosen = (_table(sites, name, "flips: sites").frame for name in ("effects", "sites"))
    place = ["task", "model", "layer", "kind", "head"]
    effects = effects[(effects["side"] == side) & effects["effect"].notna()]
    first = effects.groupby(["task", "model"], sort=False)["replacement"].transform("first")
    marked = chosen.loc[chosen["significant"] & (chosen["effect"] < 0), place]
    found = effects[effects["replacement"] == first].merge(marked.assign(marked=True), on=place, how="left")
    found["value"] = -found["effect"].where(found["marked"].notna(), 0.0).astype(float)
    total = found.groupby(["task", "model", "pair"], sort=False)["value"].sum().reset_index()
    return total.rename(columns={"pair": "item"}).assign(feature="override", unit="nats")
