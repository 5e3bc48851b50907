"""Where the last position looks: attention by head and role of the prompt's parts."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from isp_mech.errors import InputError
from isp_mech.figures import panels, style
from isp_mech.figures.frames import frame_of, of_task, sizes_of, tasks_of
from isp_mech.figures.paper_figure import PaperFigure, new_figure
from isp_mech.tables import Table


def attention_means(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean weight over pairs by ``(model, layer, head)`` and ``(side, role)``; zero where a side lacks a role.

    A role that only some pairs have counts as zero in the others, so that roles still sum to one.
    """
    pairs = frame.groupby(["model", "side"], observed=True)["pair"].nunique()
    keys = ["model", "side", "layer", "head", "role"]
    mean = frame.groupby(keys, observed=True)["weight"].sum() / pairs
    return mean.unstack(["side", "role"]).fillna(0.0)


def _heads_of(means: pd.DataFrame, model: str) -> pd.DataFrame:
    return means.loc[[model]].droplevel("model")


def attention_gap(means: pd.DataFrame) -> pd.DataFrame:
    """Conflict minus plain, by role (conflict alone, where there is no plain side)."""
    conflict = weights_on(means, "conflict")
    return conflict.sub(weights_on(means, "plain"), fill_value=0.0) if "plain" in means else conflict


def weights_on(means: pd.DataFrame, side: str) -> pd.DataFrame:
    """The columns of one side, by role."""
    return means.loc[:, [side]].droplevel("side", axis="columns")


def top_heads(means: pd.DataFrame, top: int) -> list[tuple[int, int]]:
    """The ``top`` heads whose attention differs most between conflict and plain (sum over roles), largest first."""
    gap = attention_gap(means).abs().sum(axis="columns").sort_values(ascending=False, kind="stable")
    return [(int(layer), int(head)) for layer, head in gap.index[:top]]


def attention_panel(
    attention: Table, ax: Axes, *, model: str, roles: list[str], task: str | None = None, difference: bool = False,
    top: int = 6,
) -> Axes:  # fmt: skip
    """``ax`` with a heat map, roles x heads: mean weight from the last position on the conflict side, in 0..1.

    With ``difference`` it is conflict minus plain, in -1..1. The heads are the ``top`` ones by that
    difference, largest first.
    """
    frame = of_task(frame_of(attention, "attention"), task)
    means = _heads_of(attention_means(frame[frame["model"] == model]), model)
    return _attention_map(means, ax, roles=roles, difference=difference, top=top)


SCALES = {False: ("viridis", Normalize(0, 1), "weight, conflict"),
          True: (style.EFFECT_COLOURS, Normalize(-1, 1), "conflict − plain")}  # fmt: skip


def _attention_map(means: pd.DataFrame, ax: Axes, *, roles: list[str], difference: bool, top: int) -> Axes:
    heads = top_heads(means, top)
    shown = attention_gap(means) if difference else weights_on(means, "conflict")
    shown = shown.reindex(columns=roles, fill_value=0.0).loc[heads]
    cmap, norm, _ = SCALES[difference]
    panels.heat_map(ax, shown.to_numpy(float).T, cmap=cmap, norm=norm)
    ax.set_ylim(len(roles), 0)
    ax.set_yticks(np.arange(len(roles)) + 0.5, [style.plain(r.replace("_", " "), 22) for r in roles])
    ax.set_xticks(np.arange(len(heads)) + 0.5, [f"a{layer}.h{head}" for layer, head in heads], rotation=90)
    return ax


@style.styled
def attention_by_role(
    attention: Table, *, task: str | None = None, top: int = 6, width: float = style.TWO_COLUMNS
) -> PaperFigure:
    """A figure of where the last position looks: a map per size, roles x heads, for its ``top`` heads.

    Above: mean weight on conflict prompts. Below: how much more (blue) or less (orange) than on
    plain prompts. Heads are those that differ most between the two. One task; the first by default.
    """
    frame = frame_of(attention, "attention")
    task = task or tasks_of(frame)[0]
    frame = of_task(frame, task)
    means = attention_means(frame)
    if "conflict" not in means:
        raise InputError("figure", [f"attention of {task!r}: found no conflict side"])
    differences = [False, True] if "plain" in means else [False]
    roles, sizes = _roles(frame), sizes_of(frame)
    heads = [min(top, len(means.loc[model])) for model, _ in sizes]
    figure = new_figure(width, 0.75 + len(differences) * max(0.95, 0.17 * len(roles) + 0.1))
    axes = figure.subplots(len(differences), len(sizes), squeeze=False, sharey=True, sharex="col", width_ratios=heads)
    for difference, line in zip(differences, axes, strict=True):
        for (model, _), ax in zip(sizes, line, strict=True):
            _attention_map(_heads_of(means, model), ax, roles=roles, difference=difference, top=top)
            ax.tick_params(labelbottom=difference == differences[-1], labelleft=ax is line[0])
        cmap, norm, text = SCALES[difference]
        panels.colour_bar(figure, line, cmap=cmap, norm=norm, label=text, aspect=12, pad=0.01)
    for ax, label in zip(axes[0], style.size_labels(sizes), strict=True):
        ax.set_title(label)
    return figure


def _roles(frame: pd.DataFrame) -> list[str]:
    """Roles by the weight they get on the conflict side, ``other`` last."""
    weights = frame[frame["side"] == "conflict"].groupby("role", observed=True)["weight"].sum()
    weights = weights.sort_values(ascending=False)
    roles = [str(r) for r in weights.index] + sorted(set(frame["role"].unique()) - set(weights.index))
    return [r for r in roles if r != "other"] + (["other"] if "other" in roles else [])
