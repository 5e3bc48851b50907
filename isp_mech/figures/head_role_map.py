"""What each head takes from each part of the prompt: the effect of blocking it, as a map for each role and size."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import SymLogNorm

from isp_mech.figures import panels, style
from isp_mech.figures.frames import frame_of, of_side, of_task, sizes_of
from isp_mech.figures.paper_figure import PaperFigure
from isp_mech.stats import MATTERS
from isp_mech.tables import Table

MOST_COLUMNS = 5
ROW_HEIGHTS = ((8, 1.0), (16, 1.4), (10**6, 2.2))  # up to so many layers, inches


def blocking_scale(effects: np.ndarray) -> SymLogNorm:
    """A colour scale centred on zero for these effects, whose outer half is for those beyond a tenth of the largest."""
    sizes = np.abs(effects[np.isfinite(effects)])
    largest = float(sizes.max(initial=0.0)) or 1.0
    return SymLogNorm(linthresh=MATTERS * largest, vmin=-largest, vmax=largest, base=10)


def head_role_panel(
    head_roles: Table,
    ax: Axes,
    *,
    model: str,
    role: str,
    task: str | None = None,
    side: str = "conflict",
    norm: SymLogNorm | None = None,
) -> Axes:
    """``ax`` with one model's map for one role: layers upwards, heads across, mean effect of blocking (nats).

    Blue: what the head takes from there pushes towards the prompt's answer; orange: towards the lure. A dot marks what
    is significant and beyond a tenth of the model's largest effect of any role.
    """
    frame = _rows(head_roles, task, side)
    frame = frame[frame["model"] == model]
    shape = int(frame["layer"].max()) + 1, int(frame["head"].max()) + 1
    return _map(frame[frame["role"] == role], ax, shape, norm or blocking_scale(frame["effect"].to_numpy(float)))


def _rows(head_roles: Table, task: str | None, side: str) -> pd.DataFrame:
    """The rows of one task and side, with whether each ``matters``."""
    frame = of_side(of_task(frame_of(head_roles, "head_roles"), task), side)
    size = frame["effect"].abs()
    return frame.assign(matters=size > MATTERS * size.groupby(frame["model"]).transform("max"))


def _map(frame: pd.DataFrame, ax: Axes, shape: tuple[int, int], norm: SymLogNorm) -> Axes:
    n_layers, n_heads = shape
    layer, head = frame["layer"].to_numpy(int), frame["head"].to_numpy(int)
    effects = np.full(shape, np.nan)
    effects[layer, head] = frame["effect"].to_numpy(float)
    small = n_layers * n_heads <= 160
    panels.heat_map(ax, effects, cmap=style.EFFECT_COLOURS, norm=norm, gap=0.5 if small else 0.0)
    dots = (frame["significant"] & frame["matters"]).to_numpy(bool)
    ax.scatter(head[dots] + 0.5, layer[dots] + 0.5, s=6 if small else 2.5, color=style.BLACK, edgecolors="white",
               linewidths=0.4 if small else 0.2, zorder=3)  # fmt: skip
    heads, layers = range(0, n_heads, -(-n_heads // 4)), range(0, n_layers, -(-n_layers // 6))
    ax.set_xticks([h + 0.5 for h in heads], [str(h) for h in heads])
    ax.set_yticks([at + 0.5 for at in layers], [str(at) for at in layers])
    return ax


@style.styled
def head_role_map(
    head_roles: Table, *, task: str | None = None, side: str = "conflict", width: float = style.TWO_COLUMNS
) -> PaperFigure:
    """A figure of what each head takes from each role: a map per role, a row of them per size, one colour scale.

    Takes the table ``head_roles``, or what ``block_heads`` gave. One task, the first by default, and one side. Roles
    are ordered by their summed effects, largest first.
    """
    frame = _rows(head_roles, task, side)
    models, strength = sizes_of(frame), frame["effect"].abs().groupby(frame["role"]).sum()
    roles = [str(role) for role in strength.sort_values(ascending=False, kind="stable").index]
    columns = min(len(roles), MOST_COLUMNS if width > 5 else 2)
    rows = -(-len(roles) // columns)  # of a size
    norm = blocking_scale(frame["effect"].to_numpy(float))
    tall = next(inches for layers, inches in ROW_HEIGHTS if frame["layer"].max() < layers)
    tall = max(tall, 1.6 / (len(models) * rows))  # the scale's label has room
    wide = min(width, 1.6 + 1.35 * columns)
    figure, axes = panels.panel_rows(
        len(models) * rows * columns, columns, width=wide, height=0.7, row_height=tall, sharey=False
    )
    for at, ((model, _), label) in enumerate(zip(models, style.size_labels(models), strict=True)):
        of_model = frame[frame["model"] == model]
        shape = int(of_model["layer"].max()) + 1, int(of_model["head"].max()) + 1
        for i, ax in enumerate(axes[at * rows * columns : (at + 1) * rows * columns]):
            here = of_model[of_model["role"] == roles[i]] if i < len(roles) else of_model[:0]
            if i < len(roles) and at == 0 or rows > 1:
                ax.set_title(style.plain(roles[i].replace("_", " "), 22) if i < len(roles) else "")
            if len(here):
                _map(here, ax, shape, norm)
                ax.set_ylabel(f"{label}\nlayer" if i == 0 else "layer")
            else:
                ax.set_axis_off()
    panels.label_outside(figure, x="head")
    bar = panels.colour_bar(figure, axes, cmap=style.EFFECT_COLOURS, norm=norm, aspect=22, pad=0.02, digits=2,
                            label="effect of blocking (nats)\n← lure      answer →")  # fmt: skip
    bar.set_ticks([float(t) for t in (norm.vmin or 0, -norm.linthresh, 0, norm.linthresh, norm.vmax or 0)])
    bar.ax.minorticks_off()
    if (frame["significant"] & frame["matters"]).any():
        dot = panels.mark("significant, and over a tenth of its size's largest")
        figure.legend(handles=[dot], loc="outside upper right")
    return figure
