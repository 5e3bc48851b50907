"""Figures of what happens inside a model: the lens over depth, and attention by role."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import FuncFormatter

from isp_mech.errors import InputError
from isp_mech.figures.style import (
    BLACK,
    EFFECT_COLOURS,
    GREY,
    SIDE_COLOURS,
    TWO_COLUMNS,
    PaperFigure,
    frame_of,
    new_figure,
    number,
    plain,
    size_labels,
    sizes_of,
    styled,
    tasks_of,
)
from isp_mech.stats import bootstrap_interval
from isp_mech.tables import Table

SUBLAYERS = {"embed": 0, "attn": 1, "mlp": 2}
LENS_SIDES = ("conflict", "plain")


def lens_panel(lens: Table, ax: Axes, *, model: str, task: str | None = None, onset: Table | None = None) -> Axes:
    """``ax`` with the margin (nats) over relative depth in one model: mean over pairs, 95 % bootstrap band.

    One line for the conflict side, one for plain. Above zero the answer is ahead, below zero the
    lure. Given ``onset``, a dotted line and band stand where the conflict margin turns for good,
    in models in which it does so for at least half of the pairs.
    """
    frame = frame_of(lens, "lens")
    task = task or tasks_of(frame)[0]
    frame = frame[(frame["task"] == task) & (frame["model"] == model)]
    ax.axhline(0, color=BLACK, linewidth=0.7)
    there = set(frame["side"].unique())
    for side in (s for s in LENS_SIDES if s in there):
        depth, mean, low, high = lens_means(frame[frame["side"] == side])
        ax.fill_between(depth, low, high, color=SIDE_COLOURS[side], alpha=0.2, linewidth=0)
        ax.plot(depth, mean, color=SIDE_COLOURS[side], marker=".", markersize=3.5, label=side)
    if onset is not None:
        rows = onset.frame
        rows = rows[(rows["task"] == task) & (rows["model"] == model) & (rows["side"] == "conflict")]
        rows = rows[rows["onset"].notna() & (rows["n_onset"] >= rows["n"] / 2)]
        for at, low, high in rows[["onset", "onset_lo", "onset_hi"]].to_numpy(float):
            if np.isfinite(low) and np.isfinite(high):
                ax.axvspan(low, high, color=GREY, alpha=0.2, linewidth=0, zorder=0)
            ax.axvline(at, color=GREY, linewidth=1, linestyle=":", zorder=1, label="override onset")
    ax.set_xlim(-0.03, 1.03)
    ax.set_xticks([0, 0.5, 1], ["0", "½", "1"])
    ax.grid(axis="y")
    return ax


def lens_means(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Depth, mean margin, and both ends of its 95 % interval (bootstrap over pairs), in order of depth."""
    rows = rows.assign(order=rows["sublayer"].map(SUBLAYERS))
    wide = rows.pivot(index="pair", columns=["depth", "layer", "order"], values="margin")
    wide = wide.sort_index(axis="columns").dropna()
    values = wide.to_numpy(float)
    low, high = bootstrap_interval(values, seed=0)
    return wide.columns.get_level_values("depth").to_numpy(float), values.mean(0), low, high


@styled
def lens_over_depth(lens: Table, *, onset: Table | None = None, width: float = TWO_COLUMNS) -> PaperFigure:
    """A figure of the margin over relative depth: one panel per size (and row per task), conflict and plain side.

    The scale is linear near zero and logarithmic beyond where the largest mean is more than 30
    times the median one, and the axis says so.
    """
    frame = frame_of(lens, "lens")
    figure, rows, panels = _grid(frame, width, height=1.75)
    largest = []
    for ax, task, model, n in panels:
        lens_panel(lens, ax, model=model, task=task, onset=onset)
        ax.set_title(n)
        largest += [np.abs(line.get_ydata()) for line in ax.get_lines() if line.get_label() in LENS_SIDES]
    means = np.concatenate(largest) if largest else np.zeros(1)
    stretched = means.max() > 30 * max(float(np.median(means)), 1e-9)
    for row in rows:
        for ax in row:
            if stretched:
                ax.set_yscale("symlog", linthresh=1.0)
            ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: number(v)))
        row[0].set_ylabel("margin (nats" + (", log beyond ±1)" if stretched else ")"))
    figure.supxlabel("relative depth", fontsize=8)
    _legend(figure, [ax for ax, *_ in panels])
    return figure


def _grid(frame: pd.DataFrame, width: float, *, height: float, most: int = 6):
    """The figure, its axes by row, and ``(ax, task, model, title)`` of each panel: rows are tasks, columns sizes."""
    tasks = tasks_of(frame)
    sizes = {task: sizes_of(frame[frame["task"] == task]) for task in tasks}
    n_columns = min(max(len(s) for s in sizes.values()), most if width > 5 else 2)
    places = []
    for task in tasks:
        labels = size_labels(sizes[task])
        for start in range(0, len(labels), n_columns):
            chunk = list(zip(sizes[task], labels, strict=True))[start : start + n_columns]
            places.append([(task, model, label) for (model, _), label in chunk])
    figure = new_figure(
        width if n_columns > 2 or width <= 5 else 0.28 * width + 1.7 * n_columns, 0.6 + height * len(places)
    )
    axes = figure.subplots(len(places), n_columns, squeeze=False, sharex=True, sharey=True)
    panels = []
    for row, (cells, line) in enumerate(zip(places, axes, strict=True)):
        for column, ax in enumerate(line):
            if column >= len(cells):
                ax.set_axis_off()
                continue
            task, model, label = cells[column]
            first_of_task = column == 0 and (row == 0 or places[row - 1][0][0] != task)
            title = f"{plain(task, 30)}\n{label}" if len(tasks) > 1 and first_of_task else label
            panels.append((ax, task, model, title))
    return figure, [[ax for ax in line if ax.axison] for line in axes], panels


def _legend(figure: PaperFigure, axes: list[Axes]) -> None:
    handles = {label: h for ax in axes for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles=list(handles.values()), loc="outside upper center", ncols=4)


def attention_means(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean weight over pairs by ``(layer, head)`` and ``(side, role)``; zero where a side lacks a role.

    A role that only some pairs have counts as zero in the others, so that roles still sum to one.
    """
    pairs = frame.groupby("side")["pair"].nunique()
    keys = ["layer", "head", "side", "role"]
    total = frame.groupby(keys, observed=True)["weight"].sum().unstack(["side", "role"]).fillna(0.0)
    return total / [float(pairs[side]) for side in total.columns.get_level_values("side")]


def top_heads(means: pd.DataFrame, top: int) -> list[tuple[int, int]]:
    """The ``top`` heads whose attention differs most between conflict and plain (sum over roles), largest first."""
    gap = attention_gap(means).abs().sum(axis="columns").sort_values(ascending=False, kind="stable")
    return [(int(layer), int(head)) for layer, head in gap.index[:top]]


def attention_gap(means: pd.DataFrame) -> pd.DataFrame:
    """Conflict minus plain, by role (conflict alone, where there is no plain side)."""
    conflict = weights_on(means, "conflict")
    if "plain" not in means.columns.get_level_values("side"):
        return conflict
    return conflict.sub(weights_on(means, "plain"), fill_value=0.0)


def weights_on(means: pd.DataFrame, side: str) -> pd.DataFrame:
    """The columns of one side, by role."""
    some = means.loc[:, means.columns.get_level_values("side") == side]
    return some.droplevel("side", axis="columns")


def attention_panel(
    attention: Table,
    ax: Axes,
    *,
    model: str,
    roles: list[str],
    task: str | None = None,
    difference: bool = False,
    top: int = 6,
) -> Axes:
    """``ax`` with a heat map, roles x heads: mean weight from the last position on the conflict side, in 0..1.

    With ``difference`` it is conflict minus plain, in -1..1. The heads are the ``top`` ones by that
    difference, largest first.
    """
    frame = frame_of(attention, "attention")
    means = attention_means(frame[(frame["task"] == (task or tasks_of(frame)[0])) & (frame["model"] == model)])
    return _attention_map(means, ax, roles=roles, difference=difference, top=top)


def _attention_map(means: pd.DataFrame, ax: Axes, *, roles: list[str], difference: bool, top: int) -> Axes:
    heads = top_heads(means, top)
    shown = (
        (attention_gap(means) if difference else weights_on(means, "conflict"))
        .reindex(columns=roles, fill_value=0.0)
        .loc[heads]
    )
    cmap, norm = (EFFECT_COLOURS, Normalize(-1, 1)) if difference else ("viridis", Normalize(0, 1))
    ax.pcolormesh(shown.to_numpy(float).T, cmap=cmap, norm=norm, edgecolors="white", linewidth=0.6)
    ax.invert_yaxis()
    ax.set_yticks(np.arange(len(roles)) + 0.5, [plain(r.replace("_", " "), 22) for r in roles])
    ax.set_xticks(np.arange(len(heads)) + 0.5, [f"a{layer}.h{head}" for layer, head in heads], rotation=90)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


@styled
def attention_by_role(
    attention: Table, *, task: str | None = None, top: int = 6, width: float = TWO_COLUMNS
) -> PaperFigure:
    """A figure of where the last position looks: a map per size, roles x heads, for its ``top`` heads.

    Above: mean weight on conflict prompts. Below: how much more (blue) or less (orange) than on
    plain prompts. Heads are those that differ most between the two. One task; the first by default.
    """
    frame = frame_of(attention, "attention")
    task = task or tasks_of(frame)[0]
    frame = frame[frame["task"] == task]
    sides = set(frame["side"].unique())
    if "conflict" not in sides:
        raise InputError("figure", [f"attention of {task!r}: found no conflict side"])
    compared = "plain" in sides
    roles = _roles(frame)
    sizes = sizes_of(frame)
    heads = [min(top, len(frame.loc[frame["model"] == m, ["layer", "head"]].drop_duplicates())) for m, _ in sizes]
    figure = new_figure(width, 0.75 + (1 + compared) * max(0.95, 0.17 * len(roles) + 0.1))
    axes = figure.subplots(
        1 + compared, len(sizes), squeeze=False, sharey=True, sharex="col", gridspec_kw={"width_ratios": heads}
    )
    for j, ((model, _), label) in enumerate(zip(sizes, size_labels(sizes), strict=True)):
        means = attention_means(frame[frame["model"] == model])
        for i in range(1 + compared):
            _attention_map(means, axes[i, j], roles=roles, difference=i == 1, top=top)
            axes[i, j].tick_params(labelbottom=i == compared, labelleft=j == 0)
        axes[0, j].set_title(label)
        axes[0, j].set_ylim(len(roles), 0)
    scales: list[tuple[Any, Normalize, str]] = [("viridis", Normalize(0, 1), "weight, conflict")]
    scales += [(EFFECT_COLOURS, Normalize(-1, 1), "conflict − plain")] if compared else []
    for i, (cmap, norm, text) in enumerate(scales):
        bar = figure.colorbar(ScalarMappable(norm, cmap), ax=list(axes[i]), aspect=12, pad=0.01, label=text)
        bar.outline.set_visible(False)
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: number(round(v, 3))))
    return figure


def _roles(frame: pd.DataFrame) -> list[str]:
    """Roles by the weight they get on the conflict side, ``other`` last."""
    weights = frame[frame["side"] == "conflict"].groupby("role", observed=True)["weight"].sum()
    weights = weights.sort_values(ascending=False)
    roles = [str(r) for r in weights.index] + sorted(set(frame["role"].unique()) - set(weights.index))
    return [r for r in roles if r != "other"] + (["other"] if "other" in roles else [])
