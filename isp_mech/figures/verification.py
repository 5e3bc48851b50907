"""The figure of verification: what replacing the located sites does, against matched random sets."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from isp_mech.figures.style import (
    BLACK,
    GREY,
    SIDE_COLOURS,
    TWO_COLUMNS,
    PaperFigure,
    category_axis,
    frame_of,
    new_figure,
    plain,
    size_labels,
    sizes_of,
    styled,
    tasks_of,
)
from isp_mech.tables import Table

COLUMNS = {"conflict": ("accuracy_before", "accuracy_after"), "plain": ("plain_before", "plain_after")}


_MEANS = (
    "accuracy_before", "accuracy_after", "margin_before", "margin_after", "plain_before", "plain_after",
    "neutral_loss_before", "neutral_loss_after",
)  # fmt: skip


def judged_rows(verification: Table, task: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per model of one task, ``(located, random)``, sizes from small to large; the halves are put together.

    Rows whose ``sites`` speak of a random draw are the comparison. Over halves, shares, margins and losses
    are means, ``p_random`` is the larger of the two (missing where a half has none), ``n_sites`` the
    smaller and ``most_sites`` the larger number, and the gap closed is a ratio of means. Where several
    replacements were used the first counts.
    """
    frame = frame_of(verification, "verification")
    frame = frame[frame["task"] == task]
    frame = frame[frame["replacement"] == frame["replacement"].iloc[0]]
    drawn = frame["sites"].str.lower().str.contains("random", regex=False)
    located, random = _over_halves(frame[~drawn]), _over_halves(frame[drawn])
    gap = located["accuracy_before"].max() - located["accuracy_before"]
    closed = (located["accuracy_after"] - located["accuracy_before"]) / gap.where(gap > 0)
    return located.assign(gap_closed=located["gap_closed"].where(located["halves"] == 1, closed)), random


def _over_halves(rows: pd.DataFrame) -> pd.DataFrame:
    groups = rows.groupby(["n_params", "model", "task"], observed=True)
    return pd.DataFrame(
        {
            **{name: groups[name].mean() for name in _MEANS},
            "p_random": groups["p_random"].agg(lambda p: p.max(skipna=False)),
            "gap_closed": groups["gap_closed"].first(),
            "n_sites": groups["n_sites"].min(),
            "most_sites": groups["n_sites"].max(),
            "n_random": groups["n_random"].max(),
            "halves": groups["split"].nunique(),
            "held_out": groups["split"].agg(lambda splits: "all" not in set(splits)),
        }
    ).reset_index()


def verification_panel(
    verification: Table, ax: Axes, *, side: str = "conflict", task: str | None = None, inches: float = 2.7
) -> Axes:
    """``ax`` with accuracy on one side, per size: as it is (hollow), with the located sites replaced (filled).

    Grey marks are random sets matched by kind and layer; under the conflict side's sizes stands p,
    the share of random sets at least as good.
    """
    located, random = judged_rows(verification, task or tasks_of(verification.frame)[0])
    before, after = COLUMNS[side]
    sizes = sizes_of(located)
    colour = SIDE_COLOURS[side]
    for x, (model, _) in enumerate(sizes):
        row = located[located["model"] == model].iloc[0]
        start, stop = float(row[before]), float(row[after])
        if abs(stop - start) > 0.09:
            ax.annotate(
                "",
                (x, stop),
                (x, start),
                arrowprops={
                    "arrowstyle": "-|>,head_width=0.16,head_length=0.3",
                    "color": colour,
                    "linewidth": 1.2,
                    "shrinkA": 3.5,
                    "shrinkB": 2.5,
                },
            )
        drawn = random.loc[random["model"] == model, after].to_numpy(float)
        drawn = drawn[np.isfinite(drawn)]
        if len(drawn):
            ax.plot(
                [x + 0.14, x + 0.34],
                [drawn.mean()] * 2,
                color=GREY,
                linewidth=2,
                label="matched random sets, mean",
                gid="random",
            )
    places = np.arange(len(sizes))
    ax.plot(
        places,
        located[before].to_numpy(float),
        linestyle="none",
        marker="o",
        markersize=6.5,
        markerfacecolor="none",
        markeredgecolor=colour,
        markeredgewidth=1.1,
        label="as it is",
    )
    ax.plot(
        places,
        located[after].to_numpy(float),
        linestyle="none",
        marker="o",
        markersize=3.8,
        color=colour,
        label="located sites replaced",
    )
    labels = size_labels(sizes)
    if side == "conflict" and located["p_random"].notna().any():
        labels = [f"{text}\n{_p(p)}" for text, p in zip(labels, located["p_random"], strict=True)]
    category_axis(ax, labels, inches=inches, label=False)
    ax.set_ylim(-0.04, 1.04)
    ax.set_ylabel(f"{side} accuracy")
    ax.grid(axis="y")
    return ax


def _p(value: float) -> str:
    return "" if not np.isfinite(value) else f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"


@styled
def verification(verification: Table, *, width: float = TWO_COLUMNS) -> PaperFigure:
    """A figure of conflict and plain accuracy before and after replacing the located sites, per size; a row per task.

    The plain panel is left out where the table has no plain accuracy.
    """
    frame = frame_of(verification, "verification")
    tasks = tasks_of(frame)
    sides = ["conflict", "plain"] if frame["plain_before"].notna().any() else ["conflict"]
    width = width if len(sides) == 2 else width / 2
    figure = new_figure(width, 0.55 + 2.0 * len(tasks))
    axes = figure.subplots(len(tasks), len(sides), squeeze=False, sharey=True)
    for task, row in zip(tasks, axes, strict=True):
        for side, ax in zip(sides, row, strict=True):
            verification_panel(verification, ax, side=side, task=task, inches=width / len(sides) - 0.6)
            ax.set_title(plain(task) if len(tasks) > 1 else "")
    figure.supxlabel("parameters without embeddings", fontsize=8)
    handles = [
        Line2D(
            [],
            [],
            linestyle="none",
            marker="o",
            markersize=6.5,
            markerfacecolor="none",
            markeredgecolor=BLACK,
            label="as it is",
        ),
        Line2D([], [], linestyle="none", marker="o", markersize=3.8, color=BLACK, label="located sites replaced"),
    ]
    if any(line.get_gid() == "random" for ax in axes.flat for line in ax.get_lines()):
        handles.append(Line2D([], [], color=GREY, linewidth=2, label="matched random sets, mean"))
    figure.legend(handles=handles, loc="outside upper center", ncols=3 if width > 5 else 1)
    return figure
