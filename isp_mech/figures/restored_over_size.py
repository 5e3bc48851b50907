"""Accuracy over model size as it is, and with the best change that restores prompt-following."""

from __future__ import annotations

from matplotlib.axes import Axes

from isp_mech.figures import panels, style
from isp_mech.figures.frames import frame_of, sizes_of, tasks_of
from isp_mech.figures.paper_figure import PaperFigure, new_figure
from isp_mech.figures.restored_rows import GUESSING, Needs, best_change, restored_rows
from isp_mech.figures.verification import COLUMNS, JudgedSide
from isp_mech.tables import Table

AS_IT_IS = "as it is"
LABELS: dict[Needs, str] = {
    "roles": "best change that needs the spans of roles",
    "nothing": "best that needs nothing of the prompt",
}  # fmt: skip
LOOKS: dict[Needs, tuple[str, str, float]] = {
    "roles": (style.BLUE, "s", -0.12), "nothing": (style.VERMILLION, "o", 0.12),
}  # fmt: skip


def restored_panel(
    restoration: Table, ax: Axes, *, side: JudgedSide = "conflict", task: str | None = None, inches: float = 2.7
) -> Axes:
    """``ax`` with accuracy on one side over size: as it is, and with the best change that counts as restoring, of those
    that need the spans of roles and of those that need nothing of a prompt. No mark where there is none."""
    rows = restored_rows(restoration, task)
    sizes = sizes_of(rows)
    by_model = [rows[rows["model"] == model] for model, _ in sizes]
    before = [float(some[f"{side}_before"].mean()) for some in by_model]
    ax.plot(range(len(sizes)), before, color=style.GREY, marker="o", markersize=6, markerfacecolor="white",
            label=AS_IT_IS, zorder=2)  # fmt: skip
    for needs, label in LABELS.items():
        colour, marker, shift = LOOKS[needs]
        found = {place: best for place, some in enumerate(by_model) if (best := best_change(some, needs)) is not None}
        for place, best in found.items():
            at = place + shift
            ax.vlines(at, best[f"{side}_after_lo"], best[f"{side}_after_hi"], color=colour, linewidth=1)
            ax.plot([at], [best[f"{side}_after"]], linestyle="none", marker=marker, color=colour, label=label, zorder=3)
    if side == "conflict":
        ax.axhline(GUESSING, color=style.GREY, linewidth=1, linestyle=style.DASHES, zorder=1, label="guessing")
    panels.category_axis(ax, style.size_labels(sizes), inches=inches, label=False)
    panels.accuracy_axis(ax, f"{side} accuracy")
    return ax


@style.styled
def restored_over_size(restoration: Table, *, width: float = style.TWO_COLUMNS) -> PaperFigure:
    """A figure of held-out conflict and plain accuracy over size, as it is and with the best changes; a row per
    task."""
    frame = frame_of(restoration, "restoration")
    tasks = tasks_of(frame)
    figure = new_figure(width, 0.6 + 2.0 * len(tasks))
    axes = figure.subplots(len(tasks), 2, squeeze=False, sharey=True)
    for task, row in zip(tasks, axes, strict=True):
        for side, ax in zip(COLUMNS, row, strict=True):
            restored_panel(restoration, ax, side=side, task=task, inches=width / 2 - 0.6)
            ax.set_title(style.plain(task) if len(tasks) > 1 else "")
    panels.label_outside(figure, x=panels.SIZE, legend=2, left_only=False)
    return figure
