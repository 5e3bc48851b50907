"""How every figure looks, and how it is saved: colours, type, axes of model size, files.

Nothing here touches pyplot or the reader's own matplotlib settings: a figure carries its style and
draws itself under it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from isp_mech.errors import InputError
from isp_mech.tables import Table

ONE_COLUMN, TWO_COLUMNS = 3.4, 7.0  # inches

# Okabe and Ito's palette, which stays apart for every common kind of colour vision.
BLACK, GREY = "#000000", "#8c8c8c"
ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
    "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
SIDE_COLOURS = {"conflict": VERMILLION, "plain": BLUE, "neutral": GREEN, "item": BLACK}
SIDE_MARKERS = {"conflict": "o", "plain": "s", "neutral": "^", "item": "D"}
SHARE_COLOURS = {"follows": BLUE, "overridden": VERMILLION, "contrary": PURPLE, "lost": "#c4c4c4"}
EFFECT_COLOURS = LinearSegmentedColormap.from_list(
    "orange_white_blue", ["#7f3b08", VERMILLION, "#f4a261", "#f7f7f7", "#6baed6", BLUE, "#023858"]
)

_LOOK: Any = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 8,
    "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7.5, "legend.frameon": False, "legend.handlelength": 1.6, "legend.columnspacing": 1.4,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7, "axes.unicode_minus": True,
    "xtick.major.width": 0.7, "ytick.major.width": 0.7, "xtick.major.size": 2.5, "ytick.major.size": 2.5,
    "lines.linewidth": 1.4, "lines.markersize": 4, "axes.axisbelow": True, "axes.grid": False,
    "grid.color": "#e4e4e4", "grid.linewidth": 0.6, "figure.facecolor": "white", "text.usetex": False,
}  # fmt: skip
_FILES: Any = {
    "pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "isp_mech", "savefig.dpi": 300,
    "savefig.facecolor": "white",
}  # fmt: skip
_UNDATED: Mapping[str, Mapping[str, None]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}


class PaperFigure(Figure):
    """A matplotlib Figure that draws and saves itself in this library's style, whatever the reader's settings.

    ``savefig`` embeds TrueType fonts, keeps text as text in SVG, and writes the same bytes each time.
    """

    def draw(self, renderer) -> None:
        with rc_context(dict(_LOOK)):
            super().draw(renderer)

    def savefig(self, fname, **settings) -> None:
        save_as(self, fname, **settings)


def save_as(figure: Figure, target, *, outlines: bool = False, **settings) -> None:
    """Writes one file of ``figure`` without dates; with ``outlines`` an SVG's text becomes shapes that need no font."""
    suffix = Path(target).suffix.removeprefix(".") if isinstance(target, str | Path) else ""
    kind = settings.get("format") or suffix or "png"
    if kind in _UNDATED:
        settings["metadata"] = {**_UNDATED[kind], **settings.get("metadata", {})}
    with rc_context({**_LOOK, **_FILES, "svg.fonttype": "path" if outlines else "none"}):
        Figure.savefig(figure, target, **settings)


@contextmanager
def laid_out(figure: Figure) -> Iterator[None]:
    """Within it the panels stay where they are: laid out once for several files, which takes as long as drawing."""
    figure.draw_without_rendering()
    engine = figure.get_layout_engine()
    figure.set_layout_engine("none")
    try:
        yield
    finally:
        figure.set_layout_engine(engine)


def new_figure(width: float, height: float) -> PaperFigure:
    """An empty figure of ``width`` x ``height`` inches whose panels lay themselves out without overlap."""
    return PaperFigure(figsize=(width, height), layout="constrained")


def styled(function: Callable[..., PaperFigure]) -> Callable[..., PaperFigure]:
    """The same figure function, run under this library's style."""

    @wraps(function)
    def draw(*args, **settings) -> PaperFigure:
        with rc_context(dict(_LOOK)):
            return function(*args, **settings)

    return draw


def save(figure: Figure, stem: str | Path, table: Table | None = None) -> tuple[Path, ...]:
    """The files written: ``stem.pdf``, ``stem.svg``, ``stem.png`` (300 dpi) and, given the table, ``stem.parquet``.

    The folder is made where it is missing. The same figure gives the same bytes.
    """
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("pdf", "svg", "png")]
    with laid_out(figure):
        for path in paths:
            save_as(figure, path)
    if table is not None:
        path = stem.with_name(f"{stem.name}.parquet")
        table.save(path)
        paths.append(path)
    return tuple(paths)


def frame_of(table: Table, *names: str) -> pd.DataFrame:
    """The table's frame. ``InputError`` where the table is of another kind, empty, or has a size of zero or less.

    What ``score``, ``trace`` and ``locate`` give may stand for the table of that name in it.
    """
    table = next((inside for n in names if isinstance(inside := getattr(table, n, None), Table)), table)
    problems = []
    if table.name not in names:
        problems.append(f"found table {table.name!r}, expected {' or '.join(repr(n) for n in names)}")
    elif not len(table.frame):
        problems.append("found no rows, expected at least one")
    elif (table.frame["n_params"] <= 0).any():
        worst = table.frame.loc[table.frame["n_params"] <= 0, "model"].iloc[0]
        problems.append(f"model {worst!r}: n_params is zero or less, expected a number of parameters")
    if problems:
        raise InputError("figure", problems)
    return table.frame


def tasks_of(frame: pd.DataFrame) -> list[str]:
    """The tasks in order of appearance."""
    return [str(task) for task in frame["task"].unique()]


def sizes_of(frame: pd.DataFrame) -> list[tuple[str, int]]:
    """``(model, n_params)`` from small to large."""
    pairs = frame[["model", "n_params"]].drop_duplicates()
    return sorted(((str(m), int(n)) for m, n in pairs.itertuples(index=False)), key=lambda size: (size[1], size[0]))


def size_label(n_params: float) -> str:
    """A number of parameters as people write it.

    >>> [size_label(n) for n in (930, 27_300, 100_000, 2_212_000, 999_950, 6_444_163_072)]
    ['930', '27k', '100k', '2.2M', '1M', '6.4B']
    """
    for unit, factor in (("", 1), ("k", 1e3), ("M", 1e6), ("B", 1e9), ("T", 1e12)):
        shown = f"{n_params / factor:.2g}" if n_params / factor < 99.5 else f"{n_params / factor:.0f}"
        if float(shown) < 1000 or unit == "T":
            return f"{float(shown):g}{unit}"
    raise AssertionError("unreachable")


def size_labels(sizes: Sequence[tuple[str, int]]) -> list[str]:
    """One label per model; models that share a size are told apart by name."""
    labels = [size_label(n) for _, n in sizes]
    return [f"{label} {plain(model, 14)}" if labels.count(label) > 1 else label
            for label, (model, _) in zip(labels, sizes, strict=True)]  # fmt: skip


def plain(text: object, longest: int = 40) -> str:
    """``text`` fit for a figure: no control characters, no mathematics run from ``$``, at most ``longest`` characters.

    >>> plain("pay $5\\x1b[31m now")
    'pay \\\\$5[31m now'
    """
    kept = "".join(c for c in str(text) if unicodedata.category(c)[0] != "C" and c not in "\u2028\u2029")
    kept = kept if len(kept) <= longest else kept[: longest - 1] + "…"
    return kept.replace("$", r"\$")


def size_axis(ax: Axes, n_params: Sequence[int], *, inches: float, label: bool = True) -> None:
    """A log axis with a tick at every size; labels that would touch (``inches`` of axis to share) are left out."""
    sizes = sorted(set(n_params))
    ax.set_xscale("log")
    low, high = (sizes[0] / 3, sizes[0] * 3) if len(sizes) == 1 else (sizes[0], sizes[-1])
    room = (high / low) ** (0.06 if len(sizes) > 1 else 0)
    ax.set_xlim(low / room, high * room)
    span = np.log(high / low * room**2)
    shown: list[str] = []
    last, end = -np.inf, np.log(sizes[-1])
    gap = 0.36 * span / inches
    for size in sizes:
        here = np.log(size)
        free = here - last >= gap and (end - here >= gap or size == sizes[-1])
        shown.append(size_label(size) if free else "")
        last = here if free else last
    ax.xaxis.set_major_locator(FixedLocator(sizes))
    ax.xaxis.set_major_formatter(FixedFormatter(shown))
    ax.xaxis.set_minor_locator(NullLocator())
    if label:
        ax.set_xlabel("parameters without embeddings")


def category_axis(ax: Axes, labels: Sequence[str], *, inches: float, label: bool = True) -> None:
    """An axis with one place per size, evenly spaced; labels turn where they would touch."""
    ax.set_xticks(range(len(labels)))
    longest = max(len(line) for text in labels for line in text.split("\n"))
    turned = longest * 0.062 * len(labels) > inches
    ax.set_xticklabels(labels, rotation=90 if turned else 0)
    ax.set_xlim(-0.6, len(labels) - 0.4)
    if label:
        ax.set_xlabel("parameters without embeddings")


def number(value: float) -> str:
    """A short number with a true minus sign.

    >>> number(-0.5), number(12.0)
    ('−0.5', '12')
    """
    return f"{value:g}".replace("-", "−")
