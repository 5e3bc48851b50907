"""Accuracy over model size, a line for each variant of a task."""

from __future__ import annotations

from collections.abc import Mapping

from isp_mech.errors import InputError
from isp_mech.figures import panels, style
from isp_mech.figures.frames import by_size, frame_of, of_side, tasks_of
from isp_mech.figures.paper_figure import PaperFigure, new_figure
from isp_mech.figures.scaling_curve import CurveSide
from isp_mech.tables import Table


@style.styled
def variants_over_size(
    curve: Table, labels: Mapping[str, str] | None = None, *, side: CurveSide = "conflict",
    width: float = style.ONE_COLUMN,
) -> PaperFigure:  # fmt: skip
    """A figure of accuracy on ``side`` over size, with intervals: a line per task of the table, darker for later.

    ``labels`` are the names to write, by task; tasks without one are left out. Guessing is dashed where
    every line has the same baseline. ``InputError`` where no task is named, or no row is of ``side``.
    """
    frame = of_side(frame_of(curve, "curve"), side)
    tasks = [task for task in tasks_of(frame) if labels is None or task in labels]
    if not tasks:
        there = ", ".join(tasks_of(frame))
        raise InputError("figure", [f"labels of {', '.join(labels or ())}: expected some of {there}"])
    frame = frame[frame["task"].isin(tasks)]
    names = [style.plain(task if labels is None else labels[task]) for task in tasks]
    columns = 2 if max(map(len, names)) * 2 < 13 * width else 1
    figure = new_figure(width, 2.1 + 0.16 * -(-len(tasks) // columns))
    ax = figure.subplots()
    groups = [by_size(frame[frame["task"] == task]) for task in tasks]
    panels.lines_over(ax, list(zip(names, groups, strict=True)), "n_params", "accuracy")
    if frame["baseline"].nunique(dropna=False) == 1:
        panels.guessing(ax, frame["baseline"].to_numpy(float))
    panels.accuracy_axis(ax, f"{side} accuracy")
    panels.size_axis(ax, frame["n_params"], inches=width - 0.6)
    panels.label_outside(figure, legend=columns)
    return figure
