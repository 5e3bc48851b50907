"""What each size does with the pairs: follows, is overridden, contrary or lost."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from isp_mech.figures import panels, style
from isp_mech.figures.frames import by_size, frame_of, of_task, sizes_of, tasks_of
from isp_mech.figures.paper_figure import PaperFigure
from isp_mech.tables import Table


def shares_panel(
    shares: Table, ax: Axes, *, task: str | None = None, inches: float = 2.2, label_shares: bool = True
) -> Axes:
    """``ax`` with one stacked bar per size: the shares of pairs followed, overridden, contrary and lost.

    Shares of 0.09 or more are written inside; the names stand at the right, joined to the last bar.
    """
    frame = by_size(of_task(frame_of(shares, "shares"), task))
    heights = {share: frame[share].to_numpy(float) for share in style.SHARE_COLOURS}
    panels.stacked_bars(ax, heights, style.SHARE_COLOURS, width=0.84)
    ax.set_ylabel("share of pairs")
    panels.category_axis(ax, style.size_labels(sizes_of(frame)), inches=inches)
    middles = []
    for bars in ax.containers:
        middles.append(bars[-1].get_y() + bars[-1].get_height() / 2)
        colour = "white" if bars.get_label() in ("follows", "overridden") else style.BLACK
        for at, bar in enumerate(bars if inches / len(frame) > 0.3 else ()):
            if bar.get_height() >= 0.09:
                ax.text(at, bar.get_y() + bar.get_height() / 2, f"{100 * bar.get_height():.0f}", ha="center",
                        va="center", fontsize=7, color=colour)  # fmt: skip
    if label_shares:
        edge, step = len(frame) - 1 + 0.42, 0.045 * len(frame)
        for share, middle, place in zip(style.SHARE_COLOURS, middles, _spread(middles, 0.1), strict=True):
            ax.plot([edge, edge + step, edge + 2 * step], [middle, place, place], color=style.SHARE_COLOURS[share],
                    linewidth=1.2, clip_on=False, label="_leader")  # fmt: skip
            ax.annotate(share, (edge + 2 * step, place), xytext=(3, 0), textcoords="offset points", va="center",
                        fontsize=7.5, annotation_clip=False)  # fmt: skip
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


@style.styled
def shares_over_size(shares: Table, *, width: float | None = None) -> PaperFigure:
    """A figure of what each size does with the pairs: follows, overridden, contrary, lost; one panel per task."""
    tasks = tasks_of(frame_of(shares, "shares"))
    width = width or (style.ONE_COLUMN if len(tasks) == 1 else style.TWO_COLUMNS)
    columns = min(len(tasks), 3)
    figure, axes = panels.panel_rows(len(tasks), columns, width=width, height=0, row_height=2.4)
    for i, (task, ax) in enumerate(zip(tasks, axes, strict=True), 1):
        last = i % columns == 0 or i == len(tasks)
        shares_panel(shares, ax, task=task, inches=width / columns - 1.1, label_shares=last)
        ax.set_title(style.plain(task) if len(tasks) > 1 else "")
    panels.label_outside(figure)
    return figure
