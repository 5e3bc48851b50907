"""Figures of flips: which items each size is right on, and what the lost ones have more of."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from isp_mech.figures.style import (
    BLACK,
    BLUE,
    GREY,
    ONE_COLUMN,
    TWO_COLUMNS,
    VERMILLION,
    PaperFigure,
    category_axis,
    frame_of,
    new_figure,
    plain,
    size_labels,
    styled,
    tasks_of,
)
from isp_mech.stats import LEVEL
from isp_mech.tables import Table


def flips_panel(flips: Table, ax: Axes, *, task: str | None = None) -> Axes:
    """``ax`` with a row per item and a column per size: blue where the size is right, orange-red where it is wrong.

    Items stand in order of what they do: right at the smallest size first, then at the next, and so on.
    """
    frame = frame_of(flips, "flips")
    frame = frame[frame["task"] == (task or tasks_of(frame)[0])]
    right = _right(frame)
    right = right[np.lexsort(right.T[::-1])[::-1]]
    ax.pcolormesh(
        np.arange(right.shape[1] + 1) - 0.5, np.arange(len(right) + 1), right,
        cmap=ListedColormap([VERMILLION, BLUE]), vmin=0, vmax=1, rasterized=True,
    )  # fmt: skip
    for edge in np.arange(1, right.shape[1]) - 0.5:
        ax.axvline(edge, color="white", linewidth=1.5)
    ax.set_ylim(len(right), 0)
    ax.set_ylabel("items")
    return ax


def _right(frame) -> np.ndarray:
    """Right or wrong, ``(items, sizes)``, sizes from small to large."""
    steps = frame[["n_params_from", "n_params", "model_from", "model"]].drop_duplicates()
    steps = steps.sort_values(["n_params_from", "n_params"], kind="stable")
    columns = []
    for i, (smaller, larger) in enumerate(zip(steps["model_from"], steps["model"], strict=True)):
        step = frame[(frame["model_from"] == smaller) & (frame["model"] == larger)].sort_values("item")
        if i == 0:
            columns.append(step["kind"].isin(("kept", "lost")).to_numpy())
        columns.append(step["kind"].isin(("kept", "gained")).to_numpy())
    return np.column_stack(columns)


def _sizes(frame) -> list[tuple[str, int]]:
    both = [
        *zip(frame["model_from"], frame["n_params_from"], strict=True),
        *zip(frame["model"], frame["n_params"], strict=True),
    ]
    return sorted({(str(m), int(n)) for m, n in both}, key=lambda size: (size[1], size[0]))


def steps_panel(flips: Table, ax: Axes, *, task: str | None = None) -> Axes:
    """``ax`` with two bars per step between sizes: items gained upwards, items lost downwards, with their numbers."""
    frame = frame_of(flips, "flips")
    frame = frame[frame["task"] == (task or tasks_of(frame)[0])]
    sizes = [name for name, _ in _sizes(frame)]
    most = 1
    for i, (smaller, larger) in enumerate(zip(sizes, sizes[1:], strict=False)):
        kinds = frame[(frame["model_from"] == smaller) & (frame["model"] == larger)]["kind"]
        gained, lost = int((kinds == "gained").sum()), int((kinds == "lost").sum())
        most = max(most, gained, lost)
        ax.bar(i + 0.5, gained, 0.6, color=BLUE)
        ax.bar(i + 0.5, -lost, 0.6, color=VERMILLION)
        for height, number, where in ((gained, gained, "bottom"), (-lost, lost, "top")):
            ax.annotate(str(number), (i + 0.5, height), xytext=(0, 1.5 if height >= 0 and where == "bottom" else -1.5),
                        textcoords="offset points", ha="center", va=where, fontsize=7)  # fmt: skip
    ax.axhline(0, color=BLACK, linewidth=0.7)
    ax.set_ylim(-1.45 * most, 1.45 * most)
    ax.set_yticks([])
    ax.set_ylabel("flips")
    ax.spines["left"].set_visible(False)
    return ax


@styled
def flips_over_size(flips: Table, *, width: float | None = None) -> PaperFigure:
    """A figure of which items are right at which size, and how many are gained and lost in each step; a column per
    task. What `flips` gives may stand for its table in it."""
    frame = frame_of(flips, "flips")
    tasks = tasks_of(frame)
    width = width or (ONE_COLUMN if len(tasks) == 1 else TWO_COLUMNS)
    figure = new_figure(width, 3.4)
    panels = figure.subplots(2, len(tasks), squeeze=False, height_ratios=(2.4, 1))
    for j, task in enumerate(tasks):
        above, below = panels[:, j]
        flips_panel(flips, above, task=task)
        steps_panel(flips, below, task=task)
        labels = size_labels(_sizes(frame[frame["task"] == task]))
        for ax in (above, below):
            category_axis(ax, labels, inches=width / len(tasks) - 0.6, label=ax is below and len(tasks) == 1)
        above.set_xticks([])
        above.set_title(plain(task, int(width / len(tasks) * 12)))
        for ax in (above, below):
            ax.set_ylabel(ax.get_ylabel() if j == 0 else "")
    if len(tasks) > 1:
        figure.supxlabel("parameters without embeddings", fontsize=8)
    handles = [Patch(color=BLUE, label="right, gained"), Patch(color=VERMILLION, label="wrong, lost")]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def flip_traces_panel(flip_traces: Table, ax: Axes, *, model: str, task: str | None = None) -> Axes:
    """``ax`` with a dot per feature for the step up to ``model``: the probability that a lost item has more of it than
    a kept one, with its 95 % interval; hollow where q is over 0.05."""
    frame = frame_of(flip_traces, "flip_traces")
    frame = frame[(frame["task"] == (task or tasks_of(frame)[0])) & (frame["model"] == model)]
    features = list(dict.fromkeys(frame_of(flip_traces, "flip_traces")["feature"]))
    ax.axvline(0.5, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    numbers = frame[["auc", "auc_lo", "auc_hi", "q"]].to_numpy(float)
    for feature, (value, low, high, q) in zip(frame["feature"], numbers, strict=True):
        y, colour = features.index(feature), VERMILLION if value > 0.5 else BLUE
        ax.plot([low, high], [y, y], color=BLACK, linewidth=1)
        face = colour if q <= LEVEL else "white"
        ax.plot([value], [y], marker="o", color=colour, markerfacecolor=face, linestyle="none")
    ax.set_xlim(-0.04, 1.04)
    ax.set_xticks([0, 0.5, 1], ["0", "½", "1"])
    ax.set_ylim(len(features) - 0.5, -0.5)
    ax.set_yticks(range(len(features)), [plain(name, 30) for name in features])
    ax.grid(axis="x")
    return ax


@styled
def flip_traces(flip_traces: Table, *, width: float = TWO_COLUMNS, most: int = 5) -> PaperFigure:
    """A figure of what lost items have more of (right of the line) or less of (left) than kept ones.

    A row of panels per task, a panel per step; the ``most`` steps that lose the most items where there are more.
    """
    frame = frame_of(flip_traces, "flip_traces")
    tasks = tasks_of(frame)
    steps = {task: _largest_steps(frame[frame["task"] == task], most) for task in tasks}
    columns, features = max(len(s) for s in steps.values()), frame["feature"].nunique()
    figure = new_figure(width, 0.5 + len(tasks) * (0.45 + 0.2 * features))
    panels = figure.subplots(len(tasks), columns, squeeze=False, sharex=True, sharey=True)
    for line, task in zip(panels, tasks, strict=True):
        labels = dict(zip((name for name, _ in _sizes(frame[frame["task"] == task])),
                          size_labels(_sizes(frame[frame["task"] == task])), strict=True))  # fmt: skip
        for j, ax in enumerate(line):
            if j >= len(steps[task]):
                ax.set_axis_off()
                continue
            smaller, larger, lost = steps[task][j]
            flip_traces_panel(flip_traces, ax, model=larger, task=task)
            first = f"{plain(task, 24)}\n" if len(tasks) > 1 and j == 0 else ""
            ax.set_title(f"{first}{labels[smaller]} to {labels[larger]}\n{lost} lost")
    figure.supxlabel("probability that a lost item has more of it than a kept one", fontsize=8)
    return figure


def _largest_steps(frame, most: int) -> list[tuple[str, str, int]]:
    steps = frame.groupby(["n_params_from", "n_params", "model_from", "model"], sort=True)["n_lost"].max().reset_index()
    kept = steps.nlargest(most, "n_lost").sort_values(["n_params_from", "n_params"])
    columns = (kept["model_from"], kept["model"], kept["n_lost"])
    return [(str(smaller), str(larger), int(n)) for smaller, larger, n in zip(*columns, strict=True)]
