"""What each class of heads, and the MLPs, have of the override mass."""

from __future__ import annotations

from isp_mech.figures import panels, style
from isp_mech.figures.frames import frame_of, of_task, sizes_of, tasks_of
from isp_mech.figures.paper_figure import PaperFigure
from isp_mech.tables import Table

CLASS_COLOURS = {
    "recall": style.VERMILLION, "suppression": style.PURPLE, "copying": style.BLUE, "induction": style.SKY,
    "opposing": style.GREEN, "mlp": style.YELLOW, "none": style.PALE,
}  # fmt: skip


@style.styled
def head_shares_over_size(shares: Table, *, width: float = style.ONE_COLUMN) -> PaperFigure:
    """A figure of what each class of heads, and the MLPs, have of the override mass: a stacked bar for each size.

    A panel for each task. Sizes without an override have no bar.
    """
    frame = frame_of(shares, "head_shares")
    tasks = tasks_of(frame)
    width = width if len(tasks) == 1 else style.TWO_COLUMNS
    figure, axes = panels.panel_rows(len(tasks), len(tasks), width=width, height=0, row_height=2.5)
    for ax, task in zip(axes, tasks, strict=True):
        rows = of_task(frame, task)
        sizes = sizes_of(rows)
        wide = rows.pivot(index="model", columns="class", values="share").fillna(0.0).loc[[m for m, _ in sizes]]
        heights = {name: wide[name].to_numpy(float) for name in CLASS_COLOURS if name in wide and wide[name].any()}
        panels.stacked_bars(ax, heights or {"none": wide.iloc[:, 0].to_numpy(float) * 0}, CLASS_COLOURS)
        panels.category_axis(ax, style.size_labels(sizes), inches=width / len(tasks) - 0.7)
        ax.set_title(style.plain(task, 30) if len(tasks) > 1 else "")
    axes[0].set_ylabel("of the override mass")
    panels.label_outside(figure, legend=3 if width < 5 else 6)
    return figure
