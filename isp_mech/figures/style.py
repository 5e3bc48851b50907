"""How every figure looks: colours, type, and numbers and names as they are written in it."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.colors import LinearSegmentedColormap, to_hex

from isp_mech.figures.scripts import FAMILIES, names_by_number, written

P = ParamSpec("P")
R = TypeVar("R")
ONE_COLUMN, TWO_COLUMNS = 3.4, 7.0  # inches

# Okabe and Ito's palette, which stays apart for every common kind of colour vision.
BLACK, GREY, PALE = "#000000", "#8c8c8c", "#c4c4c4"
ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
    "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
SIDE_COLOURS = {"conflict": VERMILLION, "plain": BLUE, "neutral": GREEN, "item": BLACK}
SIDE_MARKERS = {"conflict": "o", "plain": "s", "neutral": "^", "item": "D"}
SHARE_COLOURS = {"follows": BLUE, "overridden": VERMILLION, "contrary": PURPLE, "lost": PALE}
EFFECT_COLOURS = LinearSegmentedColormap.from_list(
    "orange_white_blue", ["#7f3b08", VERMILLION, "#f4a261", "#f7f7f7", "#6baed6", BLUE, "#023858"]
)
LINE_MARKERS = "osD^vPX*"
DASHES, DOTS = (0, (4, 3)), (0, (1, 2))

LOOK: Any = {
    "font.family": "sans-serif", "font.sans-serif": FAMILIES, "font.size": 8,
    "axes.titlesize": 8, "axes.labelsize": 8, "figure.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7.5, "legend.frameon": False, "legend.handlelength": 1.6, "legend.columnspacing": 1.4,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7, "axes.unicode_minus": True,
    "xtick.major.width": 0.7, "ytick.major.width": 0.7, "xtick.major.size": 2.5, "ytick.major.size": 2.5,
    "lines.linewidth": 1.4, "lines.markersize": 4, "axes.axisbelow": True, "axes.grid": False,
    "grid.color": "#e4e4e4", "grid.linewidth": 0.6, "figure.facecolor": "white", "text.usetex": False,
    "figure.autolayout": False, "figure.constrained_layout.use": False,
}  # fmt: skip


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """The same figure function, run under this library's style."""

    @wraps(function)
    def under_style(*args: P.args, **settings: P.kwargs) -> R:
        with rc_context(LOOK), names_by_number() as numbered:
            made = function(*args, **settings)
            if hasattr(made, "names_by_number"):
                made.names_by_number = dict(numbered)
            return made

    return under_style


def shades(n: int, low: float = 0.15, high: float = 0.95) -> list[str]:
    """Colours from light to dark, one for each place in an order."""
    return [to_hex(colormaps["viridis_r"](shade)) for shade in np.linspace(low, high, max(n, 2))][:n]


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
    """``text`` fit for a figure: no control characters, no mathematics run from ``$``, at most ``longest`` characters;
    in a figure of ours a number, where no font has its characters.

    >>> plain("pay $5\\x1b[31m now")
    'pay \\\\$5[31m now'
    """
    kept = "".join(c for c in str(text) if unicodedata.category(c)[0] != "C" and c not in "\u2028\u2029")
    shown = kept if len(kept) <= longest else kept[: longest - 1] + "…"
    return written(kept, shown.replace("$", r"\$"))


def number(value: float, digits: int = 6) -> str:
    """A short number with a true minus sign.

    >>> number(-0.5), number(12.0), number(-1e-17)
    ('−0.5', '12', '0')
    """
    return f"{round(value, 9) + 0.0:.{digits}g}".replace("-", "−")


def probability(p: float) -> str:
    """A p-value with as many digits as it deserves.

    >>> probability(0.004975), probability(0.31), probability(2e-7)
    ('p = 0.005', 'p = 0.31', 'p < 0.001')
    """
    return "p < 0.001" if p < 0.0005 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
