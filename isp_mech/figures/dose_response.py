"""Accuracy over a dose: how much a task's variants have of something."""

from __future__ import annotations

from collections.abc import Mapping

from isp_mech.errors import InputError
from isp_mech.figures import panels, style
from isp_mech.figures.frames import frame_of, of_side, sizes_of, tasks_of
from isp_mech.figures.paper_figure import PaperFigure, new_figure
from isp_mech.figures.scaling_curve import CurveSide
from isp_mech.tables import Table


@style.styled
def dose_response(
    curve: Table, doses: Mapping[str, float], *, dose: str, side: CurveSide = "conflict",
    width: float = style.ONE_COLUMN,
) -> PaperFigure:  # fmt: skip
    """A figure of accuracy on ``side`` over a dose, with intervals: a line per size, darker for larger.

    ``doses`` says how much of it each task of the table has, ``dose`` what it is; tasks that are not named
    there are left out. ``InputError`` where none is left.
    """
    frame = of_side(frame_of(curve, "curve"), side)
    tasks = tasks_of(frame)
    frame = frame[frame["task"].isin(list(doses))]
    if not len(frame):
        raise InputError("figure", [f"doses of {', '.join(doses)}: expected some of {', '.join(tasks)}"])
    frame = frame.assign(dose=frame["task"].map(dict(doses)))
    figure = new_figure(width, 2.5)
    ax = figure.subplots()
    sizes = sizes_of(frame)
    groups = [frame[frame["model"] == model].sort_values("dose") for model, _ in sizes]
    panels.lines_over(ax, list(zip(style.size_labels(sizes), groups, strict=True)), "dose", "accuracy")
    panels.accuracy_axis(ax, f"{side} accuracy")
    ax.set_xticks(sorted(set(frame["dose"])))
    ax.set_xlabel(style.plain(dose, int(18 * width)))
    panels.label_outside(figure, legend=3)
    return figure
