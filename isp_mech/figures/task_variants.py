"""Figures of a task's variants: a line per variant over size, a dose and its response, the rule that is followed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes

from isp_mech.errors import InputError
from isp_mech.figures.style import (
    BLUE,
    GREY,
    ONE_COLUMN,
    VERMILLION,
    PaperFigure,
    frame_of,
    new_figure,
    plain,
    size_axis,
    size_label,
    sizes_of,
    styled,
    tasks_of,
)
from isp_mech.tables import Table

MARKERS = "osD^vPX*"
RULE_COLOURS = {"by_answer": BLUE, "by_lure": VERMILLION, "by_neither": GREY}


def _side(curve: Table, side: str) -> pd.DataFrame:
    frame = frame_of(curve, "curve")
    rows = frame[frame["side"] == side]
    if not len(rows):
        found = ", ".join(sorted(set(frame["side"])))
        raise InputError("figure", [f"side {side!r}: expected one of {found}"])
    return rows


def _line(ax: Axes, x: np.ndarray, rows: pd.DataFrame, value: str, **look: str) -> None:
    low, high = (rows[f"{value}_{end}"].to_numpy(float) for end in ("lo", "hi"))
    ax.vlines(x, low, high, color=look["color"], linewidth=0.8)
    ax.plot(x, rows[value].to_numpy(float), **look)  # type: ignore[arg-type]


def _shades(n: int) -> list[str]:
    """Colours from light to dark, one for each place in an order."""
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["viridis_r"](shade)) for shade in np.linspace(0.15, 0.95, max(n, 2))][:n]


@styled
def variants_over_size(
    curve: Table, labels: Mapping[str, str] | None = None, *, side: str = "conflict", width: float = ONE_COLUMN
) -> PaperFigure:
    """A figure of accuracy on ``side`` over size, with intervals: a line per task of the table, darker for later.

    ``labels`` are the names to write, by task; tasks without one are left out. Guessing is dashed where
    every line has the same baseline. ``InputError`` where no task is named, or no row is of ``side``.
    """
    frame = _side(curve, side)
    tasks = [task for task in tasks_of(frame) if labels is None or task in labels]
    if not tasks:
        raise InputError(
            "figure", [f"labels of {', '.join(labels or ())}: expected some of {', '.join(tasks_of(frame))}"]
        )
    frame = frame[frame["task"].isin(tasks)]
    names = [plain(task if labels is None else labels[task]) for task in tasks]
    columns = 2 if max(map(len, names)) * 2 < 13 * width else 1
    figure = new_figure(width, 2.1 + 0.16 * -(-len(tasks) // columns))
    ax = figure.subplots()
    for i, (task, label, colour) in enumerate(zip(tasks, names, _shades(len(tasks)), strict=True)):
        rows = frame[frame["task"] == task].sort_values(["n_params", "model"])
        _line(ax, rows["n_params"].to_numpy(float), rows, "accuracy", color=colour, marker=MARKERS[i % 8], label=label)
    baselines = set(frame["baseline"])
    if len(baselines) == 1 and np.isfinite(frame["baseline"].iloc[0]):
        ax.axhline(baselines.pop(), color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1, label="guessing")
    ax.set_ylim(-0.03, 1.03)
    ax.set_ylabel(f"{side} accuracy")
    ax.grid(axis="y")
    size_axis(ax, list(frame["n_params"]), inches=width - 0.6)
    figure.legend(loc="outside upper center", ncols=columns)
    return figure


@styled
def dose_response(
    curve: Table, doses: Mapping[str, float], *, dose: str, side: str = "conflict", width: float = ONE_COLUMN
) -> PaperFigure:
    """A figure of accuracy on ``side`` over a dose, with intervals: a line per size, darker for larger.

    ``doses`` says how much of it each task of the table has, ``dose`` what it is; tasks that are not named
    there are left out. ``InputError`` where none is left.
    """
    frame = _side(curve, side)
    tasks = tasks_of(frame)
    frame = frame[frame["task"].isin(list(doses))]
    if not len(frame):
        raise InputError("figure", [f"doses of {', '.join(doses)}: expected some of {', '.join(tasks)}"])
    frame = frame.assign(dose=frame["task"].map(dict(doses)))
    figure = new_figure(width, 2.5)
    ax = figure.subplots()
    sizes = sizes_of(frame)
    for i, ((model, n_params), colour) in enumerate(zip(sizes, _shades(len(sizes)), strict=True)):
        rows = frame[frame["model"] == model].sort_values("dose")
        x, label = rows["dose"].to_numpy(float), size_label(n_params)
        _line(ax, x, rows, "accuracy", color=colour, marker=MARKERS[i % 8], label=label)
    ax.set_ylim(-0.03, 1.03)
    ax.set_xticks(sorted(set(frame["dose"])))
    ax.set_xlabel(plain(dose, int(18 * width)))
    ax.set_ylabel(f"{side} accuracy")
    ax.grid(axis="y")
    figure.legend(loc="outside upper center", ncols=3)
    return figure


@styled
def rules_over_size(rules: Table, labels: Mapping[str, str], *, width: float | None = None) -> PaperFigure:
    """A figure of the shares decided by one rule, the other, or neither, over size: a panel per task.

    ``labels`` name the rules: ``by_answer``, ``by_lure``, ``by_neither``, as ``{"by_answer": "expected value", ...}``.
    """
    frame = frame_of(rules, "rules")
    missing = [rule for rule in RULE_COLOURS if rule not in labels]
    if missing:
        raise InputError("figure", [f"labels: no name for {', '.join(missing)}"])
    tasks = tasks_of(frame)
    columns = min(len(tasks), 3)
    lines = -(-len(tasks) // columns)
    width = width or (ONE_COLUMN if columns == 1 else 2.3 * columns)
    figure = new_figure(width, 0.5 + 2.0 * lines)
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for i, ax in enumerate(panels.flat):
        if i >= len(tasks):
            ax.set_visible(False)
            continue
        rows = frame[frame["task"] == tasks[i]].sort_values(["n_params", "model"])
        for rule, marker in zip(RULE_COLOURS, MARKERS, strict=False):
            x, colour = rows["n_params"].to_numpy(float), RULE_COLOURS[rule]
            _line(ax, x, rows, rule, color=colour, marker=marker, label=plain(labels[rule]))
        ax.axhline(0, color=GREY, linewidth=0.7, zorder=1)
        ax.set_ylabel("share of pairs decided by it" if i % columns == 0 else "")
        ax.set_title(plain(tasks[i]) if len(tasks) > 1 else "")
        ax.grid(axis="y")
        size_axis(ax, list(rows["n_params"]), inches=width / columns - 0.6)
    handles, names = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=3)
    return figure
