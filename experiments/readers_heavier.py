""" "Which object is heavier?", the first option right in all shots: the position's cue against the answer.

    python experiments/readers_heavier.py [FAMILY ...]      # writes runs/readers/heavier-*.parquet|pdf|svg|png

The neutral side shows whether a size knows the weights at all: without that, a fall says nothing. The ladder has
read of no weights, so there only the cue can show.
"""

from __future__ import annotations

import sys
from pathlib import Path

import isp_mech as im
from isp_mech.models import members

FAMILY = ["ladder"]
TASK = "heavier-object"
LABELS = {
    "heavier-object:mixed": "no cue",
    "heavier-object:shots-1": "first, one shot",
    "heavier-object": "first, three shots",
    "heavier-object:shots-10": "first, ten shots",
    "heavier-object:second-right": "second, three shots",
}
VARIANTS = [name.partition(":")[2] for name in LABELS]
N, SEED = 100, 0
OUT = Path("runs/readers")


def main() -> None:
    given = sys.argv[1:] or FAMILY
    pairs = [im.contrast(TASK, n=N, seed=SEED, variant=variant) for variant in VARIANTS]
    models = members(im.family(given[0] if len(given) == 1 else given))
    curve = im.concat([im.score(of, model, seed=SEED).curve for model in models for of in pairs])
    curve.save(OUT / "heavier-curve.parquet")
    figures = {
        "conflict": im.figures.variants_over_size(curve, LABELS),
        "neutral": im.figures.variants_over_size(curve, LABELS, side="neutral"),
    }
    for name, figure in figures.items():
        im.figures.save(figure, OUT / f"heavier-{name}")
    for row in curve.frame.itertuples():
        interval = f"{row.accuracy_lo:.2f} to {row.accuracy_hi:.2f}"
        print(f"{row.task:34} {row.model:14} {row.side:8} {row.accuracy:.2f} ({interval})")


if __name__ == "__main__":
    main()
