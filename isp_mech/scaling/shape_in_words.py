"""What a curve does, in words."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from isp_mech.scaling.shape_decision import POWER, SIZES_FOR_A_SHAPE

Interval = tuple[float, float, float]


@dataclass(frozen=True)
class Axis:
    """How one speaks of what changes along a curve."""

    quantity: str  # ... per tenfold `quantity`
    grows: str  # falls with `grows`
    first: str  # from the `first` ...
    last: str  # ... to the `last`
    point: str
    points: str  # of five `points`


AXES = MappingProxyType({
    "parameters": Axis("parameters", "size", "smallest", "largest", "size", "sizes"),
    "tokens": Axis("training tokens", "training", "first", "last", "checkpoint", "checkpoints"),
    "FLOPs": Axis("training FLOPs", "compute", "least trained", "most trained", "model", "models"),
})  # fmt: skip


def sentence(
    name: str,
    *,
    axis: Axis,
    measure: str,
    n_points: int,
    level: float,
    change: Interval,
    slopes: tuple[Interval, ...],
    turn: Interval,
    order: str,
    smallest: float,
    differ: bool,
) -> str:
    """One sentence, or two, that name the shape and what it rests on."""
    percent = f"{100 * level:g} % interval"
    k, points = n_points, axis.points
    ends = f"from the {axis.first} to the {axis.last} of {k} {points} it changes by {_interval(change, percent)}"
    lines = [_interval(slope, percent) for slope in slopes]
    if name in ("inverse", "positive"):
        verb = "falls" if name == "inverse" else "rises"
        return f"{measure} {verb} with {axis.grows}, by {lines[0]} per tenfold {axis.quantity}; {ends} ({order})."
    if name in ("U", "inverted U"):
        first, second = ("falls", "rises") if name == "U" else ("rises", "falls")
        return (
            f"{measure} first {first} with {axis.grows}, by {lines[0]} per tenfold {axis.quantity}, and {second} from "
            f"{amount(turn[0])} {axis.quantity} on, by {lines[1]}; it turns between {amount(turn[1])} and "
            f"{amount(turn[2])} ({percent})."
        )
    shown = f"with a probability of {POWER:g}"
    if name == "flat":
        return (
            f"{measure} does not change with {axis.grows}: {ends}; a change of {smallest:.2f} would have shown {shown}."
        )
    if k == 1:
        return f"one {axis.point} shows no shape: at least {SIZES_FOR_A_SHAPE} are needed."
    if k < SIZES_FOR_A_SHAPE:
        return f"two {points} show a change but no shape, for which at least {SIZES_FOR_A_SHAPE} are needed: {ends}."
    if differ:
        return (
            f"what {measure} does with {axis.grows} is undecided: {points} differ, but by no one line or turn; "
            f"{ends} ({order})."
        )
    return (
        f"what {measure} does with {axis.grows} is undecided: {ends} ({order}). The smallest trend that {k} {points} "
        f"and so many items would have shown {shown} is a change of {smallest:.2f}."
    )


def _interval(values: Interval, percent: str) -> str:
    return f"{values[0]:+.2f} ({percent} {values[1]:+.2f} to {values[2]:+.2f})"


def amount(number: float) -> str:
    """A number of parameters, tokens or operations as one reads it.

    >>> amount(27_000), amount(1_300_000), amount(6.9e9), amount(300), amount(2.3e22)
    ('27 thousand', '1.3 million', '6.9 billion', '300', '2.3e+22')
    """
    if number >= 1e15:
        return f"{number:.3g}"
    for unit, name in ((1e12, " trillion"), (1e9, " billion"), (1e6, " million"), (1e3, " thousand"), (1, "")):
        if round(number, 6) >= unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:.3g}"
