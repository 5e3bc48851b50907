"""Figures of the override over sizes: a task's story, and what each class of heads has of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from isp_mech.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ONE_COLUMN,
    PURPLE,
    SHARE_COLOURS,
    SIDE_COLOURS,
    SKY,
    TWO_COLUMNS,
    VERMILLION,
    YELLOW,
    PaperFigure,
    category_axis,
    frame_of,
    new_figure,
    number,
    plain,
    size_labels,
    sizes_of,
    styled,
    tasks_of,
)
from isp_mech.tables import Table

CLASS_COLOURS = {
    "recall": VERMILLION, "suppression": PURPLE, "copying": BLUE, "induction": SKY, "opposing": GREEN,
    "mlp": YELLOW, "none": "#c4c4c4",
}  # fmt: skip


@styled
def story_over_size(story: Table, *, width: float = TWO_COLUMNS) -> PaperFigure:
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
        rows = frame[frame["task"] == task].sort_values(["n_params", "model"])
        for ax, panel in zip(line, (_outcome, _masses, _parts, _depths), strict=True):
            panel(rows, ax)
            category_axis(ax, size_labels(sizes_of(rows)), inches=width / 4 - 0.65, label=False)
        line[0].set_title(plain(task, 30) if len(tasks) > 1 else "", loc="left")
    figure.supxlabel("parameters without embeddings", fontsize=8)
    handles = {text: h for ax in axes[0] for h, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles=list(handles.values()), loc="outside upper center", ncols=4)
    return figure


def _outcome(rows: pd.DataFrame, ax: Axes) -> None:
    x = np.arange(len(rows))
    ax.plot(x, rows["accuracy"], color=SIDE_COLOURS["conflict"], marker="o", label="conflict accuracy")
    ax.plot(x, rows["overridden"], color=SHARE_COLOURS["lost"], marker="s", linestyle="--", label="share overridden")
    ax.set_ylim(-0.03, 1.03)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f} %"))
    ax.set_ylabel("of pairs")
    ax.grid(axis="y")


def _masses(rows: pd.DataFrame, ax: Axes) -> None:
    x = np.arange(len(rows))
    for name, sign, colour, text in (
        ("follow_mass", 1, BLUE, "towards the answer"),
        ("override_mass", -1, VERMILLION, "towards the lure"),
    ):
        middle, lo, hi = (sign * rows[f"{name}{end}"].to_numpy(float) for end in ("", "_lo", "_hi"))
        ax.bar(x, middle, 0.7, color=colour, label=text)
        ax.vlines(x, np.fmin(lo, hi), np.fmax(lo, hi), color="black", linewidth=0.8)
    ax.axhline(0, color="black", linewidth=0.7)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: number(v)))
    ax.set_ylabel("mass (nats)")


def _parts(rows: pd.DataFrame, ax: Axes) -> None:
    x, heads = np.arange(len(rows)), rows["attention_share"].to_numpy(float)
    ax.bar(x, heads, 0.7, color=SKY, label="in heads")
    ax.bar(x, 1 - heads, 0.7, bottom=heads, color=YELLOW, label="in MLPs")
    for at in x[np.isnan(heads)].tolist():
        ax.text(at, 0.5, "none", rotation=90, ha="center", va="center", color=GREY, fontsize=7)
    ax.set_ylim(0, 1)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f} %"))
    ax.set_ylabel("of the override mass")


def _depths(rows: pd.DataFrame, ax: Axes) -> None:
    x = np.arange(len(rows))
    ax.vlines(x, rows["depth_lo"], rows["depth_hi"], color=VERMILLION, linewidth=1)
    ax.plot(x, rows["depth"], color=VERMILLION, marker="o", linestyle="none", label="mean depth of the override mass")
    ax.plot(x, rows["onset"], color=GREY, marker="D", linestyle="none", label="override onset")
    ax.set_ylim(-0.03, 1.03)
    ax.set_yticks([0, 0.5, 1], ["0", "½", "1"])
    ax.set_ylabel("relative depth")
    ax.grid(axis="y")


@styled
def head_shares_over_size(shares: Table, *, width: float = ONE_COLUMN) -> PaperFigure:
    """A figure of what each class of heads, and the MLPs, have of the override mass: a stacked bar for each size.

    A panel for each task. Sizes without an override have no bar.
    """
    frame = frame_of(shares, "head_shares")
    tasks = tasks_of(frame)
    width = width if len(tasks) == 1 else TWO_COLUMNS
    figure = new_figure(width, 2.5)
    axes = figure.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
    for ax, task in zip(axes, tasks, strict=True):
        rows = frame[frame["task"] == task]
        sizes = sizes_of(rows)
        wide = rows.pivot(index="model", columns="class", values="share").loc[[model for model, _ in sizes]]
        x, bottom = np.arange(len(sizes)), np.zeros(len(sizes))
        for name in (name for name in CLASS_COLOURS if wide.get(name, pd.Series(dtype=float)).fillna(0).any()):
            height = wide[name].fillna(0).to_numpy(float)
            ax.bar(
                x, height, 0.8, bottom=bottom, color=CLASS_COLOURS[name], edgecolor="white", linewidth=0.5, label=name
            )
            bottom += height
        for at in x[bottom == 0].tolist():
            ax.text(at, 0.5, "none", rotation=90, ha="center", va="center", color=GREY, fontsize=7)
        category_axis(ax, size_labels(sizes), inches=width / len(tasks) - 0.7)
        ax.set_ylim(0, 1)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f} %"))
        ax.set_title(plain(task, 30) if len(tasks) > 1 else "")
    axes[0].set_ylabel("of the override mass")
    handles = {text: h for ax in axes for h, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles=list(handles.values()), loc="outside upper center", ncols=3 if width < 5 else 6)
    return figure
