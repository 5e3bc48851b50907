"""Figures of places and of what removing them does: the override map, direct against total, verification."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, SymLogNorm
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from isp_mech.errors import InputError
from isp_mech.figures.style import (
    BLACK,
    EFFECT_COLOURS,
    GREY,
    ONE_COLUMN,
    TWO_COLUMNS,
    PaperFigure,
    frame_of,
    new_figure,
    number,
    size_labels,
    sizes_of,
    styled,
    tasks_of,
)
from isp_mech.sites import Site
from isp_mech.tables import Table

GAP = 0.6  # between the last head and the MLP column, in heads


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
    return frame.groupby(keys, dropna=False, observed=True)["effect"].mean().reset_index().assign(significant=False)


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
    frame = mean_effects(table)
    frame = frame[(frame["task"] == (task or tasks_of(frame)[0])) & (frame["model"] == model)]
    norm = norm or effect_scale(frame["effect"].to_numpy(float))
    n_layers, n_heads = int(frame["layer"].max()) + 1, _n_heads(frame)
    of_heads, of_mlps = np.full((n_layers, n_heads), np.nan), np.full((n_layers, 1), np.nan)
    dots = []
    columns = ["layer", "kind", "head", "effect", "significant"]
    for layer, kind, head, effect, significant in frame[columns].itertuples(index=False):
        if kind == "head":
            of_heads[layer, int(head)] = effect
        else:
            of_mlps[layer, 0] = effect
        if significant:
            dots.append((int(head) + 0.5 if kind == "head" else n_heads + GAP + 0.75, layer + 0.5))
    small = n_layers * n_heads <= 160
    rows = np.arange(n_layers + 1)
    lines: dict[str, Any] = {"edgecolors": "white" if small else "none", "linewidth": 0.5 if small else 0.0}
    if n_heads:
        ax.pcolormesh(np.arange(n_heads + 1), rows, of_heads, cmap=EFFECT_COLOURS, norm=norm, **lines)
    ax.pcolormesh([n_heads + GAP, n_heads + GAP + 1.5], rows, of_mlps, cmap=EFFECT_COLOURS, norm=norm, **lines)
    if dots:
        ax.scatter(
            [x for x, _ in dots],
            [y for _, y in dots],
            s=9 if small else 5,
            color=BLACK,
            edgecolors="white",
            linewidths=0.5,
            label="significant",
            zorder=3,
        )
    step = 1 if n_heads <= 2 else 2 if n_heads <= 4 else 3 if n_heads <= 12 else max(4, n_heads // 4)
    at_mlp = n_heads + GAP + 0.75
    heads = [h for h in range(0, n_heads, step) if at_mlp - h - 0.5 > 0.22 * (at_mlp + 0.75)]
    ax.set_xticks([h + 0.5 for h in heads] + [at_mlp], [str(h) for h in heads] + ["MLP"])
    layers = range(0, n_layers, max(1, -(-n_layers // 8)))
    ax.set_yticks([layer + 0.5 for layer in layers], [str(layer) for layer in layers])
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


@styled
def override_map(sites: Table, *, task: str | None = None, width: float = TWO_COLUMNS) -> PaperFigure:
    """A figure of where each size pushes towards the prompt or the lure: a map per size, one colour scale.

    Takes a ``sites`` table (significant sites get a dot) or an ``effects`` table (none do). One
    task; the first by default.
    """
    frame = mean_effects(sites)
    task = task or tasks_of(frame)[0]
    frame = frame[frame["task"] == task]
    models = sizes_of(frame)
    labels = size_labels(models)
    spans = [max(4, _n_heads(frame[frame["model"] == m])) + GAP + 1.5 for m, _ in models]
    n_columns = len(models) if len(models) <= 6 and sum(spans) < 110 else 4
    n_columns = min(n_columns, 6 if width > 5 else 2)
    n_rows = -(-len(models) // n_columns)
    ratios = spans if n_rows == 1 else [1.0] * n_columns
    ratios = [max(r, 0.1 * sum(ratios)) for r in ratios]  # room for a title and a few ticks
    norm = effect_scale(frame["effect"].to_numpy(float))
    figure = new_figure(width if len(models) > 2 else min(width, 2.2 + 1.6 * len(models)), 0.5 + 1.75 * n_rows)
    axes = figure.subplots(n_rows, n_columns, squeeze=False, gridspec_kw={"width_ratios": ratios})
    for i, ax in enumerate(axes.flat):
        if i >= len(models):
            ax.set_axis_off()
            continue
        effect_panel(sites, ax, model=models[i][0], task=task, norm=norm)
        ax.set_title(labels[i])
        ax.set_ylabel("layer" if i % n_columns == 0 else "")
    figure.supxlabel("head", fontsize=8)
    bar = figure.colorbar(ScalarMappable(norm, EFFECT_COLOURS), ax=axes, aspect=22, pad=0.02, fraction=0.05)
    bar.set_label("total effect (nats)\n← lure      answer →")
    bar.outline.set_visible(False)
    if isinstance(norm, SymLogNorm):
        bar.set_ticks([float(t) for t in (norm.vmin or 0, -norm.linthresh, 0, norm.linthresh, norm.vmax or 0)])
        bar.ax.minorticks_off()
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: number(float(f"{v:.2g}"))))
    if frame["significant"].any():
        text = "significant (false discovery rate 5 %)"
        dot = Line2D([], [], linestyle="none", marker="o", markersize=4, color=BLACK, label=text)
        figure.legend(handles=[dot], loc="outside upper right")
    return figure


@styled
def direct_vs_total(sites: Table, *, task: str | None = None, width: float = ONE_COLUMN) -> PaperFigure:
    """A figure of each site's total effect (nats) over its direct effect, coloured by model size.

    On the diagonal a site acts directly; off it, later sites carry it on or make up for it. Of
    the largest model, up to three significant sites of largest total effect are named.
    """
    frame = frame_of(sites, "sites")
    frame = frame[frame["task"] == (task or tasks_of(frame)[0])]
    models = sizes_of(frame)
    figure = new_figure(width, 0.92 * width)
    ax = figure.subplots()
    ax.axhline(0, color=GREY, linewidth=0.6)
    ax.axvline(0, color=GREY, linewidth=0.6)
    ax.axline((0, 0), slope=1, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    colours = colormaps["viridis"](np.linspace(0.9, 0.1, len(models)) if len(models) > 1 else [0.5])
    for (model, _), label, colour in zip(models, size_labels(models), colours, strict=True):
        rows = frame[frame["model"] == model]
        for kind, marker in (("head", "o"), ("mlp", "s")):
            some = rows[rows["kind"] == kind]
            filled = some["significant"].to_numpy(bool)
            faces = [colour if full else (1, 1, 1, 0) for full in filled]
            ax.scatter(
                some["direct_effect"],
                some["effect"],
                s=16,
                marker=marker,
                facecolors=faces,
                edgecolors=[colour],
                linewidths=0.7,
                label=label if kind == "head" else "_mlp",
            )
    _name_strongest(frame[frame["model"] == models[-1][0]], ax)
    ax.margins(0.12)
    ax.set_xlabel("direct effect (nats)")
    ax.set_ylabel("total effect (nats)")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda v, _: number(round(v, 6))))
    handles = [
        Line2D([], [], linestyle="none", marker="o", markersize=4, color=c, label=text)
        for c, text in zip(colours, size_labels(models), strict=True)
    ]
    handles += [
        Line2D([], [], linestyle="none", marker=m, markersize=4, color=BLACK, markerfacecolor=f, label=text)
        for m, f, text in (("o", BLACK, "head"), ("s", BLACK, "MLP"), ("o", "white", "not significant"))
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, handletextpad=0.2, columnspacing=0.9)
    return figure


def _name_strongest(rows: pd.DataFrame, ax: Axes, most: int = 3) -> None:
    """Names beside the strongest significant sites that stand clear of those already named."""
    rows = rows[rows["significant"].astype(bool) & rows["direct_effect"].notna()]
    rows = rows.sort_values("effect", key=np.abs, ascending=False)
    reach = float(rows["effect"].abs().max()) if len(rows) else 0.0
    named: list[float] = []
    for layer, kind, head, x, y in rows[["layer", "kind", "head", "direct_effect", "effect"]].itertuples(index=False):
        if len(named) == most or any(abs(y - other) < 0.15 * reach for other in named):
            continue
        named.append(y)
        name = str(Site(int(layer), "head", int(head)) if kind == "head" else Site(int(layer), "mlp"))
        halo = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.5}
        ax.annotate(name, (x, y), xytext=(5, -4), textcoords="offset points", fontsize=7, va="top", bbox=halo)
