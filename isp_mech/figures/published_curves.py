"""Figures of published numbers beside one's own: families over size, and checkpoints over training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from isp_mech.errors import InputError
from isp_mech.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    TWO_COLUMNS,
    VERMILLION,
    PaperFigure,
    frame_of,
    new_figure,
    plain,
    size_axis,
    size_label,
    styled,
    tasks_of,
)
from isp_mech.tables import Table

OVER = {
    "parameters": ("n_params", "parameters without embeddings"),
    "tokens": ("tokens", "training tokens"),
    "FLOPs": ("flops", "training FLOPs"),
}
_LINES = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK, GREY)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def observations_panel(
    observations: Table, ax: Axes, *, task: str | None = None, over: str = "parameters", inches: float = 2.2
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
    lines = _named_lines(frame, over)
    frame = frame[frame["task"] == (task or tasks_of(frame)[0])]
    frame = frame[frame[column].notna()]
    for key, (name, colour, marker) in lines.items():
        rows = _rows_of(frame, over, key).sort_values(column)
        x, y, low, high = (rows[c].to_numpy(float) for c in (column, "accuracy", "accuracy_lo", "accuracy_hi"))
        if len(x) > 1:
            ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        ax.plot(x, y, color=colour, marker=marker, markersize=3, label=name)
    for baseline in sorted(set(frame["baseline"].dropna())):
        ax.axhline(baseline, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1, label="guessing")
    ax.set_ylim(-0.03, 1.03)
    ax.set_ylabel("accuracy")
    ax.grid(axis="y")
    if over == "parameters" and len(frame):
        size_axis(ax, [int(n) for n in frame[column]], inches=inches)
    elif len(frame):
        _power_axis(ax, frame[column].to_numpy(float), label, inches=inches)
    return ax


def _named_lines(frame, over: str) -> dict[tuple, tuple[str, object, str]]:
    """What is one line, with its name in the legend, its colour and its marker."""
    if over == "tokens":
        sizes = frame[["n_params", "family", "model"]].drop_duplicates().sort_values(["n_params", "model"])
        shades = colormaps["viridis_r"](np.linspace(0.08, 1.0, len(sizes)))
        several = sizes["family"].nunique() > 1
        return {
            (family, model): (plain(model if several else size_label(n), 24), tuple(shade), _MARKERS[0])
            for (n, family, model), shade in zip(sizes.itertuples(index=False), shades, strict=True)
        }
    kinds = frame[["family", "side", "revision"]].drop_duplicates()
    several = {name: kinds[name].nunique() > 1 for name in kinds}
    lines: dict[tuple, tuple[str, object, str]] = {}
    for i, (family, side, revision) in enumerate(kinds.itertuples(index=False)):
        told = [family, side if several["side"] else "", revision if several["revision"] else ""]
        name = plain(" ".join(part for part in told if part), 40)
        lines[(family, side, revision)] = (name, _LINES[i % len(_LINES)], _MARKERS[i % len(_MARKERS)])
    return lines


def _rows_of(frame, over: str, key: tuple):
    names = ("family", "model") if over == "tokens" else ("family", "side", "revision")
    kept = np.logical_and.reduce([frame[name] == value for name, value in zip(names, key, strict=True)])
    return frame[kept]


def _power_axis(ax: Axes, values: np.ndarray, label: str, *, inches: float) -> None:
    """A log axis with powers of ten, as many as ``inches`` have room for."""
    low, high = float(values.min()), float(values.max())
    room = (high / low) ** 0.06 if high > low else 3.0
    ax.set_xscale("log")
    ax.set_xlim(low / room, high * room)
    first, last = int(np.ceil(np.log10(low / room))), int(np.floor(np.log10(high * room)))
    step = max(1, int(np.ceil((last - first + 1) * 0.35 / inches)))
    powers = range(first, last + 1, step)
    ax.xaxis.set_major_locator(FixedLocator([10.0**p for p in powers]))
    ax.xaxis.set_major_formatter(FixedFormatter([f"10{str(p).translate(_RAISED)}" for p in powers]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(label)


@styled
def published_curves(
    observations: Table,
    *,
    over: str = "parameters",
    tasks: Sequence[str] | None = None,
    n_columns: int = 4,
    same_scale: bool = True,
    width: float = TWO_COLUMNS,
) -> PaperFigure:
    """A figure of accuracy over size, training tokens or FLOPs in a table "observations", a panel per task.

    What `published` gives may stand for that table in it; `concat` with `observations_of` puts one's own
    families beside. See ``observations_panel``. With ``same_scale=False`` each panel's accuracy reaches over its own
    task's numbers only. ``InputError`` for tasks that are not there, or where
    no row has a number for ``over``.
    """
    frame = frame_of(observations, "observations")
    shown = list(tasks) if tasks is not None else tasks_of(frame)
    problems = [
        f"task {task!r}: expected some of {', '.join(tasks_of(frame))}" for task in set(shown) - set(frame["task"])
    ]
    if over not in OVER:
        problems.append(f"over {over!r}: expected one of {', '.join(OVER)}")
    elif frame[OVER[over][0]].isna().all():
        problems.append(f"no row has {OVER[over][0]}: nothing can be drawn over {over}")
    if problems or not shown:
        raise InputError("figure", problems or ["no tasks: expected at least one"])
    columns = min(n_columns, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(width, 0.6 + 1.55 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=same_scale)
    for i, ax in enumerate(panels.flat):
        if i >= len(shown):
            ax.set_axis_off()
            continue
        observations_panel(observations, ax, task=shown[i], over=over, inches=width / columns - 0.5)
        ax.set_title(plain(shown[i], int(width / columns * 13)))
        ax.set_ylabel(ax.get_ylabel() if i % columns == 0 else "")
        ax.set_xlabel("")
        if not same_scale:
            _own_scale(ax, frame[frame["task"] == shown[i]])
    figure.supxlabel(OVER[over][1], fontsize=8)
    handles = {h.get_label(): h for ax in panels.flat for h in ax.get_legend_handles_labels()[0]}
    longest = max(len(name) for name in handles)
    figure.legend(
        handles=list(handles.values()), loc="outside upper center", ncols=max(1, int(width / (0.5 + 0.065 * longest)))
    )
    return figure


def _own_scale(ax: Axes, rows) -> None:
    """Limits that hold every number and interval, at least a tenth apart."""
    ends = rows[["accuracy", "accuracy_lo", "accuracy_hi", "baseline"]].to_numpy(float)
    low, high = float(np.nanmin(ends)), float(np.nanmax(ends))
    room = max(0.05 * (high - low), 0.05 - (high - low) / 2)
    ax.set_ylim(low - room, high + room)
