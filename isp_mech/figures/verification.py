"""What replacing the located sites does, against matched random sets."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from isp_mech.figures import panels, style
from isp_mech.figures.frames import frame_of, of_task, sizes_of, tasks_of
from isp_mech.figures.paper_figure import PaperFigure, new_figure
from isp_mech.tables import Table

JudgedSide = Literal["conflict", "plain"]
COLUMNS: dict[JudgedSide, tuple[str, str]] = {
    "conflict": ("accuracy_before", "accuracy_after"), "plain": ("plain_before", "plain_after"),
}  # fmt: skip
RING, DOT, RANDOM = "as it is", "located sites replaced", "matched random sets, mean"


def judged_rows(verification: Table, task: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per model of one task, ``(located, random)``, sizes from small to large; the halves are put together.

    Rows whose ``sites`` speak of a random draw are the comparison. Over halves, shares, margins and losses
    are means, ``p_random`` is the larger of the two (missing where a half has none), ``n_sites`` the
    smaller and ``most_sites`` the larger number, and the gap closed is a ratio of means. Where several
    replacements were used the first counts.
    """
    frame = of_task(frame_of(verification, "verification"), task)
    frame = frame[frame["replacement"] == frame["replacement"].iloc[0]]
    drawn = frame["sites"].str.lower().str.contains("random", regex=False)
    located, random = _over_halves(frame[~drawn]), _over_halves(frame[drawn])
    gap = located["accuracy_before"].max() - located["accuracy_before"]
    closed = (located["accuracy_after"] - located["accuracy_before"]) / gap.where(gap > 0)
    return located.assign(gap_closed=located["gap_closed"].where(located["halves"] == 1, closed)), random


def _over_halves(rows: pd.DataFrame) -> pd.DataFrame:
    groups = rows.groupby(["n_params", "model", "task"], observed=True)
    means = groups[[name for name in rows.columns.astype(str) if name.endswith(("_before", "_after"))]].mean()
    return means.assign(
        p_random=groups["p_random"].agg(lambda p: p.max(skipna=False)),
        gap_closed=groups["gap_closed"].first(),
        n_sites=groups["n_sites"].min(),
        most_sites=groups["n_sites"].max(),
        n_random=groups["n_random"].max(),
        halves=groups["split"].nunique(),
        held_out=groups["split"].agg(lambda splits: "all" not in set(splits)),
    ).reset_index()


def verification_panel(
    verification: Table, ax: Axes, *, side: JudgedSide = "conflict", task: str | None = None, inches: float = 2.7
) -> Axes:
    """``ax`` with accuracy on one side, per size: as it is (hollow), with the located sites replaced (filled).

    Grey marks are random sets matched by kind and layer; under the conflict side's sizes stands p,
    the share of random sets at least as good.
    """
    located, random = judged_rows(verification, task or tasks_of(verification.frame)[0])
    before, after = (located[column].to_numpy(float) for column in COLUMNS[side])
    places, colour, sizes = np.arange(len(located)), style.SIDE_COLOURS[side], sizes_of(located)
    head = {"arrowstyle": "-|>,head_width=0.16,head_length=0.3", "shrinkA": 3.5, "shrinkB": 2.5}
    for x in places[np.abs(after - before) > 0.09].tolist():
        ax.annotate("", (x, after[x]), (x, before[x]), arrowprops=head | {"color": colour, "linewidth": 1.2})
    drawn = random.groupby("model")[COLUMNS[side][1]].mean().reindex([model for model, _ in sizes])
    for x, height in enumerate(drawn.tolist()):
        if np.isfinite(height):
            ax.plot([x + 0.14, x + 0.34], [height] * 2, color=style.GREY, linewidth=2, label=RANDOM, gid="random")
    ax.plot(places, before, linestyle="none", marker="o", markersize=6.5, markerfacecolor="none",
            markeredgecolor=colour, markeredgewidth=1.1, label=RING)  # fmt: skip
    ax.plot(places, after, linestyle="none", marker="o", markersize=3.8, color=colour, label=DOT)
    labels = style.size_labels(sizes)
    if side == "conflict" and located["p_random"].notna().any():
        shown = ["" if np.isnan(p) else style.probability(p) for p in located["p_random"]]
        labels = [f"{text}\n{p}" for text, p in zip(labels, shown, strict=True)]
    panels.category_axis(ax, labels, inches=inches, label=False)
    panels.accuracy_axis(ax, f"{side} accuracy")
    return ax


@style.styled
def verification(verification: Table, *, width: float = style.TWO_COLUMNS) -> PaperFigure:
    """A figure of conflict and plain accuracy before and after replacing the located sites, per size; a row per task.

    The plain panel is left out where the table has no plain accuracy.
    """
    frame = frame_of(verification, "verification")
    tasks = tasks_of(frame)
    sides: tuple[JudgedSide, ...] = ("conflict", "plain") if frame["plain_before"].notna().any() else ("conflict",)
    width = width if len(sides) == 2 else width / 2
    figure = new_figure(width, 0.55 + 2.0 * len(tasks))
    axes = figure.subplots(len(tasks), len(sides), squeeze=False, sharey=True)
    for task, row in zip(tasks, axes, strict=True):
        for side, ax in zip(sides, row, strict=True):
            verification_panel(verification, ax, side=side, task=task, inches=width / len(sides) - 0.6)
            ax.set_title(style.plain(task) if len(tasks) > 1 else "")
    figure.supxlabel(panels.SIZE)
    handles = [panels.mark(RING, face="none", size=6.5), panels.mark(DOT, size=3.8)]
    if any(line.get_gid() == "random" for ax in axes.flat for line in ax.get_lines()):
        handles.append(Line2D([], [], color=style.GREY, linewidth=2, label=RANDOM))
    figure.legend(handles=handles, loc="outside upper center", ncols=3 if width > 5 else 1)
    return figure
