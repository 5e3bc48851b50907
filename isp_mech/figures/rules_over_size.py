"""Which of two rules decides a pair, over model size."""

from __future__ import annotations

from collections.abc import Mapping

from isp_mech.errors import InputError
from isp_mech.figures import panels, style
from isp_mech.figures.frames import by_size, frame_of, of_task, tasks_of
from isp_mech.figures.paper_figure import PaperFigure
from isp_mech.tables import Table

RULE_COLOURS = {"by_answer": style.BLUE, "by_lure": style.VERMILLION, "by_neither": style.GREY}


@style.styled
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
    width = width or (style.ONE_COLUMN if columns == 1 else 2.3 * columns)
    figure, axes = panels.panel_rows(len(tasks), columns, width=width, height=0.5, row_height=2.0)
    for task, ax in zip(tasks, axes, strict=True):
        rows = by_size(of_task(frame, task))
        for (rule, colour), marker in zip(RULE_COLOURS.items(), style.LINE_MARKERS, strict=False):
            label = style.plain(labels[rule])
            panels.line_over(ax, rows, "n_params", rule, color=colour, marker=marker, label=label, band=False)
        ax.axhline(0, color=style.GREY, linewidth=0.7, zorder=1)
        ax.set_ylabel("share of pairs decided by it")
        ax.set_title(style.plain(task) if len(tasks) > 1 else "")
        ax.grid(axis="y")
        panels.size_axis(ax, rows["n_params"], inches=width / columns - 0.6)
    panels.label_outside(figure, legend=3)
    return figure
