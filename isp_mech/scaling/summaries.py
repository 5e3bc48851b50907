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
from isp_mech.scaling.group_rows import HEAD, Row, columns_with_interval, frame_of, groups, mean_columns
from isp_mech.stats import LEVEL, Floats, benjamini_hochberg, bootstrap_interval
from isp_mech.tables import Run, Table, concat, table

# right on the plain and on the conflict prompt -> what the model does with the pair
CASES = {(True, True): "follows", (True, False): "overridden", (False, True): "contrary", (False, False): "lost"}
MASSES = ("override_mass", "follow_mass", "attention_share", "depth")


def onset(lens: Table, *, seed: int = 0) -> Table:
    """Table ``onset``: per model and side, the mean relative depth (0..1) at which the override sets in.

    A pair's onset is the first depth from which its lens margin stays negative to the end although it was
    positive before; the mean is over the pairs that have one (``n_onset`` of ``n``), missing where none has.
    """
    rows = []
    for head, frame in _groups(lens, "lens", "side"):
        wide = frame.pivot(index="pair", columns="depth", values="margin")
        if wide.isna().any(axis=None):
            raise InputError("lens", [f"{head['model']} ({head['side']}): expected every sublayer of every pair"])
        depths = onsets(wide.to_numpy(dtype=float), wide.columns.to_numpy(dtype=float))
        has = depths[~np.isnan(depths)]
        counts = {"n_onset": len(has), "n": len(depths)}
        rows.append(head | mean_columns(["onset"], has, fewest=2, seed=seed) | counts)
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
    rows = []
    place = ["layer", "sublayer", "depth"]
    for head, frame in _groups(lens, "lens"):
        wide = frame.pivot(index="pair", columns=["side", *place], values="margin")
        if not {"conflict", "plain"} <= set(wide.columns.get_level_values(0)) or wide.isna().any(axis=None):
            raise InputError("sensitivity", [f"{head['model']}: expected a lens of both sides of every pair"])
        difference = (wide["conflict"] - wide["plain"]).sort_index(axis=1, level="depth")
        values = difference.to_numpy()
        lo, hi = bootstrap_interval(values, seed=seed)
        for where, *numbers in zip(difference.columns, values.mean(0), lo, hi, strict=True):
            cells = dict(zip(("sensitivity", "sensitivity_lo", "sensitivity_hi"), numbers, strict=True))
            rows.append(head | dict(zip(place, where, strict=True)) | cells | {"n": len(values)})
    return table("sensitivity", rows, _derived(lens.run, "prompt sensitivity", seed))


def shares(items: Table, *, seed: int = 0) -> Table:
    """Table ``shares``: per model, how many pairs it follows, is overridden on, is contrary to, and loses.

    Right on the plain and on the conflict prompt: follows; on the plain one only: overridden; on the
    conflict one only: contrary; on neither: lost. Shares are 0..1 and add up to 1. ``InputError`` for items
    of which a side is missing.
    """
    rows = []
    for head, frame in _groups(items, "items"):
        wide = frame[frame["side"].isin(["conflict", "plain"])].pivot(index="item", columns="side", values="correct")
        if set(wide.columns) != {"conflict", "plain"} or wide.isna().any(axis=None):
            raise InputError("shares", [f"{head['model']}: expected both sides of every pair"])
        right = wide.loc[list(dict.fromkeys(frame["item"])), ["plain", "conflict"]].to_numpy(dtype=bool)
        values = np.stack([(right == case).all(axis=1) for case in CASES], axis=1)
        rows.append(head | {"n": len(values)} | mean_columns(list(CASES.values()), values, seed=seed))
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
    place = ["layer", "kind", "head"]
    located, every = (frame_of(given, name, "summary", empty=False).assign(head=given.frame["head"].fillna(-1))
                      for given, name in ((sites, "sites"), (effects, "effects")))  # fmt: skip
    every = every[every["replacement"] == every["replacement"].iloc[0]]  # the one that made the table of sites
    rows = []
    for head, chosen in groups(located, HEAD):
        here = every[(every[list(HEAD)] == list(head.values())).all(axis=1)]
        wide, chosen = here.pivot(index="pair", columns=place, values="effect"), chosen.set_index(place)
        elsewhere = "resid" in set(located["kind"])
        if set(wide.columns) != set(chosen.index) or wide.isna().any(axis=None) or elsewhere:
            said = "expected effects of every pair on the heads and MLPs of its sites"
            raise InputError("story", [f"{head['model']}: {said}"])
        masses = _masses(wide[list(chosen.index)].to_numpy(dtype=float), chosen.reset_index(), seed)
        given = {"accuracy": curve, "overridden": shares, "onset": onset}
        rows.append(head | masses | {column: _value(of, head, column) for column, of in given.items()})
    return table("story", rows, _derived(sites.run, "story over sizes", seed))


def _masses(values: Floats, sites: pd.DataFrame, seed: int) -> Row:
    """Masses and their places, from effects (pair, site); ratios are ratios of means."""
    mean, called = values.mean(0), sites["significant"].to_numpy(dtype=bool)
    to_lure, to_answer = called & (mean < 0), called & (mean > 0)
    depth = (sites["layer"].to_numpy(dtype=float) + 0.5) / (sites["layer"].max() + 1)
    in_heads = (sites["kind"] == "head").to_numpy(dtype=float)

    def measures(rows: Floats) -> Floats:
        override, follow = -rows[:, to_lure].mean(0), rows[:, to_answer].mean(0)
        total = override.sum()
        over = total if total > 0 else np.nan
        return np.array([total, follow.sum(), override @ in_heads[to_lure] / over, override @ depth[to_lure] / over])

    lo = hi = np.full(len(MASSES), np.nan)
    if len(values) > 1:
        lo, hi = bootstrap_interval(values, statistic=measures, seed=seed)
    counts = {"n_override": to_lure.sum(), "n_follow": to_answer.sum(), "n_sites": len(sites), "n": len(values)}
    return counts | columns_with_interval(MASSES, measures(values), lo, hi)


def _value(given: Table | None, head: Row, column: str) -> float:
    """One model's value on the conflict side, NaN where there is none."""
    if given is None:
        return np.nan
    rows = given.frame[(given.frame[list(HEAD)] == list(head.values())).all(axis=1)]
    if "side" in rows:
        rows = rows[rows["side"] == "conflict"]
    return float(rows[column].iloc[0]) if len(rows) else np.nan


def curve(items: Table, scores: Table, *, equally_likely: bool, seed: int = 0) -> Table:
    """Table ``curve``: per model and side, accuracy 0..1 and loss (nats) with their intervals, as scoring gives it.

    ``scores`` say how many classes each item has: the baseline is guessing, where they are ``equally_likely``.
    """
    guessing = _guessing(scores.frame) if equally_likely else {}
    rows = []
    for head, frame in _groups(items, "items", "side", empty=True):
        measured = mean_columns(["accuracy", "loss"], frame[["correct", "loss"]].to_numpy(dtype=float), seed=seed)
        others = {
            "coverage": float(np.mean(np.exp(frame["total_logprob"].to_numpy()))),
            "ties": int(frame["tie"].sum()),
            "n": len(frame),
            "baseline": guessing.get(tuple(head.values()), np.nan),
        }
        rows.append(head | measured | others)
    return table("curve", rows, _derived(items.run, "curve", seed))


def _guessing(scores: pd.DataFrame) -> dict[Any, float]:
    """Accuracy of guessing per model and side, the mean of 1/k; log-odds are judged on the other prompt alone."""
    sides = scores.assign(side=scores["side"].replace({"other_prompt": "item"}))
    sizes = sides.groupby([*HEAD, "side", "item"], sort=False).size()
    return dict((1 / sizes).groupby([*HEAD, "side"], sort=False).mean())


def value_curve(values: Table, *, seed: int = 0) -> Table:
    """Table ``value_curve``: per model, the mean over items of the number that the metric gives, in its unit."""
    rows = [
        head | mean_columns(["value"], frame["value"].to_numpy(dtype=float), seed=seed) | {"n": len(frame)}
        for head, frame in _groups(values, "values", "metric")
    ]
    return table("value_curve", rows, _derived(values.run, "value curve", seed))


def join_sites(parts: Sequence[Table]) -> Table:
    """Several models' tables ``sites``, or ``head_roles``, as one: q and ``significant`` are over all of them."""
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


def _groups(given: Table, name: str, *more: str, empty: bool = False) -> Iterator[tuple[Row, pd.DataFrame]]:
    """Leading cells and rows of each model (and of each value of the columns ``more``) of the table ``name``."""
    return groups(frame_of(given, name, "summary", empty=empty), [*HEAD, *more])


def _derived(run: Run, what: str, seed: int) -> Run:
    return replace(run, method=f"{run.method}; {what}", seed=seed)
