"""The places that decide: the total effect of every head and MLP, as a map for each size."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, SymLogNorm

from isp_mech.errors import InputError
from isp_mech.figures import panels, style
from isp_mech.figures.frames import frame_of, of_task, sizes_of
from isp_mech.figures.paper_figure import PaperFigure
from isp_mech.tables import Table

GAP, MLP_WIDTH = 0.6, 1.5  # between the last head and the MLP column, and the column's width, in heads


def mean_effects(table: Table) -> pd.DataFrame:
    """One row per task, model and site: ``effect`` and ``significant`` (never, where the table is ``effects``).

    An ``effects`` table is averaged over the pairs of its conflict side, for its first replacement.
    """
    frame = frame_of(table, "sites", "effects")
    if "significant" in frame:  # a table of sites, or what ``locate`` gave
        return frame
    frame = frame[(frame["side"] == "conflict") & frame["effect"].notna()]
    if not len(frame):
        raise InputError("figure", ["effects: found no total effect on the conflict side, expected at least one"])
    frame = frame[frame["replacement"] == frame["replacement"].iloc[0]]
    keys = ["task", "model", "n_params", "layer", "kind", "head"]
    means: pd.DataFrame = frame.groupby(keys, dropna=False, observed=True)[["effect"]].mean()
    return means.reset_index().assign(significant=False)


def _n_heads(frame: pd.DataFrame) -> int:
    return int(frame["head"].max()) + 1 if frame["head"].notna().any() else 0


def effect_scale(effects: np.ndarray) -> Normalize:
    """A colour scale centred on zero for these effects; logarithmic beyond its bulk where a few are 25 times larger."""
    sizes = np.abs(effects[np.isfinite(effects)])
    largest = float(sizes.max()) if len(sizes) and sizes.max() > 0 else 1.0
    bulk = float(np.quantile(sizes, 0.75)) if len(sizes) else 0.0
    if largest > 25 * max(bulk, 1e-12):
        return SymLogNorm(linthresh=max(bulk, largest / 100), vmin=-largest, vmax=largest, base=10)
    return Normalize(-largest, largest)


def effect_panel(table: Table, ax: Axes, *, model: str, task: str | None = None, norm: Normalize | None = None) -> Axes:
    """``ax`` with one model's map of mean total effects (nats): layers upwards, heads across, the MLPs beside them.

    Blue pushes towards the prompt's answer, orange towards the lure. A dot marks a significant site.
    """
    frame = of_task(mean_effects(table), task)
    frame = frame[frame["model"] == model]
    return _effect_map(frame, ax, norm or effect_scale(frame["effect"].to_numpy(float)))


def _effect_map(frame: pd.DataFrame, ax: Axes, norm: Normalize) -> Axes:
    n_layers, n_heads = int(frame["layer"].max()) + 1, _n_heads(frame)
    left_of_mlps = n_heads + GAP
    middle_of_mlps = left_of_mlps + MLP_WIDTH / 2
    effects = np.full((n_layers, n_heads + 1), np.nan)  # the MLPs in the last column
    layer, head = frame["layer"].to_numpy(int), frame["head"].fillna(n_heads).to_numpy(int)
    effects[layer, head] = frame["effect"].to_numpy(float)
    small = n_layers * n_heads <= 160
    lines = 0.5 if small else 0.0
    if n_heads:
        panels.heat_map(ax, effects[:, :-1], cmap=style.EFFECT_COLOURS, norm=norm, gap=lines)
    panels.heat_map(ax, effects[:, -1:], cmap=style.EFFECT_COLOURS, norm=norm, gap=lines, left=left_of_mlps,
                    cell=MLP_WIDTH)  # fmt: skip
    dots = frame["significant"].to_numpy(bool)
    if dots.any():
        x = np.where(head < n_heads, head + 0.5, middle_of_mlps)
        ax.scatter(x[dots], layer[dots] + 0.5, s=9 if small else 5, color=style.BLACK, edgecolors="white",
                   linewidths=0.5, label="significant", zorder=3)  # fmt: skip
    step = 1 if n_heads <= 2 else 2 if n_heads <= 4 else 3 if n_heads <= 12 else max(4, n_heads // 4)
    heads = [h for h in range(0, n_heads, step) if middle_of_mlps - h - 0.5 > 0.22 * (middle_of_mlps + 0.75)]
    ax.set_xticks([h + 0.5 for h in heads] + [middle_of_mlps], [str(h) for h in heads] + ["MLP"])
    layers = range(0, n_layers, max(1, -(-n_layers // 8)))
    ax.set_yticks([layer + 0.5 for layer in layers], [str(layer) for layer in layers])
    return ax


@style.styled
def override_map(sites: Table, *, task: str | None = None, width: float = style.TWO_COLUMNS) -> PaperFigure:
    """A figure of where each size pushes towards the prompt or the lure: a map per size, one colour scale.

    Takes a ``sites`` table (significant sites get a dot) or an ``effects`` table (none do). One
    task; the first by default.
    """
    frame = of_task(mean_effects(sites), task)
    models = sizes_of(frame)
    spans = [max(4, _n_heads(frame[frame["model"] == m])) + GAP + MLP_WIDTH for m, _ in models]
    n_columns = len(models) if len(models) <= 6 and sum(spans) < 110 else 4
    n_columns = min(n_columns, 6 if width > 5 else 2)
    ratios = spans if len(models) <= n_columns else [1.0] * n_columns
    ratios = [max(r, 0.1 * sum(ratios)) for r in ratios]  # room for a title and a few ticks
    norm = effect_scale(frame["effect"].to_numpy(float))
    wide = width if len(models) > 2 else min(width, 2.2 + 1.6 * len(models))
    figure, axes = panels.panel_rows(
        len(models), n_columns, width=wide, height=0.5, row_height=1.75, sharey=False, width_ratios=ratios
    )
    for (model, _), label, ax in zip(models, style.size_labels(models), axes, strict=True):
        _effect_map(frame[frame["model"] == model], ax, norm)
        ax.set_title(label)
        ax.set_ylabel("layer")
    panels.label_outside(figure, x="head")
    bar = panels.colour_bar(figure, axes, cmap=style.EFFECT_COLOURS, norm=norm, aspect=22, pad=0.02, digits=2,
                            label="total effect (nats)\n← lure      answer →")  # fmt: skip
    if isinstance(norm, SymLogNorm):
        bar.set_ticks([float(t) for t in (norm.vmin or 0, -norm.linthresh, 0, norm.linthresh, norm.vmax or 0)])
        bar.ax.minorticks_off()
    if frame["significant"].any():
        dot = panels.mark("significant (false discovery rate 5 %)")
        figure.legend(handles=[dot], loc="outside upper right")
    return figure
