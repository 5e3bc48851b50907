"""The margin on its way through each model, as the lens reads it after each sublayer."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from isp_mech.figures import panels, style
from isp_mech.figures.frames import frame_of, of_task, sizes_of, tasks_of
from isp_mech.figures.paper_figure import PaperFigure, new_figure
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
    frame = of_task(frame_of(lens, "lens"), task)
    frame = frame[frame["model"] == model]
    ax.axhline(0, color=style.BLACK, linewidth=0.7)
    present = set(frame["side"].unique())
    for side in (s for s in LENS_SIDES if s in present):
        means, colour = lens_means(frame[frame["side"] == side]), style.SIDE_COLOURS[side]
        depth = means.index.to_numpy(float)
        panels.interval(ax, depth, means["low"].to_numpy(), means["high"].to_numpy(), color=colour)
        ax.plot(depth, means["mean"], color=colour, marker=".", markersize=3.5, label=side)
    if onset is not None and len(frame):
        rows = of_task(onset.frame, str(frame["task"].iloc[0]))
        rows = rows[(rows["model"] == model) & (rows["side"] == "conflict")]
        rows = rows[rows["onset"].notna() & (rows["n_onset"] >= rows["n"] / 2)]
        for at, low, high in rows[["onset", "onset_lo", "onset_hi"]].to_numpy(float):
            if np.isfinite(low) and np.isfinite(high):
                ax.axvspan(low, high, color=style.GREY, alpha=0.2, linewidth=0, zorder=0)
            ax.axvline(at, color=style.GREY, linewidth=1, linestyle=":", zorder=1, label="override onset")
    ax.set_xlim(-0.03, 1.03)
    panels.depth_ticks(ax)
    ax.grid(axis="y")
    return ax


def lens_means(rows: pd.DataFrame) -> pd.DataFrame:
    """By depth, in its order: ``mean`` margin over pairs, ``low`` and ``high`` end of its 95 % bootstrap interval."""
    rows = rows.assign(order=rows["sublayer"].map(SUBLAYERS))
    wide = rows.pivot(index="pair", columns=["depth", "layer", "order"], values="margin")
    wide = wide.sort_index(axis="columns").dropna()
    values = wide.to_numpy(float)
    low, high = bootstrap_interval(values, seed=0)
    index = wide.columns.get_level_values("depth")
    return pd.DataFrame({"mean": values.mean(0), "low": low, "high": high}, index=index)


@style.styled
def lens_over_depth(lens: Table, *, onset: Table | None = None, width: float = style.TWO_COLUMNS) -> PaperFigure:
    """A figure of the margin over relative depth: one panel per size (and row per task), conflict and plain side.

    The scale is linear near zero and logarithmic beyond where the largest mean is more than 30
    times the median one, and the axis says so.
    """
    frame = frame_of(lens, "lens")
    rows = _rows_of_panels(frame, most=6 if width > 5 else 2)
    n_columns = max(len(row) for row in rows)
    wide = width if n_columns > 2 or width <= 5 else 0.28 * width + 1.7 * n_columns
    figure = new_figure(wide, 0.6 + 1.75 * len(rows))
    axes = figure.subplots(len(rows), n_columns, squeeze=False, sharex=True, sharey=True)
    titled: set[str] = set()
    for row, line in zip(rows, axes, strict=True):
        for (task, model, label), ax in zip(row, line, strict=False):
            lens_panel(lens, ax, model=model, task=task, onset=onset)
            first = task not in titled and len(tasks_of(frame)) > 1
            ax.set_title(f"{style.plain(task, 30)}\n{label}" if first else label)
            titled.add(task)
        for ax in line[len(row) :]:
            ax.set_axis_off()
    lines = [line for ax in axes.flat for line in ax.get_lines() if line.get_label() in LENS_SIDES]
    means = np.abs(np.concatenate([line.get_ydata() for line in lines])) if lines else np.zeros(1)
    stretched = means.max() > 30 * max(float(np.median(means)), 1e-9)
    what = "margin, first token" if lens.run.settings.get("tokens") == "first" else "margin"
    for ax in axes.flat:
        if stretched:
            ax.set_yscale("symlog", linthresh=1.0)
        panels.number_axis(ax.yaxis)
        ax.set_ylabel(f"{what} (nats, log beyond ±1)" if stretched else f"{what} (nats)")
    panels.label_outside(figure, x="relative depth", legend=4)
    return figure


def _rows_of_panels(frame: pd.DataFrame, most: int) -> list[list[tuple[str, str, str]]]:
    """Task, model and label of every panel, row by row: a new row for each task, and after ``most`` sizes."""
    rows = []
    for task in tasks_of(frame):
        sizes = sizes_of(frame[frame["task"] == task])
        cells = [(task, model, label) for (model, _), label in zip(sizes, style.size_labels(sizes), strict=True)]
        rows += [cells[start : start + most] for start in range(0, len(cells), most)]
    return rows
