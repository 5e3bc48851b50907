"""What several figures have in common: grids of panels, legends, axes, lines with intervals, bars and maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, NullLocator

from isp_mech.figures import style
from isp_mech.figures.paper_figure import PaperFigure, new_figure

SIZE = "parameters without embeddings"


# --- the grid and what stands around it -----------------------------------------------------------


def panel_rows(
    n: int,
    columns: int,
    *,
    width: float,
    height: float,
    row_height: float,
    sharey: bool = True,
    width_ratios: Sequence[float] | None = None,
) -> tuple[PaperFigure, list[Axes]]:
    """A figure and its ``n`` panels in reading order, at most ``columns`` in a row; places left over stay empty.

    It is ``height`` inches high and ``row_height`` for each row.
    """
    columns = min(n, columns)
    rows = -(-n // columns)
    figure = new_figure(width, height + row_height * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=sharey, width_ratios=width_ratios)
    for ax in panels.flat[n:]:
        ax.set_axis_off()
    return figure, list(panels.flat[:n])


def label_outside(figure: Figure, *, x: str = "", legend: int = 0, more: Sequence[Artist] = (),
                  left_only: bool = True) -> None:  # fmt: skip
    """``x`` below all panels, y labels with ``left_only`` on the first of each row alone, and above a legend of
    ``legend`` columns: whatever is labelled in any panel, once, and then ``more``."""
    if x:
        figure.supxlabel(x)
    for ax in figure.axes if left_only else ():
        place = ax.get_subplotspec()
        if place is not None and not place.is_first_col():
            ax.set_ylabel("")
    handles = {h.get_label(): h for ax in figure.axes for h in ax.get_legend_handles_labels()[0]}
    if legend:
        figure.legend(handles=[*handles.values(), *more], loc="outside upper center", ncols=legend)


def mark(label: str, *, marker: str = "o", color: str = style.BLACK, face: str | None = None,
         size: float = 4) -> Line2D:  # fmt: skip
    """A marker for a legend, hollow where ``face`` is white."""
    return Line2D([], [], linestyle="none", marker=marker, markersize=size, color=color,
                  markerfacecolor=face or color, label=label)  # fmt: skip


# --- axes -----------------------------------------------------------------------------------------


def size_axis(ax: Axes, n_params: Iterable[float], *, inches: float) -> None:
    """A log axis with a tick at every size; labels that would touch (``inches`` of axis to share) are left out."""
    sizes = sorted(set(n_params))
    ax.set_xscale("log")
    low, high = (sizes[0] / 3, sizes[0] * 3) if len(sizes) == 1 else (sizes[0], sizes[-1])
    room = (high / low) ** (0.06 if len(sizes) > 1 else 0)
    ax.set_xlim(low / room, high * room)
    gap = 0.36 * np.log(high / low * room**2) / inches
    shown: list[str] = []
    last, end = -np.inf, np.log(sizes[-1])
    for size in sizes:
        here = np.log(size)
        free = here - last >= gap and (end - here >= gap or size == sizes[-1])
        shown.append(style.size_label(size) if free else "")
        last = here if free else last
    fixed_ticks(ax.xaxis, sizes, shown)
    ax.set_xlabel(SIZE)


def fixed_ticks(axis: Axis, places: Sequence[float], labels: Sequence[str]) -> None:
    """Ticks at these places alone, also on a log axis."""
    axis.set_major_locator(FixedLocator(places))
    axis.set_major_formatter(FixedFormatter(labels))
    axis.set_minor_locator(NullLocator())


def category_axis(ax: Axes, labels: Sequence[str], *, inches: float, label: bool = True) -> None:
    """An axis with one place per size, evenly spaced; labels turn where they would touch."""
    longest = max(len(line) for text in labels for line in text.split("\n"))
    turned = longest * 0.062 * len(labels) > inches
    ax.set_xticks(range(len(labels)), labels, rotation=90 if turned else 0)
    ax.set_xlim(-0.6, len(labels) - 0.4)
    if label:
        ax.set_xlabel(SIZE)


def accuracy_axis(ax: Axes, label: str = "accuracy") -> None:
    """A y axis from 0 to 1 with room for markers at both ends."""
    ax.set_ylim(-0.03, 1.03)
    ax.set_ylabel(label)
    ax.grid(axis="y")


def percent_axis(axis: Axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))


def number_axis(axis: Axis, digits: int = 6) -> None:
    """Short numbers with a true minus sign."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: style.number(value, digits)))


def depth_ticks(ax: Axes, axis: Literal["x", "y"] = "x") -> None:
    """Nought, one half and one."""
    (ax.set_xticks if axis == "x" else ax.set_yticks)([0, 0.5, 1], ["0", "½", "1"])


# --- lines, bars, maps ----------------------------------------------------------------------------


def line_over(
    ax: Axes,
    rows: pd.DataFrame,
    x: str,
    y: str,
    *,
    color: str,
    marker: str,
    label: str,
    size: float = 4,
    band: bool = True,
) -> None:
    """Column ``y`` over column ``x`` with its 95 % interval (``y_lo``, ``y_hi``): a band, or a bar at each point."""
    at, value, low, high = (rows[c].to_numpy(float) for c in (x, y, f"{y}_lo", f"{y}_hi"))
    interval(ax, at, low, high, color=color, band=band)
    ax.plot(at, value, color=color, marker=marker, markersize=size, label=label)


def lines_over(ax: Axes, groups: Sequence[tuple[str, pd.DataFrame]], x: str, y: str) -> None:
    """A line with intervals for each label and its rows, darker and with another marker for later ones."""
    for i, ((label, rows), colour) in enumerate(zip(groups, style.shades(len(groups)), strict=True)):
        line_over(ax, rows, x, y, color=colour, marker=style.LINE_MARKERS[i % 8], label=label, band=False)


def interval(ax: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, *, color: str, band: bool = True) -> None:
    """An interval over ``x``: a band where there are several points, a bar where there is one."""
    if band and len(x) > 1:
        ax.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
    else:
        ax.vlines(x, low, high, color=color, linewidth=1)


def guessing(ax: Axes, baselines: Iterable[float]) -> None:
    """A dashed line at each accuracy that guessing gives; none where it is missing."""
    for baseline in sorted({b for b in baselines if np.isfinite(b)}):
        ax.axhline(baseline, color=style.GREY, linewidth=1, linestyle=style.DASHES, zorder=1, label="guessing")


def stacked_bars(ax: Axes, shares: Mapping[str, np.ndarray], colours: Mapping[str, str], *, width: float = 0.8) -> None:
    """One bar for each place, of these shares from the bottom up; "none" where they are all zero."""
    bottom = np.zeros(len(next(iter(shares.values()))))
    x = np.arange(len(bottom))
    for name, height in shares.items():
        ax.bar(x, height, width, bottom=bottom, color=colours[name], edgecolor="white", linewidth=0.6, label=name)
        bottom = bottom + height
    for at in x[bottom == 0].tolist():
        ax.text(at, 0.5, "none", rotation=90, ha="center", va="center", color=style.GREY, fontsize=7)
    ax.set_ylim(0, 1)
    percent_axis(ax.yaxis)


def heat_map(ax: Axes, values: np.ndarray, *, cmap: Any, norm: Normalize, left: float = 0.0, cell: float = 1.0,
             gap: float = 0.6) -> None:  # fmt: skip
    """Cells of colour, rows upwards from 0 and columns from ``left``, with white lines of ``gap`` points between."""
    columns, rows = left + cell * np.arange(values.shape[1] + 1), np.arange(len(values) + 1)
    ax.pcolormesh(columns, rows, values, cmap=cmap, norm=norm, edgecolors="white" if gap else "none", linewidth=gap)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def colour_bar(figure: Figure, panels: Sequence[Axes], *, cmap: Any, norm: Normalize, label: str, aspect: float,
               pad: float, digits: int = 6) -> Colorbar:  # fmt: skip
    """The scale of the heat maps in ``panels``, at their right."""
    bar = figure.colorbar(ScalarMappable(norm, cmap), ax=list(panels), aspect=aspect, pad=pad, label=label)
    bar.outline.set_visible(False)
    number_axis(bar.ax.yaxis, digits)
    return bar
