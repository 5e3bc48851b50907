"""Accuracy in the course of training, for every size."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from isp_mech.errors import InputError
from isp_mech.figures import panels, style
from isp_mech.figures.frames import frame_of, sizes_of, tasks_of
from isp_mech.figures.paper_figure import PaperFigure
from isp_mech.figures.scaling_curve import CurveSide
from isp_mech.tables import Table


def training_panel(training: Table, ax: Axes, *, task: str, side: CurveSide = "conflict") -> Axes:
    """``ax`` with the accuracy on one task's ``side`` over training tokens, one line per size, darker for larger."""
    frame = frame_of(training, "training")
    rows = frame[(frame["measure"] == "accuracy") & (frame["task"] == task) & (frame["side"] == side)]
    sizes = sizes_of(rows)
    for (model, n_params), colour in zip(sizes, style.shades(len(sizes), 0.2), strict=True):
        its = rows[rows["model"] == model].sort_values("tokens")
        ax.plot(its["tokens"].to_numpy(float), its["value"].to_numpy(float), color=colour, marker="o", markersize=2,
                linewidth=1.1, label=style.size_label(n_params))  # fmt: skip
    panels.accuracy_axis(ax, f"{side} accuracy")
    ax.set_xlim(left=0)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: style.size_label(tokens) if tokens else "0"))
    ax.set_title(style.plain(task))
    return ax


@style.styled
def training_course(training: Table, *, side: CurveSide = "conflict", width: float = style.TWO_COLUMNS) -> PaperFigure:
    """A figure of accuracy on ``side`` in the course of training: a panel per task, a line per size.

    ``InputError`` where no row is an accuracy on that side.
    """
    frame = frame_of(training, "training")
    rows = frame[(frame["measure"] == "accuracy") & (frame["side"] == side)]
    if not len(rows):
        raise InputError("figure", [f"side {side!r}: found no accuracy on it, expected a training that was evaluated"])
    tasks = tasks_of(rows)
    columns = min(len(tasks), 4 if width > 5 else 2)
    figure, axes = panels.panel_rows(len(tasks), columns, width=width, height=0.55, row_height=1.75)
    for i, (task, ax) in enumerate(zip(tasks, axes, strict=True)):
        training_panel(training, ax, task=task, side=side)
        ax.set_xlabel("training tokens" if i + columns >= len(tasks) else "")
    panels.label_outside(figure, legend=len(sizes_of(rows)))
    return figure
