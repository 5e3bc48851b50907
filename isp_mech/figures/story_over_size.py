"""The override over model size: how often, how strong, in which parts and how deep."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from isp_mech.figures import panels, style
from isp_mech.figures.frames import by_size, frame_of, of_task, sizes_of, tasks_of
from isp_mech.figures.paper_figure import PaperFigure, new_figure
from isp_mech.tables import Table


@style.styled
def story_over_size(story: Table, *, width: float = style.TWO_COLUMNS) -> PaperFigure:
    """A figure of four panels over size, a row for each task.

    Conflict accuracy and the share of pairs overridden; the override mass, below zero, and the follow mass, above,
    in nats with 95 % intervals over pairs; the share of the override mass in heads and in MLPs; and its mean depth,
    with the depth of the override's onset.
    """
    frame = frame_of(story, "story")
    tasks = tasks_of(frame)
    figure = new_figure(width, 0.35 + 1.85 * len(tasks))
    axes = figure.subplots(len(tasks), 4, squeeze=False, sharex="row")
    for line, task in zip(axes, tasks, strict=True):
        rows = by_size(of_task(frame, task))
        for ax, panel in zip(line, (_outcome, _masses, _parts, _depths), strict=True):
            panel(rows, ax)
            panels.category_axis(ax, style.size_labels(sizes_of(rows)), inches=width / 4 - 0.65, label=False)
        line[0].set_title(style.plain(task, 30) if len(tasks) > 1 else "", loc="left")
    panels.label_outside(figure, x=panels.SIZE, legend=4, left_only=False)
    return figure


def _outcome(rows: pd.DataFrame, ax: Axes) -> None:
    x = np.arange(len(rows))
    ax.plot(x, rows["accuracy"], color=style.SIDE_COLOURS["conflict"], marker="o", label="conflict accuracy")
    ax.plot(x, rows["overridden"], color=style.PALE, marker="s", linestyle="--", label="share overridden")
    panels.accuracy_axis(ax, "of pairs")
    panels.percent_axis(ax.yaxis)


def _masses(rows: pd.DataFrame, ax: Axes) -> None:
    x = np.arange(len(rows))
    for name, sign, colour, text in (
        ("follow_mass", 1, style.BLUE, "towards the answer"),
        ("override_mass", -1, style.VERMILLION, "towards the lure"),
    ):
        middle, lo, hi = (sign * rows[f"{name}{end}"].to_numpy(float) for end in ("", "_lo", "_hi"))
        ax.bar(x, middle, 0.7, color=colour, label=text)
        panels.interval(ax, x, np.fmin(lo, hi), np.fmax(lo, hi), color=style.BLACK, band=False)
    ax.axhline(0, color=style.BLACK, linewidth=0.7)
    panels.number_axis(ax.yaxis)
    ax.set_ylabel("mass (nats)")


def _parts(rows: pd.DataFrame, ax: Axes) -> None:
    heads = rows["attention_share"].to_numpy(float)
    shares = {"in heads": np.nan_to_num(heads), "in MLPs": np.nan_to_num(1 - heads)}
    panels.stacked_bars(ax, shares, {"in heads": style.SKY, "in MLPs": style.YELLOW}, width=0.7)
    ax.set_ylabel("of the override mass")


def _depths(rows: pd.DataFrame, ax: Axes) -> None:
    x = np.arange(len(rows))
    low, high = rows["depth_lo"].to_numpy(float), rows["depth_hi"].to_numpy(float)
    panels.interval(ax, x, low, high, color=style.VERMILLION, band=False)
    for name, colour, marker, text in (
        ("depth", style.VERMILLION, "o", "mean depth of the override mass"),
        ("onset", style.GREY, "D", "override onset"),
    ):
        ax.plot(x, rows[name], color=colour, marker=marker, linestyle="none", label=text)
    panels.accuracy_axis(ax, "relative depth")
    panels.depth_ticks(ax, "y")
