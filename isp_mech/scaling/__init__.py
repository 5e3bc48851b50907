"""The shape of a curve over model size: inverse, positive, U, inverted U, flat, or undecided.

    >>> found = shape([1e5, 1e6, 1e7, 1e8, 1e9], accuracy=[0.9, 0.8, 0.6, 0.4, 0.2], n=300)
    >>> found.name, round(found.change, 2), round(found.spearman, 2)
    ('inverse', -0.7, -1.0)

Every test is on the items: it says what other items of the same task would show on the same models. That
other models of the same sizes would show it too is what Spearman's exact p speaks for, and with few
sizes it can say little (at five it is never under 0.017): both are in the result. ``power`` says how often
a known curve gets each name; ``shapes`` and ``regressions`` take whole tables.
"""

from __future__ import annotations

from isp_mech.scaling.curve_shape import Shape, Slope, shape, shape_of_curve
from isp_mech.scaling.power import chances, power
from isp_mech.scaling.regression import regressions
from isp_mech.scaling.shape_decision import NAMES
from isp_mech.scaling.shape_in_words import AXES
from isp_mech.scaling.shape_table import shapes

__all__ = ["AXES", "NAMES", "Shape", "Slope", "power", "regressions", "shape", "shape_of_curve", "shapes"]
__all__ += ["chances"]  # the old name of power
