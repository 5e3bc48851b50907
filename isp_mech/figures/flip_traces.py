"""What the items that a larger size loses have more of than those it keeps."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from isp_mech.figures import panels, style
from isp_mech.figures.flips_over_size import sizes_of_steps
from isp_mech.figures.frames import frame_of, of_task, tasks_of
from isp_mech.figures.paper_figure import PaperFigure, new_figure
from isp_mech.stats import LEVEL
from isp_mech.tables import Table


def flip_traces_panel(flip_traces: Table, ax: Axes, *, model: str, task: str | None = None) -> Axes:
    """``ax`` with a dot per feature for the step up to ``model``: the probability that a lost item has more of it than
    a kept one, with its 95 % interval; hollow where q is over 0.05."""
    frame = frame_of(flip_traces, "flip_traces")
    features = list(dict.fromkeys(frame["feature"]))
    frame = of_task(frame, task)
    frame = frame[frame["model"] == model]
    ax.axvline(0.5, color=style.GREY, linewidth=1, linestyle=style.DASHES)
    numbers = frame[["auc", "auc_lo", "auc_hi", "q"]].to_numpy(float)
    for feature, (value, low, high, q) in zip(frame["feature"], numbers, strict=True):
        y, colour = features.index(feature), style.VERMILLION if value > 0.5 else style.BLUE
        ax.plot([low, high], [y, y], color=style.BLACK, linewidth=1)
        face = colour if q <= LEVEL else "white"
        ax.plot([value], [y], marker="o", color=colour, markerfacecolor=face, linestyle="none")
    ax.set_xlim(-0.04, 1.04)
    panels.depth_ticks(ax)
    ax.set_ylim(len(features) - 0.5, -0.5)
    ax.set_yticks(range(len(features)), [style.plain(name, 30) for name in features])
    ax.grid(axis="x")
    return ax


@style.styled
def flip_traces(flip_traces: Table, *, width: float = style.TWO_COLUMNS, most: int = 5) -> PaperFigure:
    """A figure of what lost items have more of (right of the line) or less of (left) than kept ones.

    A row of panels per task, a panel per step; the ``most`` steps that lose the most items where there are more.
    """
    frame = frame_of(flip_traces, "flip_traces")
    tasks = tasks_of(frame)
    steps = [_largest_steps(of_task(frame, task), most) for task in tasks]
    figure = new_figure(width, 0.5 + len(tasks) * (0.45 + 0.2 * frame["feature"].nunique()))
    axes = figure.subplots(len(tasks), max(map(len, steps)), squeeze=False, sharex=True, sharey=True)
    for task, its_steps, line in zip(tasks, steps, axes, strict=True):
        sizes = sizes_of_steps(of_task(frame, task))
        labels = dict(zip((model for model, _ in sizes), style.size_labels(sizes), strict=True))
        for step, ax in zip(its_steps.itertuples(), line, strict=False):
            flip_traces_panel(flip_traces, ax, model=str(step.model), task=task)
            first = f"{style.plain(task, 24)}\n" if len(tasks) > 1 and ax is line[0] else ""
            ax.set_title(f"{first}{labels[str(step.model_from)]} to {labels[str(step.model)]}\n{step.n_lost} lost")
        for ax in line[len(its_steps) :]:
            ax.set_axis_off()
    figure.supxlabel("probability that a lost item has more of it than a kept one")
    return figure


def _largest_steps(frame: pd.DataFrame, most: int) -> pd.DataFrame:
    """One row for each of the steps that lose the most items, from small sizes to large."""
    steps = frame.groupby(["n_params_from", "n_params", "model_from", "model"], sort=True)["n_lost"].max().reset_index()
    return steps.nlargest(most, "n_lost").sort_values(["n_params_from", "n_params"])
