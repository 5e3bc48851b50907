"""Each site's total effect over its direct effect."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from isp_mech.figures import panels, style
from isp_mech.figures.frames import frame_of, of_task, site_name, sizes_of
from isp_mech.figures.paper_figure import PaperFigure, new_figure
from isp_mech.tables import Table


@style.styled
def direct_vs_total(sites: Table, *, task: str | None = None, width: float = style.ONE_COLUMN) -> PaperFigure:
    """A figure of each site's total effect (nats) over its direct effect, coloured by model size.

    On the diagonal a site acts directly; off it, later sites carry it on or make up for it. Of
    the largest model, up to three significant sites of largest total effect are named.
    """
    frame = of_task(frame_of(sites, "sites"), task)
    models = sizes_of(frame)
    figure = new_figure(width, 0.92 * width)
    ax = figure.subplots()
    ax.axhline(0, color=style.GREY, linewidth=0.6)
    ax.axvline(0, color=style.GREY, linewidth=0.6)
    ax.axline((0, 0), slope=1, color=style.GREY, linewidth=0.8, linestyle=style.DASHES)
    colours = style.shades(len(models), 0.1 if len(models) > 1 else 0.5, 0.9)
    for (model, _), colour in zip(models, colours, strict=True):
        for kind, marker in (("head", "o"), ("mlp", "s")):
            some = frame[(frame["model"] == model) & (frame["kind"] == kind)]
            faces = [colour if full else (1.0, 1.0, 1.0, 0.0) for full in some["significant"]]
            ax.scatter(some["direct_effect"], some["effect"], s=16, marker=marker, facecolors=faces,
                       edgecolors=[colour], linewidths=0.7)  # fmt: skip
    _name_strongest(frame[frame["model"] == models[-1][0]], ax)
    ax.margins(0.12)
    ax.set_xlabel("direct effect (nats)")
    ax.set_ylabel("total effect (nats)")
    panels.number_axis(ax.xaxis)
    panels.number_axis(ax.yaxis)
    handles = [panels.mark(text, color=c) for c, text in zip(colours, style.size_labels(models), strict=True)]
    handles += [panels.mark("head"), panels.mark("MLP", marker="s"), panels.mark("not significant", face="white")]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, handletextpad=0.2, columnspacing=0.9)
    return figure


def _name_strongest(rows: pd.DataFrame, ax: Axes, most: int = 3) -> None:
    """Names beside the strongest significant sites that stand clear of those already named."""
    rows = rows[rows["significant"].astype(bool) & rows["direct_effect"].notna()]
    rows = rows.sort_values("effect", key=np.abs, ascending=False)
    reach = float(rows["effect"].abs().max()) if len(rows) else 0.0
    named: list[float] = []
    for _, row in rows.iterrows():
        x, y = float(row["direct_effect"]), float(row["effect"])
        if len(named) == most or any(abs(y - other) < 0.15 * reach for other in named):
            continue
        named.append(y)
        halo = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.5}
        ax.annotate(site_name(row), (x, y), xytext=(5, -4), textcoords="offset points", fontsize=7, va="top", bbox=halo)
