"""Which items each size is right on, and how many are gained and lost from one size to the next."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from isp_mech.figures import panels, style
from isp_mech.figures.frames import frame_of, of_task, sizes_of, tasks_of
from isp_mech.figures.paper_figure import PaperFigure, new_figure
from isp_mech.tables import Table

RIGHT, WRONG = style.BLUE, style.VERMILLION


def flips_panel(flips: Table, ax: Axes, *, task: str | None = None) -> Axes:
    """``ax`` with a row per item and a column per size: blue where the size is right, orange-red where it is wrong.

    Items stand in order of what they do: right at the smallest size first, then at the next, and so on.
    """
    right = _right(of_task(frame_of(flips, "flips"), task))
    right = right[np.lexsort(right.T[::-1])[::-1]]
    ax.pcolormesh(np.arange(right.shape[1] + 1) - 0.5, np.arange(len(right) + 1), right,
                  cmap=ListedColormap([WRONG, RIGHT]), vmin=0, vmax=1, rasterized=True)  # fmt: skip
    for edge in np.arange(1, right.shape[1]) - 0.5:
        ax.axvline(edge, color="white", linewidth=1.5)
    ax.set_ylim(len(right), 0)
    ax.set_ylabel("items")
    return ax


def sizes_of_steps(frame: pd.DataFrame) -> list[tuple[str, int]]:
    """``(model, n_params)`` from small to large, of both ends of all steps."""
    smaller = frame[["model_from", "n_params_from"]].set_axis(["model", "n_params"], axis="columns")
    return sizes_of(pd.concat([smaller, frame[["model", "n_params"]]]))


def _steps(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of each step from one size to the next, from small to large."""
    between = pairwise(model for model, _ in sizes_of_steps(frame))
    return [frame[(frame["model_from"] == smaller) & (frame["model"] == larger)] for smaller, larger in between]


def _right(frame: pd.DataFrame) -> np.ndarray:
    """Right or wrong, ``(items, sizes)``, sizes from small to large."""
    kinds = [step.sort_values("item")["kind"] for step in _steps(frame) if len(step)]
    before, after = kinds[0].isin(("kept", "lost")), [kind.isin(("kept", "gained")) for kind in kinds]
    return np.column_stack([before, *after])


def steps_panel(flips: Table, ax: Axes, *, task: str | None = None) -> Axes:
    """``ax`` with two bars per step between sizes: items gained upwards, items lost downwards, with their numbers."""
    most = 1
    for i, step in enumerate(_steps(of_task(frame_of(flips, "flips"), task))):
        for kind, sign, colour, where in (("gained", 1, RIGHT, "bottom"), ("lost", -1, WRONG, "top")):
            n = int((step["kind"] == kind).sum())
            most = max(most, n)
            ax.bar(i + 0.5, sign * n, 0.6, color=colour)
            ax.annotate(str(n), (i + 0.5, sign * n), xytext=(0, 1.5 * sign), textcoords="offset points", ha="center",
                        va=where, fontsize=7)  # fmt: skip
    ax.axhline(0, color=style.BLACK, linewidth=0.7)
    ax.set_ylim(-1.45 * most, 1.45 * most)
    ax.set_yticks([])
    ax.set_ylabel("flips")
    ax.spines["left"].set_visible(False)
    return ax


@style.styled
def flips_over_size(flips: Table, *, width: float | None = None) -> PaperFigure:
    """A figure of which items are right at which size, and how many are gained and lost in each step; a column per
    task. What `flips` gives may stand for its table in it."""
    frame = frame_of(flips, "flips")
    tasks = tasks_of(frame)
    width = width or (style.ONE_COLUMN if len(tasks) == 1 else style.TWO_COLUMNS)
    figure = new_figure(width, 3.4)
    axes = figure.subplots(2, len(tasks), squeeze=False, height_ratios=(2.4, 1))
    for task, (above, below) in zip(tasks, axes.T, strict=True):
        flips_panel(flips, above, task=task)
        steps_panel(flips, below, task=task)
        labels = style.size_labels(sizes_of_steps(frame[frame["task"] == task]))
        for ax in (above, below):
            panels.category_axis(ax, labels, inches=width / len(tasks) - 0.6, label=False)
        above.set_xticks([])
        above.set_title(style.plain(task, int(width / len(tasks) * 12)))
    panels.label_outside(figure, x=panels.SIZE)
    handles = [Patch(color=RIGHT, label="right, gained"), Patch(color=WRONG, label="wrong, lost")]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure
