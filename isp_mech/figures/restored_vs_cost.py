"""What each kind of intervention restores, against what it costs on plain prompts."""

from __future__ import annotations

from matplotlib.axes import Axes

from isp_mech.figures import panels, style
from isp_mech.figures.frames import frame_of, sizes_of, tasks_of
from isp_mech.figures.paper_figure import PaperFigure
from isp_mech.figures.restored_rows import restored_rows
from isp_mech.scaling.restoring import PLAIN_COST
from isp_mech.tables import Table

KIND_COLOURS = {"block": style.BLUE, "reweight": style.SKY, "scale": style.VERMILLION, "replace": style.ORANGE,
                "replay": style.GREEN, "steer": style.PURPLE, "swap": style.BLACK}  # fmt: skip
KIND_MARKERS = {"block": "s", "reweight": "D", "scale": "o", "replace": "v", "replay": "^", "steer": "P", "swap": "X"}
APART = 0.33  # points between the marks of kinds that cost the same
BOUND = f"{100 * PLAIN_COST:.0f} points, the most it may cost"


def cost_panel(restoration: Table, ax: Axes, *, model: str, task: str | None = None) -> Axes:
    """``ax`` with a mark for each kind of intervention on one model: the share of overridden pairs that it restores,
    over the plain accuracy it costs, in points; filled where it counts as restoring. Kinds stand a little apart."""
    rows = restored_rows(restoration, task)
    rows = rows[rows["model"] == model]
    shown = rows[rows["restored"].notna() & (rows["intervention"] != "none")]
    ax.axvline(100 * PLAIN_COST, color=style.GREY, linewidth=1, linestyle=style.DASHES, zorder=1, label=BOUND)
    for _, row in shown.iterrows():
        kind = row["kind"]
        colour, apart = KIND_COLOURS[kind], APART * (list(KIND_COLOURS).index(kind) - (len(KIND_COLOURS) - 1) / 2)
        cost = 100 * (row["plain_before"] - row["plain_after"]) + apart
        ax.vlines(cost, row["restored_lo"], row["restored_hi"], color=colour, linewidth=0.8)
        ax.plot([cost], [row["restored"]], linestyle="none", marker=KIND_MARKERS[kind], markersize=5, color=colour,
                markerfacecolor=colour if row["restoring"] else "white", gid=kind)  # fmt: skip
    if not len(shown):
        text = "no pair is overridden" if not rows["n_overridden"].any() else "no change found"
        ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color=style.GREY)
    ax.set_ylim(-0.05, 1.07)
    ax.set_ylabel("pairs restored")
    panels.percent_axis(ax.yaxis)
    panels.number_axis(ax.xaxis)
    ax.grid(axis="y")
    ax.set_xlim(min(-6, ax.get_xlim()[0]), max(12, ax.get_xlim()[1]))
    return ax


@style.styled
def restored_vs_cost(restoration: Table, *, width: float = style.TWO_COLUMNS) -> PaperFigure:
    """A figure of the overridden pairs that each kind of intervention restores, over the plain accuracy that it costs:
    a panel for each size, held-out pairs, rows for tasks."""
    frame = frame_of(restoration, "restoration")
    tasks, sizes = tasks_of(frame), sizes_of(frame)
    places = [(task, model, label) for task in tasks
              for (model, _), label in zip(sizes, style.size_labels(sizes), strict=True)
              if ((frame["task"] == task) & (frame["model"] == model)).any()]  # fmt: skip
    figure, axes = panels.panel_rows(len(places), 3, width=width, height=0.75, row_height=1.75)
    for ax, (task, model, label) in zip(axes, places, strict=True):
        cost_panel(restoration, ax, model=model, task=task)
        ax.set_title(f"{style.plain(task, 24)}, {label}" if len(tasks) > 1 else label)
    kinds = [kind for kind in KIND_COLOURS if kind in set(frame["kind"])]
    marks = [panels.mark(kind, marker=KIND_MARKERS[kind], color=KIND_COLOURS[kind], size=5) for kind in kinds]
    marks.append(panels.mark("not called restoring", face="white", size=5))
    panels.label_outside(figure, x="plain accuracy lost (points)", legend=5, more=marks)
    return figure
