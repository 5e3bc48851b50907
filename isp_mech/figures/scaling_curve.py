"""Accuracy and loss over model size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from isp_mech.errors import InputError
from isp_mech.figures import panels, style
from isp_mech.figures.frames import by_size, frame_of, of_task, tasks_of
from isp_mech.figures.paper_figure import PaperFigure, new_figure
from isp_mech.scaling.published_results import human_agreement
from isp_mech.tables import Table

CurveSide = Literal["conflict", "plain", "neutral", "item"]
CurveValue = Literal["accuracy", "loss"]
CURVE_SIDES: tuple[CurveSide, ...] = ("conflict", "plain", "neutral", "item")
LOW_COVERAGE = 1e-3


def curve_panel(
    curve: Table,
    ax: Axes,
    *,
    value: CurveValue = "accuracy",
    sides: Sequence[CurveSide] = CURVE_SIDES,
    task: str | None = None,
    people: bool = True,
    inches: float = 2.8,
) -> Axes:
    """``ax`` with ``value`` (``accuracy``, or ``loss`` in nats) over size, one line and interval band per side.

    A point is hollow where mean coverage is under 1e-3 or an item is tied. The dashed line is what
    guessing gives; it is there only for accuracy, and only where the table's ``baseline`` is a number. That
    is where every class is as likely as the others before anything is read (A or B, Y or N). Completions that
    somebody wrote for an item (`part` and `pango`) are not: a model that knows nothing of the task still finds
    one of them likelier, so one half is nothing that ignorance would give, and no line is drawn.

    The dotted line, which ``people=False`` leaves out, is the share of people's answers that agree with the
    key, for the four tasks of the prize's first round: 100 %, on NeQA 98 %. It was measured on the prize's own
    items (Surge, reported by the organisers in the comments to their announcement of the winners, 2022).
    """
    frame = of_task(frame_of(curve, "curve"), task)
    shown = frame[frame["side"].isin(sides)]
    for side in (s for s in CURVE_SIDES if s in set(shown["side"])):
        rows = by_size(frame[frame["side"] == side])
        colour, marker = style.SIDE_COLOURS[side], style.SIDE_MARKERS[side]
        panels.line_over(ax, rows, "n_params", value, color=colour, marker=marker, label=side)
        doubtful = rows[_doubtful(rows)]
        ax.plot(doubtful["n_params"].to_numpy(float), doubtful[value].to_numpy(float), linestyle="none", marker=marker,
                markersize=5, markerfacecolor="white", markeredgecolor=colour, label="_doubtful",
                gid=f"doubtful-{side}")  # fmt: skip
    if value == "accuracy":
        panels.accuracy_axis(ax)
        panels.guessing(ax, shown["baseline"].to_numpy(float))
        agreement = human_agreement(tasks_of(frame)[0]) if people else None
        if agreement is not None and {"conflict", "item"} & set(shown["side"]):
            ax.axhline(agreement, color=style.BLACK, linewidth=1, linestyle=style.DOTS, zorder=1, label="people")
    else:
        ax.set_ylim(bottom=0)
        ax.set_ylabel("loss (nats)")
        ax.grid(axis="y")
    panels.size_axis(ax, frame["n_params"], inches=inches)
    return ax


def _doubtful(rows: pd.DataFrame) -> np.ndarray:
    return (rows["coverage"].to_numpy(float) < LOW_COVERAGE) | (rows["ties"].fillna(0).to_numpy(int) > 0)


@style.styled
def scaling_curve(
    curve: Table,
    *,
    sides: Sequence[CurveSide] = CURVE_SIDES,
    values: Sequence[CurveValue] = ("accuracy", "loss"),
    people: bool = True,
    width: float = style.TWO_COLUMNS,
) -> PaperFigure:
    """A figure of accuracy and loss over model size: one line per side, one pair of panels per task.

    One task gives two panels beside each other (above each other where ``width`` is one column's);
    several tasks give one column of panels each. See ``curve_panel`` for marks. ``InputError`` where
    no row is of one of ``sides``.
    """
    frame = frame_of(curve, "curve")
    tasks = tasks_of(frame)
    shown = frame[frame["side"].isin(sides)]
    if not len(shown):
        there = ", ".join(sorted(set(frame["side"])))
        raise InputError("figure", [f"found sides {there}, expected one of {', '.join(sides)}"])
    values = [value for value in values if frame[value].notna().any()]
    beside = len(tasks) == 1 and width > 5
    n_rows, n_columns = (1, len(values)) if beside else (len(values), len(tasks))
    figure = new_figure(width, 0.45 + n_rows * (2.0 if beside else 1.75))
    axes = figure.subplots(n_rows, n_columns, squeeze=False, sharey=False if beside else "row")
    inches = width / n_columns - 0.6
    for value, line in zip(values, axes.T if beside else axes, strict=True):
        for task, ax in zip(tasks, line, strict=True):
            curve_panel(curve, ax, value=value, sides=sides, task=task, people=people, inches=inches)
            if not beside and (value != values[-1] or len(tasks) > 1):
                ax.set_xlabel("")
    if len(tasks) > 1:
        for task, ax in zip(tasks, axes[0], strict=True):
            ax.set_title(style.plain(task, int(width / n_columns * 13)))
    hollow = [panels.mark("hollow: low coverage or ties", face="white")] if _doubtful(shown).any() else []
    x = panels.SIZE if len(tasks) > 1 else ""
    panels.label_outside(figure, x=x, legend=5 if width > 5 else 2, more=hollow, left_only=not beside)
    return figure
