"""What tables of many pairs say per model: override onset, prompt sensitivity, the four shares, the curve, the story.

Each function takes Tables of one model or of several, and returns a Table with 95 % bootstrap intervals
over pairs, the same resamples for every model; no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from isp_mech.errors import InputError
from isp_mech.stats import LEVEL, benjamini_hochberg, bootstrap_interval
from isp_mech.tables import Run, Table, concat, table

SHARES = {(True, True): "follows", (True, False): "overridden", (False, True): "contrary", (False, False): "lost"}
HEAD = ["model", "n_params", "task"]


def onset(lens: Table, *, seed: int = 0) -> Table:
    """Table ``onset``: per model and side, the mean relative depth at which the override sets in.

    A pair's onset is the first depth from which its lens margin stays negative to the end although it was
    positive before; the mean is over the pairs that have one (``n_onset`` of ``n``), missing where none has.
    """
    _expect(lens, "lens")
    rows = []
    for head, depth, side, margins in _by_side(lens.frame):
        found = onsets(margins, depth)
        has = found[~np.isnan(found)]
        lo, hi = bootstrap_interval(has, seed=seed) if len(has) > 1 else (np.nan, np.nan)
        mean = has.mean() if len(has) else np.nan
        rows.append(
            {**head, "side": side, "onset": mean, "onset_lo": lo, "onset_hi": hi, "n_onset": len(has), "n": len(found)}
        )
    return table("onset", rows, _derived(lens.run, "override onset", seed))


def onsets(margins: np.ndarray, depth: np.ndarray | None = None) -> np.ndarray:
    """Relative depth, per row of lens margins (n, sublayers), from which the margin is negative to the
    end although it was positive before; NaN where it is not negative at the end or never was positive.

    ``depth`` is that of each sublayer; without it they are taken as equally far apart, from 0 to 1.

    >>> onsets(np.array([[0.5, 1.0, -1.0, -2.0, -3.0], [1, 1, 1, 1, 1], [-1, -1, -1, -1, -1]]))
    array([0.5, nan, nan])
    """
    n, length = margins.shape
    depth = np.linspace(0, 1, length) if depth is None else depth
    negative = margins < 0
    first = length - np.argmax(~negative[:, ::-1], axis=1)  # the run of negatives at the end begins here
    found = negative[:, -1] & ~negative.all(1) & (np.where(negative, -np.inf, margins).max(1) > 0)
    return np.where(found, depth[np.minimum(first, length - 1)], np.nan)


def sensitivity(lens: Table, *, seed: int = 0) -> Table:
    """Table ``sensitivity``: per model and sublayer, the mean over pairs of what the twist does to the margin.

    margin on the conflict prompt - margin on the plain prompt, in nats: positive where the stream already
    tells the two prompts apart in the direction that the twist asks for, about zero where it does not.
    Pairs of which one side is missing are an ``InputError``.
    """
    _expect(lens, "lens")
    rows = []
    keys = [*HEAD, "layer", "sublayer", "depth"]
    for model, frame in lens.frame.groupby(HEAD, sort=False):
        wide = frame.pivot(index="pair", columns=["side", *keys[3:]], values="margin")
        if not {"conflict", "plain"} <= set(wide.columns.get_level_values(0)) or wide.isna().any(axis=None):
            raise InputError("sensitivity", [f"{model[0]}: expected a lens of both sides of every pair"])
        difference = (wide["conflict"] - wide["plain"]).sort_index(axis=1, level="depth")
        mean = difference.to_numpy().mean(0)
        lo, hi = bootstrap_interval(difference.to_numpy(), seed=seed)
        for i, place in enumerate(difference.columns):
            rows.append(
                {
                    **dict(zip(keys, (*model, *place), strict=True)),
                    "sensitivity": mean[i],
                    "sensitivity_lo": lo[i],
                    "sensitivity_hi": hi[i],
                    "n": len(difference),
                }
            )
    return table("sensitivity", rows, _derived(lens.run, "prompt sensitivity", seed))


def shares(items: Table, *, seed: int = 0) -> Table:
    """Table ``shares``: per model, how many pairs it follows, is overridden on, is contrary to, and loses.

    Right on the plain and on the conflict prompt: follows; on the plain one only: overridden; on the
    conflict one only: contrary; on neither: lost. Shares are 0..1 and add up to 1. ``InputError`` for items
    of which a side is missing.
    """
    _expect(items, "items")
    rows = []
    for model, frame in items.frame.groupby(HEAD, sort=False):
        wide = frame[frame["side"].isin(["conflict", "plain"])].pivot(index="item", columns="side", values="correct")
        if set(wide.columns) != {"conflict", "plain"} or wide.isna().any(axis=None):
            raise InputError("shares", [f"{model[0]}: expected both sides of every pair"])
        kinds = wide.loc[list(dict.fromkeys(frame["item"])), ["plain", "conflict"]].to_numpy(dtype=bool)
        values = np.array([[SHARES[bool(p), bool(c)] == name for name in SHARES.values()] for p, c in kinds], float)
        lo, hi = bootstrap_interval(values, seed=seed)
        row = {**dict(zip(HEAD, model, strict=True)), "n": len(values)}
        for k, name in enumerate(SHARES.values()):
            row |= {name: values[:, k].mean(), f"{name}_lo": lo[k], f"{name}_hi": hi[k]}
        rows.append(row)
    return table("shares", rows, _derived(items.run, "four shares", seed))


def story(
    sites: Table,
    effects: Table,
    *,
    curve: Table | None = None,
    shares: Table | None = None,
    onset: Table | None = None,
    seed: int = 0,
) -> Table:
    """Table ``story``: per model, how large the override is, where it stands, and what comes of it.

    The override mass is minus the sum of the negative effects of the significant sites, in nats, the follow mass
    the sum of the positive ones; both with intervals over pairs, the sites held as they were found. ``attention_share``
    and ``depth`` (relative) say in which sublayers and how deep the override mass stands; missing where there is none.
    Accuracy, shares and onset are taken from the tables that are given. ``sites`` and ``effects`` are what ``locate``
    gave at the decision position; ``InputError`` where they are of other models, or a site is no head or MLP.
    """
    _expect(sites, "sites")
    _expect(effects, "effects")
    place = ["layer", "kind", "head"]
    first = effects.frame["replacement"].iloc[0]  # the one that made the table of sites
    rows, elsewhere = [], (sites.frame["kind"] == "resid").any()
    for head, found in sites.frame.groupby(HEAD, sort=False):
        here = effects.frame[(effects.frame[HEAD] == list(head)).all(axis=1) & (effects.frame["replacement"] == first)]
        found = found.assign(head=found["head"].fillna(-1)).set_index(place)
        wide = here.assign(head=here["head"].fillna(-1)).pivot(index="pair", columns=place, values="effect")
        if set(wide.columns) != set(found.index) or wide.isna().any(axis=None) or elsewhere:
            raise InputError("story", [f"{head[0]}: expected effects of every pair on the heads and MLPs of its sites"])
        values = wide[list(found.index)].to_numpy(dtype=float)
        rows.append({
            **dict(zip(HEAD, head, strict=True)),
            **_masses(values, found.reset_index(), seed),
            "accuracy": _value(curve, head, "accuracy"),
            "overridden": _value(shares, head, "overridden"),
            "onset": _value(onset, head, "onset"),
        })  # fmt: skip
    return table("story", rows, _derived(sites.run, "story over sizes", seed))


def _masses(values: np.ndarray, sites: pd.DataFrame, seed: int) -> dict:
    """Masses and their places, from effects (pair, site); ratios are ratios of means."""
    mean, called = values.mean(0), sites["significant"].to_numpy(dtype=bool)
    to_lure, to_answer = called & (mean < 0), called & (mean > 0)
    depth = (sites["layer"].to_numpy(dtype=float) + 0.5) / (sites["layer"].max() + 1)
    in_heads = (sites["kind"] == "head").to_numpy(dtype=float)

    def measures(rows: np.ndarray) -> np.ndarray:
        override, follow = -rows[:, to_lure].mean(0), rows[:, to_answer].mean(0)
        total = override.sum()
        over = total if total > 0 else np.nan
        return np.array([total, follow.sum(), override @ in_heads[to_lure] / over, override @ depth[to_lure] / over])

    names = ("override_mass", "follow_mass", "attention_share", "depth")
    found = measures(values)
    nothing = np.full(len(names), np.nan)
    lo, hi = bootstrap_interval(values, statistic=measures, seed=seed) if len(values) > 1 else (nothing, nothing)
    out: dict = {"n_override": to_lure.sum(), "n_follow": to_answer.sum(), "n_sites": len(sites), "n": len(values)}
    for i, name in enumerate(names):
        out |= {name: found[i], f"{name}_lo": lo[i], f"{name}_hi": hi[i]}
    return out


def _value(given: Table | None, head: tuple, column: str) -> float:
    """One model's value on the conflict side, NaN where there is none."""
    if given is None:
        return np.nan
    rows = given.frame[(given.frame[HEAD] == list(head)).all(axis=1)]
    if "side" in rows:
        rows = rows[rows["side"] == "conflict"]
    return float(rows[column].iloc[0]) if len(rows) else np.nan


def curve(items: Table, scores: Table, *, equally_likely: bool, seed: int = 0) -> Table:
    """Table ``curve``: per model and side, accuracy 0..1 and loss (nats) with their intervals, as scoring gives it.

    ``scores`` say how many classes each item has: the baseline is guessing, where they are ``equally_likely``.
    """
    _expect(items, "items", empty=True)
    guessing = _guessing(scores.frame) if equally_likely else {}
    rows = []
    for (*model, side), frame in items.frame.groupby([*HEAD, "side"], sort=False):
        values = frame[["correct", "loss"]].to_numpy(dtype=float)
        lo, hi = bootstrap_interval(values, seed=seed)
        rows.append(
            {
                **dict(zip([*HEAD, "side"], (*model, side), strict=True)),
                "accuracy": values[:, 0].mean(),
                "accuracy_lo": lo[0],
                "accuracy_hi": hi[0],
                "loss": values[:, 1].mean(),
                "loss_lo": lo[1],
                "loss_hi": hi[1],
                "coverage": float(np.mean(np.exp(frame["total_logprob"].to_numpy()))),
                "ties": int(frame["tie"].sum()),
                "n": len(frame),
                "baseline": guessing.get((*model, side), np.nan),
            }
        )
    return table("curve", rows, _derived(items.run, "curve", seed))


def _guessing(scores: pd.DataFrame) -> dict[Any, float]:
    """Accuracy of guessing per model and side, the mean of 1/k; log-odds are judged on the other prompt alone."""
    sides = scores.assign(side=scores["side"].replace({"other_prompt": "item"}))
    sizes = sides.groupby([*HEAD, "side", "item"], sort=False).size()
    return (1 / sizes).groupby([*HEAD, "side"], sort=False).mean().to_dict()


def value_curve(values: Table, *, seed: int = 0) -> Table:
    """Table ``value_curve``: per model, the mean over items of the number that the metric gives, in its unit."""
    _expect(values, "values")
    rows = []
    for (*model, metric), frame in values.frame.groupby([*HEAD, "metric"], sort=False):
        numbers = frame["value"].to_numpy(dtype=float)
        lo, hi = bootstrap_interval(numbers, seed=seed)
        mean = {"value": float(numbers.mean()), "value_lo": lo, "value_hi": hi, "n": len(numbers)}
        rows.append({**dict(zip([*HEAD, "metric"], (*model, metric), strict=True)), **mean})
    return table("value_curve", rows, _derived(values.run, "value curve", seed))


def join_sites(parts: Sequence[Table]) -> Table:
    """Several models' tables ``sites`` as one: q and ``significant`` are taken over all of them together."""
    joined = concat(parts)
    q = benjamini_hochberg(joined.frame["p"].to_numpy())
    return replace(joined, frame=joined.frame.assign(q=q, significant=q <= LEVEL))


def join_verification(parts: Sequence[Table]) -> Table:
    """Several models' verification as one: the gap is measured to the family's best on the same half."""
    joined = concat(parts)
    frame = joined.frame
    best = frame.groupby("split")["accuracy_before"].transform("max")
    gap = (best - frame["accuracy_before"]).to_numpy()
    closed = (frame["accuracy_after"] - frame["accuracy_before"]).to_numpy()
    return replace(joined, frame=frame.assign(gap_closed=np.where(gap > 0, closed / np.where(gap > 0, gap, 1), np.nan)))


def _by_side(frame: pd.DataFrame) -> Iterator[tuple[dict, np.ndarray, str, np.ndarray]]:
    """Per model and side: the leading columns, the sublayers' depths, the side, margins (pair, sublayer)."""
    for (*model, side), part in frame.groupby([*HEAD, "side"], sort=False):
        wide = part.pivot(index="pair", columns="depth", values="margin")
        if wide.isna().any(axis=None):
            raise InputError("lens", [f"{model[0]} ({side}): expected every sublayer of every pair"])
        depth = wide.columns.to_numpy(dtype=float)
        yield dict(zip(HEAD, model, strict=True)), depth, str(side), wide.to_numpy(dtype=float)


def _expect(given: Table, name: str, *, empty: bool = False) -> None:
    if given.name != name:
        raise InputError("summary", [f"table {given.name!r}: expected a table {name!r}"])
    if not len(given) and not empty:
        raise InputError("summary", [f"table {name!r} has no rows"])


def _derived(run: Run, what: str, seed: int) -> Run:
    return replace(run, method=f"{run.method}; {what}", seed=seed)
