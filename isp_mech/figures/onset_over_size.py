"""The depth at which the override sets in, over model size."""

from __future__ import annotations

import numpy as np

from isp_mech.figures import panels, style
from isp_mech.figures.frames import by_size, frame_of, tasks_of
from isp_mech.figures.paper_figure import PaperFigure, new_figure
from isp_mech.tables import Table


@style.styled
def onset_over_size(onset: Table, *, width: float = style.ONE_COLUMN) -> PaperFigure:
    """A figure of the relative depth at which the override sets in, with interval, over size; a line per task.

    Sizes without an onset have no point. Above each point: the share of pairs that have an onset.
    """
    frame = frame_of(onset, "onset")
    frame = frame[frame["side"] == "conflict"]
    figure = new_figure(width, 2.3)
    ax = figure.subplots()
    tasks = tasks_of(frame)
    colours = [*style.SIDE_COLOURS.values(), *style.SHARE_COLOURS.values()]
    for task, colour in zip(tasks, colours * len(tasks), strict=False):
        rows = by_size(frame[frame["task"] == task])
        panels.line_over(ax, rows, "n_params", "onset", color=colour, marker="o", label=style.plain(task), band=False)
        for _, row in rows[rows["onset"].notna()].iterrows() if len(tasks) == 1 else ():
            top = row["onset_hi"] if np.isfinite(row["onset_hi"]) else row["onset"]
            ax.annotate(f"{100 * row['n_onset'] / row['n']:.0f} %", (row["n_params"], top), xytext=(0, 3),
                        textcoords="offset points", ha="center", fontsize=7)  # fmt: skip
    ax.set_ylim(0, 1.08)
    ax.set_ylabel("onset (relative depth)")
    ax.grid(axis="y")
    panels.size_axis(ax, frame["n_params"], inches=width - 0.6)
    if frame["onset"].isna().all():
        ax.text(0.5, 0.5, "no size has an onset", transform=ax.transAxes, ha="center", color=style.GREY)
    if len(tasks) > 1:
        panels.label_outside(figure, legend=2)
    else:
        ax.set_title("written: share of pairs with an onset", fontsize=7, color="#555555")
    return figure
