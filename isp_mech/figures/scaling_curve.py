"""Figures whose x axis is model size: the scaling curve, the shares, the onset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from isp_mech.errors import InputError
from isp_mech.figures.style import (
    BLACK,
    GREY,
    ONE_COLUMN,
    SHARE_COLOURS,
    SIDE_COLOURS,
    SIDE_MARKERS,
    TWO_COLUMNS,
    PaperFigure,
    category_axis,
    frame_of,
    new_figure,
    plain,
    size_axis,
    size_labels,
    sizes_of,
    styled,
    tasks_of,
)
from isp_mech.scaling.published_results import human_agreement
from isp_mech.tables import Table

SIDES = ("conflict", "plain", "neutral", "item")
SHARES = ("follows", "overridden", "contrary", "lost")
LOW_COVERAGE = 1e-3


def curve_panel(
    curve: Table,
    ax: Axes,
    *,
    value: str = "accuracy",
    sides: Sequence[str] = SIDES,
    task: str | None = None,
    people: bool = True,
    inches: float = 2.8,
) -> Axes:
    """``ax`` with ``value`` (``accuracy``, or ``loss`` in nats) over size, one line and interval band per side.

    A point is hollow where mean coverage is under 1e-3 or an item is tied. The dashed line is what
    guessing gives; it is there only for accuracy, and only where the table's ``baseline`` is a number. That
    is where every class is as likely as the others before anything is read (A or B, Y or N). Completions that
    somebody wrote for an item (`part` and `pango`) are not: a model that knows nothing of the task still finds
    one of them likelier, so one half is nothing that ignorance would give, and no line is drawn.

    The dotted line, which ``people=False`` leaves out, is the share of people's answers that agree with the
    key, for the four tasks of the prize's first round: 100 %, on NeQA 98 %. It was measured on the prize's own
    items (Surge, reported by the organisers in the comments to their announcement of the winners, 2022).
    """
    frame = frame_of(curve, "curve")
    frame = frame[frame["task"] == (task or tasks_of(frame)[0])]
    for side in (s for s in SIDES if s in set(frame["side"]) & set(sides)):
        rows = frame[frame["side"] == side].sort_values(["n_params", "model"])
        x, y = rows["n_params"].to_numpy(float), rows[value].to_numpy(float)
        low, high = (rows[f"{value}_{end}"].to_numpy(float) for end in ("lo", "hi"))
        colour = SIDE_COLOURS[side]
        if len(x) > 1:
            ax.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        else:
            ax.vlines(x, low, high, color=colour, linewidth=1)
        ax.plot(x, y, color=colour, marker=SIDE_MARKERS[side], label=side)
        doubtful = _doubtful(rows)
        ax.plot(
            x[doubtful],
            y[doubtful],
            linestyle="none",
            marker=SIDE_MARKERS[side],
            markersize=5,
            markerfacecolor="white",
            markeredgecolor=colour,
            label="_doubtful",
            gid=f"doubtful-{side}",
        )
    if value == "accuracy":
        for baseline in sorted(set(frame.loc[frame["side"].isin(sides), "baseline"].dropna())):
            ax.axhline(baseline, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1, label="guessing")
        agreement = human_agreement(str(task or tasks_of(frame)[0])) if people else None
        if agreement is not None and {"conflict", "item"} & set(frame["side"]) & set(sides):
            ax.axhline(agreement, color=BLACK, linewidth=1, linestyle=(0, (1, 2)), zorder=1, label="people")
        ax.set_ylim(-0.03, 1.03)
    else:
        ax.set_ylim(bottom=0)
    ax.set_ylabel("accuracy" if value == "accuracy" else "loss (nats)")
    ax.grid(axis="y")
    size_axis(ax, list(frame["n_params"]), inches=inches)
    return ax


def _doubtful(rows) -> np.ndarray:
    return (rows["coverage"].to_numpy(float) < LOW_COVERAGE) | (rows["ties"].fillna(0).to_numpy(int) > 0)


@styled
def scaling_curve(
    curve: Table,
    *,
    sides: Sequence[str] = SIDES,
    values: Sequence[str] = ("accuracy", "loss"),
    people: bool = True,
    width: float = TWO_COLUMNS,
) -> PaperFigure:
    """A figure of accuracy and loss over model size: one line per side, one pair of panels per task.

    One task gives two panels beside each other (above each other where ``width`` is one column's);
    several tasks give one column of panels each. See ``curve_panel`` for marks. ``InputError`` where
    no row is of one of ``sides``.
    """
    frame = frame_of(curve, "curve")
    tasks = tasks_of(frame)
    if not set(frame["side"]) & set(sides):
        found = ", ".join(sorted(set(frame["side"])))
        raise InputError("figure", [f"found sides {found}, expected one of {', '.join(sides)}"])
    values = [value for value in values if frame[value].notna().any()]
    beside = len(tasks) == 1 and width > 5
    n_rows, n_columns = (1, len(values)) if beside else (len(values), len(tasks))
    figure = new_figure(width, 0.45 + n_rows * (2.0 if beside else 1.75))
    panels = figure.subplots(n_rows, n_columns, squeeze=False, sharey=False if beside else "row")
    inches = width / n_columns - 0.6
    for i, value in enumerate(values):
        for j, task in enumerate(tasks):
            ax = panels[0, i] if beside else panels[i, j]
            curve_panel(curve, ax, value=value, sides=sides, task=task, people=people, inches=inches)
            if not beside:
                ax.set_title(plain(task, int(width / n_columns * 13)) if i == 0 and len(tasks) > 1 else "")
                ax.set_xlabel("" if i < len(values) - 1 or len(tasks) > 1 else ax.get_xlabel())
                ax.set_ylabel(ax.get_ylabel() if j == 0 else "")
    if len(tasks) > 1:
        figure.supxlabel("parameters without embeddings", fontsize=8)
    handles = {h.get_label(): h for ax in panels.flat for h in ax.get_legend_handles_labels()[0]}
    drawn = frame[frame["side"].isin(sides)]
    if _doubtful(drawn).any():
        handles["hollow: low coverage or ties"] = Line2D(
            [],
            [],
            linestyle="none",
            marker="o",
            markerfacecolor="white",
            markeredgecolor=BLACK,
            label="hollow: low coverage or ties",
        )
    figure.legend(handles=list(handles.values()), loc="outside upper center", ncols=5 if width > 5 else 2)
    return figure


def shares_panel(
    shares: Table, ax: Axes, *, task: str | None = None, inches: float = 2.2, label_shares: bool = True
) -> Axes:
    """``ax`` with one stacked bar per size: the shares of pairs followed, overridden, contrary and lost.

    Shares of 0.09 or more are written inside; the names stand at the right, joined to the last bar.
    """
    frame = frame_of(shares, "shares")
    frame = frame[frame["task"] == (task or tasks_of(frame)[0])].sort_values(["n_params", "model"])
    x, bottom = np.arange(len(frame)), np.zeros(len(frame))
    middles = []
    for share in SHARES:
        height = frame[share].to_numpy(float)
        ax.bar(
            x, height, 0.84, bottom=bottom, color=SHARE_COLOURS[share], edgecolor="white", linewidth=0.6, label=share
        )
        for at, low, tall in zip(x.tolist(), bottom.tolist(), height.tolist(), strict=True):
            if tall >= 0.09 and inches / len(frame) > 0.3:
                ax.text(
                    at,
                    low + tall / 2,
                    f"{100 * tall:.0f}",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if share in ("follows", "overridden") else BLACK,
                )
        middles.append(float(bottom[-1] + height[-1] / 2))
        bottom = bottom + height
    ax.set_ylim(0, 1)
    ax.set_ylabel("share of pairs")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f} %"))
    category_axis(ax, size_labels(sizes_of(frame)), inches=inches)
    if label_shares:
        for share, middle, place in zip(SHARES, middles, _spread(middles, 0.1), strict=True):
            edge = len(frame) - 1 + 0.42
            step = 0.045 * len(frame)
            ax.plot(
                [edge, edge + step, edge + 2 * step],
                [middle, place, place],
                color=SHARE_COLOURS[share],
                linewidth=1.2,
                clip_on=False,
                label="_leader",
            )
            ax.annotate(
                share,
                (edge + 2 * step, place),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
                annotation_clip=False,
            )
    return ax


def _spread(places: Sequence[float], gap: float, low: float = 0.04, high: float = 0.96) -> list[float]:
    """``places`` (ascending) moved as little as needed to stand ``gap`` apart between ``low`` and ``high``."""
    out = [max(low, p) for p in places]
    for i in range(1, len(out)):
        out[i] = max(out[i], out[i - 1] + gap)
    out[-1] = min(out[-1], high)
    for i in range(len(out) - 2, -1, -1):
        out[i] = min(out[i], out[i + 1] - gap)
    return out


@styled
def shares_over_size(shares: Table, *, width: float | None = None) -> PaperFigure:
    """A figure of what each size does with the pairs: follows, overridden, contrary, lost; one panel per task."""
    frame = frame_of(shares, "shares")
    tasks = tasks_of(frame)
    width = width or (ONE_COLUMN if len(tasks) == 1 else TWO_COLUMNS)
    n_columns = min(len(tasks), 3)
    n_rows = -(-len(tasks) // n_columns)
    figure = new_figure(width, 2.4 * n_rows)
    panels = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True)
    for i, ax in enumerate(panels.flat):
        if i >= len(tasks):
            ax.set_axis_off()
            continue
        last = i % n_columns == n_columns - 1 or i == len(tasks) - 1
        shares_panel(shares, ax, task=tasks[i], inches=width / n_columns - 1.1, label_shares=last)
        ax.set_title(plain(tasks[i]) if len(tasks) > 1 else "")
        ax.set_ylabel(ax.get_ylabel() if i % n_columns == 0 else "")
    return figure


@styled
def onset_over_size(onset: Table, *, width: float = ONE_COLUMN) -> PaperFigure:
    """A figure of the relative depth at which the override sets in, with interval, over size; a line per task.

    Sizes without an onset have no point. Under each point: the share of pairs that have an onset.
    """
    frame = frame_of(onset, "onset")
    frame = frame[frame["side"] == "conflict"]
    figure = new_figure(width, 2.3)
    ax = figure.subplots()
    tasks = tasks_of(frame)
    colours = list(SIDE_COLOURS.values()) + list(SHARE_COLOURS.values())
    for task, colour in zip(tasks, colours * len(tasks), strict=False):
        rows = frame[(frame["task"] == task)].sort_values(["n_params", "model"])
        x, y = rows["n_params"].to_numpy(float), rows["onset"].to_numpy(float)
        low, high = rows["onset_lo"].to_numpy(float), rows["onset_hi"].to_numpy(float)
        ax.vlines(x, low, high, color=colour, linewidth=1)
        ax.plot(x, y, color=colour, marker="o", label=plain(task))
        if len(tasks) == 1:
            for at, mid, top, k, n in zip(x, y, high, rows["n_onset"], rows["n"], strict=True):
                if np.isfinite(mid):
                    ax.annotate(
                        f"{100 * k / n:.0f} %",
                        (at, top if np.isfinite(top) else mid),
                        xytext=(0, 3),
                        textcoords="offset points",
                        ha="center",
                        fontsize=7,
                    )
    ax.set_ylim(0, 1.08)
    ax.set_ylabel("onset (relative depth)")
    ax.grid(axis="y")
    size_axis(ax, list(frame["n_params"]), inches=width - 0.6)
    if not np.isfinite(frame["onset"].to_numpy(float)).any():
        ax.text(0.5, 0.5, "no size has an onset", transform=ax.transAxes, ha="center", color=GREY)
    if len(tasks) > 1:
        figure.legend(loc="outside upper center", ncols=2)
    else:
        ax.set_title("written: share of pairs with an onset", fontsize=7, color="#555555")
    return figure
