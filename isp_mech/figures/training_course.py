"""Figures whose x axis is training: how accuracy goes, for every size, while the models are trained."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from isp_mech.errors import InputError
from isp_mech.figures.style import (
    TWO_COLUMNS,
    PaperFigure,
    frame_of,
    new_figure,
    plain,
    size_label,
    sizes_of,
    styled,
    tasks_of,
)
from isp_mech.tables import Table


def training_panel(training: Table, ax: Axes, *, task: str, side: str = "conflict") -> Axes:
    """``ax`` with the accuracy on one task's ``side`` over training tokens, one line per size, darker for larger."""
    frame = frame_of(training, "training")
    rows = frame[(frame["measure"] == "accuracy") & (frame["task"] == task) & (frame["side"] == side)]
    sizes = sizes_of(rows)
    for (model, n_params), shade in zip(sizes, np.linspace(0.2, 0.95, max(len(sizes), 2)), strict=False):
        of = rows[rows["model"] == model].sort_values("tokens")
        ax.plot(
            of["tokens"].to_numpy(float),
            of["value"].to_numpy(float),
            color=colormaps["viridis_r"](shade),
            marker="o",
            markersize=2,
            linewidth=1.1,
            label=size_label(n_params),
        )
    ax.set_ylim(-0.03, 1.03)
    ax.set_xlim(left=0)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: size_label(tokens) if tokens else "0"))
    ax.set_title(plain(task))
    ax.grid(axis="y")
    return ax


@styled
def training_course(training: Table, *, side: str = "conflict", width: float = TWO_COLUMNS) -> PaperFigure:
    """A figure of accuracy on ``side`` in the course of training: a panel per task, a line per size.

    ``InputError`` where no row is an accuracy on that side.
    """
    frame = frame_of(training, "training")
    rows = frame[(frame["measure"] == "accuracy") & (frame["side"] == side)]
    if not len(rows):
        raise InputError("figure", [f"side {side!r}: found no accuracy on it, expected a training that was evaluated"])
    tasks = tasks_of(rows)
    columns = min(len(tasks), 4 if width > 5 else 2)
    lines = -(-len(tasks) // columns)
    figure = new_figure(width, 0.55 + 1.75 * lines)
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for i, ax in enumerate(axes.flat):
        if i >= len(tasks):
            ax.set_visible(False)
            continue
        training_panel(training, ax, task=tasks[i], side=side)
        if i % columns == 0:
            ax.set_ylabel(f"{side} accuracy")
        if i + columns >= len(tasks):
            ax.set_xlabel("training tokens")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure
