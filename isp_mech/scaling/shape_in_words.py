"""What a curve does, and how it is said in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from isp_mech.scaling.shape_decision import POWER, SIZES_FOR_A_SHAPE, ShapeName

Over = Literal["parameters", "tokens", "FLOPs"]


@dataclass(frozen=True)
class Slope:
    """Change of the measure per tenfold size between ``start`` and ``stop``, with its interval; negative falls."""

    value: float
    lo: float
    hi: float
    start: float
    stop: float


@dataclass(frozen=True)
class Shape:
    """A curve's name and what it rests on.

    ``spearman`` (-1..1) and its exact ``p`` are of size and measure. ``slopes`` holds one line over all
    sizes, or the two on either side of ``turn`` (a size, between ``turn_lo`` and ``turn_hi``; NaN where there
    is none) for U and inverted U. ``change`` is largest minus smallest size, in the measure's unit, with its
    interval. ``smallest_effect`` is the change over all sizes that would have been called a trend with
    probability 0.8, ``smallest_turn`` the depth of a turn in the middle that would have shown as often (inf
    where none could). ``sentence`` says it in words.
    """

    name: ShapeName
    spearman: float
    p: float
    slopes: tuple[Slope, ...]
    change: float
    change_lo: float
    change_hi: float
    turn: float
    turn_lo: float
    turn_hi: float
    smallest_effect: float
    smallest_turn: float
    sentence: str


@dataclass(frozen=True)
class Axis:
    """How one speaks of what changes along a curve."""

    quantity: str  # ... per tenfold `quantity`
    grows: str  # falls with `grows`
    first: str  # from the `first` ...
    last: str  # ... to the `last`
    point: str
    points: str  # of five `points`


AXES: Mapping[Over, Axis] = MappingProxyType({
    "parameters": Axis("parameters", "size", "smallest", "largest", "size", "sizes"),
    "tokens": Axis("training tokens", "training", "first", "last", "checkpoint", "checkpoints"),
    "FLOPs": Axis("training FLOPs", "compute", "least trained", "most trained", "model", "models"),
})  # fmt: skip


def sentence(shape: Shape, *, over: Over, measure: str, n_points: int, level: float, differ: bool) -> str:
    """One sentence, or two, that name the shape and what it rests on; ``differ``: some sizes clearly differ."""
    said = _said(shape, AXES[over], measure, n_points, f"{100 * level:g} % interval", differ)
    return said[0].upper() + said[1:]


def _said(shape: Shape, axis: Axis, measure: str, k: int, percent: str, differ: bool) -> str:
    def interval(value: float, lo: float, hi: float) -> str:
        return f"{value:+.2f} ({percent} {lo:+.2f} to {hi:+.2f})"

    change = interval(shape.change, shape.change_lo, shape.change_hi)
    ends = f"from the {axis.first} to the {axis.last} of {k} {axis.points} it changes by {change}"
    known = not math.isnan(shape.spearman)  # all equal: there is no order
    order = f"Spearman {shape.spearman:+.2f}, exact p {shape.p:.2g}" if known else "equal everywhere"
    lines = [interval(slope.value, slope.lo, slope.hi) for slope in shape.slopes]
    if shape.name in ("inverse", "positive"):
        verb = "falls" if shape.name == "inverse" else "rises"
        return f"{measure} {verb} with {axis.grows}, by {lines[0]} per tenfold {axis.quantity}; {ends} ({order})."
    if shape.name in ("U", "inverted U"):
        first, second = ("falls", "rises") if shape.name == "U" else ("rises", "falls")
        turn, lowest, highest = (amount(size) for size in (shape.turn, shape.turn_lo, shape.turn_hi))
        return (
            f"{measure} first {first} with {axis.grows}, by {lines[0]} per tenfold {axis.quantity}, and {second} from "
            f"{turn} {axis.quantity} on, by {lines[1]}; it turns between {lowest} and {highest} ({percent})."
        )
    smallest, shown = f"{shape.smallest_effect:.2f}", f"with a probability of {POWER:g}"
    if shape.name == "flat":
        return f"{measure} does not change with {axis.grows}: {ends}; a change of {smallest} would have shown {shown}."
    if k == 1:
        return f"one {axis.point} shows no shape: at least {SIZES_FOR_A_SHAPE} are needed."
    if k < SIZES_FOR_A_SHAPE:
        needed = f"for which at least {SIZES_FOR_A_SHAPE} are needed"
        return f"two {axis.points} show a change but no shape, {needed}: {ends}."
    undecided = f"what {measure} does with {axis.grows} is undecided"
    if differ:
        return f"{undecided}: {axis.points} differ, but by no one line or turn; {ends} ({order})."
    return (
        f"{undecided}: {ends} ({order}). The smallest trend that {k} {axis.points} "
        f"and so many items would have shown {shown} is a change of {smallest}."
    )


def amount(number: float) -> str:
    """A number of parameters, tokens or operations as one reads it.

    >>> amount(27_000), amount(1_300_000), amount(6.9e9), amount(300), amount(2.3e22)
    ('27 thousand', '1.3 million', '6.9 billion', '300', '2.3e+22')
    """
    for unit, name in ((1e12, " trillion"), (1e9, " billion"), (1e6, " million"), (1e3, " thousand")):
        if 1e15 > round(number, 6) >= unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:.3g}"
