"""Redefine-math: how far the new value is from the old, and how well known the symbol.

    python experiments/readers_redefine.py [FAMILY ...]      # writes runs/readers/redefine-*.parquet|pdf|svg|png

The same leading digit is no redefinition of a first digit, so distance is told by the number of digits, and by the
first digit's distance at equal form. ``famous`` and ``known`` are by the ladder's own corpus; for a family that
read something else give SOURCE, the most famous constants first.
"""

from __future__ import annotations

import sys
from pathlib import Path

import isp_mech as im
from isp_mech.models import members

FAMILY = ["ladder"]
TASK = "redefine-math"
SOURCE = None
DOSES = {f"{TASK}:digits-{k}": float(k) for k in (1, 2, 3, 4, 6)}
DISTANCES = {f"{TASK}:near": "first digit moved by one", f"{TASK}:far": "by four or more"}
SYMBOLS = {f"{TASK}:{fame}": fame for fame in ("unknown", "known", "famous")}
VARIANTS = [name.split(":")[1] for name in (*DOSES, *DISTANCES, *SYMBOLS)]
N, SEED = 200, 0
OUT = Path("runs/readers")


def main() -> None:
    given = sys.argv[1:] or FAMILY
    pairs = [im.contrast(TASK, n=N, seed=SEED, source=SOURCE, variant=variant) for variant in VARIANTS]
    models = members(im.family(given[0] if len(given) == 1 else given))
    curve = im.concat([im.score(of, model, seed=SEED).curve for model in models for of in pairs])
    curve.save(OUT / "redefine-curve.parquet")
    figures = {
        "digits": im.figures.dose_response(curve, DOSES, dose="digits of the new value"),
        "distance": im.figures.variants_over_size(curve, DISTANCES),
        "symbol": im.figures.variants_over_size(curve, SYMBOLS),
    }
    for name, figure in figures.items():
        im.figures.save(figure, OUT / f"redefine-{name}")
    for row in curve.frame.itertuples():
        interval = f"{row.accuracy_lo:.2f} to {row.accuracy_hi:.2f}"
        print(f"{row.task:34} {row.model:14} {row.side:8} {row.accuracy:.2f} ({interval})")


if __name__ == "__main__":
    main()
