"""Published numbers beside one's own: families over size, and checkpoints over training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from isp_mech.errors import InputError
from isp_mech.figures import panels, style
from isp_mech.figures.frames import frame_of, of_task, tasks_of
from isp_mech.figures.paper_figure import PaperFigure
from isp_mech.tables import Table

Over = Literal["parameters", "tokens", "FLOPs"]
OVER: dict[Over, tuple[str, str]] = {
    "parameters": ("n_params", panels.SIZE),
    "tokens": ("tokens", "training tokens"),
    "FLOPs": ("flops", "training FLOPs"),
}
_COLOURS = (style.BLUE, style.VERMILLION, style.GREEN, style.ORANGE, style.PURPLE, style.SKY, style.BLACK, style.GREY)
_MARKERS = "os^DvPX<"
_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Series:
    """One line: the rows it is drawn from, by column and value, and how it looks in every panel."""

    where: dict[str, str]
    label: str
    colour: str
    marker: str


def observations_panel(
    observations: Table, ax: Axes, *, task: str | None = None, over: Over = "parameters", inches: float = 2.2
) -> Axes:
    """``ax`` with accuracy over ``parameters``, ``tokens`` or ``FLOPs``, with interval bands where there are any.

    Over tokens there is a line per model, darker the larger; otherwise one per family, side and revision. The
    dashed line is what guessing gives; it is there only where the table has a ``baseline``, which is where
    every class is as likely as the others before anything is read.
    """
    frame = frame_of(observations, "observations")
    if over not in OVER:
        raise InputError("figure", [f"over {over!r}: expected one of {', '.join(OVER)}"])
    column, label = OVER[over]
    rows = of_task(frame, task)
    rows = rows[rows[column].notna()]
    for one in _series(frame, over):
        its = rows[np.logical_and.reduce([rows[name] == value for name, value in one.where.items()])]
        its = its.sort_values(column)
        panels.line_over(ax, its, column, "accuracy", color=one.colour, marker=one.marker, size=3, label=one.label)
    panels.accuracy_axis(ax)
    panels.guessing(ax, rows["baseline"].to_numpy(float))
    if over == "parameters" and len(rows):
        panels.size_axis(ax, rows[column], inches=inches)
    elif len(rows):
        _power_axis(ax, rows[column].to_numpy(float), label, inches=inches)
    return ax


def _series(frame: pd.DataFrame, over: Over) -> list[Series]:
    """The lines of every panel, in the legend's order."""
    if over == "tokens":
        models = frame[["n_params", "family", "model"]].drop_duplicates().sort_values(["n_params", "model"])
        by_name = models["family"].nunique() > 1
        colours = style.shades(len(models), 0.08, 1.0)
        return [
            Series({"family": family, "model": model}, style.plain(model if by_name else style.size_label(n), 24),
                   colour, _MARKERS[0])
            for (n, family, model), colour in zip(models.itertuples(index=False), colours, strict=True)
        ]  # fmt: skip
    kinds = frame[["family", "side", "revision"]].drop_duplicates()
    named = ["family", *(name for name in ("side", "revision") if kinds[name].nunique() > 1)]
    return [
        Series(kind, style.plain(" ".join(kind[name] for name in named if kind[name])),
               _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)])
        for i, kind in enumerate({str(k): str(v) for k, v in row.items()} for row in kinds.to_dict("records"))
    ]  # fmt: skip


def _power_axis(ax: Axes, values: np.ndarray, label: str, *, inches: float) -> None:
    """A log axis with powers of ten, as many as ``inches`` have room for."""
    low, high = float(values.min()), float(values.max())
    room = (high / low) ** 0.06 if high > low else 3.0
    ax.set_xscale("log")
    ax.set_xlim(low / room, high * room)
    first, last = int(np.ceil(np.log10(low / room))), int(np.floor(np.log10(high * room)))
    step = max(1, int(np.ceil((last - first + 1) * 0.35 / inches)))
    powers = range(first, last + 1, step)
    panels.fixed_ticks(ax.xaxis, [10.0**p for p in powers], [f"10{str(p).translate(_RAISED)}" for p in powers])
    ax.set_xlabel(label)


@style.styled
def published_curves(
    observations: Table,
    *,
    over: Over = "parameters",
    tasks: Sequence[str] | None = None,
    n_columns: int = 4,
    same_scale: bool = True,
    width: float = style.TWO_COLUMNS,
) -> PaperFigure:
    """A figure of accuracy over size, training tokens or FLOPs in a table "observations", a panel per task.

    What `published` gives may stand for that table in it; `concat` with `observations_of` puts one's own
    families beside. See ``observations_panel``. With ``same_scale=False`` each panel's accuracy reaches over its own
    task's numbers only. ``InputError`` for tasks that are not there, or where
    no row has a number for ``over``.
    """
    frame = frame_of(observations, "observations")
    there = tasks_of(frame)
    shown = list(tasks) if tasks is not None else there
    problems = [f"task {task!r}: expected some of {', '.join(there)}" for task in shown if task not in there]
    if over not in OVER:
        problems.append(f"over {over!r}: expected one of {', '.join(OVER)}")
    elif frame[OVER[over][0]].isna().all():
        problems.append(f"no row has {OVER[over][0]}: nothing can be drawn over {over}")
    if problems or not shown:
        raise InputError("figure", problems or ["no tasks: expected at least one"])
    columns = min(n_columns, len(shown))
    figure, axes = panels.panel_rows(len(shown), columns, width=width, height=0.6, row_height=1.55, sharey=same_scale)
    for task, ax in zip(shown, axes, strict=True):
        observations_panel(observations, ax, task=task, over=over, inches=width / columns - 0.5)
        ax.set_title(style.plain(task, int(width / columns * 13)))
        ax.set_xlabel("")
        if not same_scale:
            _own_scale(ax, frame[frame["task"] == task])
    longest = max(len(text) for ax in axes for text in ax.get_legend_handles_labels()[1])
    panels.label_outside(figure, x=OVER[over][1], legend=max(1, int(width / (0.5 + 0.065 * longest))))
    return figure


def _own_scale(ax: Axes, rows: pd.DataFrame) -> None:
    """Limits that hold every number and interval, at least a tenth apart."""
    ends = rows[["accuracy", "accuracy_lo", "accuracy_hi", "baseline"]].to_numpy(float)
    low, high = float(np.nanmin(ends)), float(np.nanmax(ends))
    room = max(0.05 * (high - low), 0.05 - (high - low) / 2)
    ax.set_ylim(low - room, high + room)
