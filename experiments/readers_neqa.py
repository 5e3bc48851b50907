"""NeQA, as its readers asked: where the negation stands, two of them, none, and a sentence without letters.

    python experiments/readers_neqa.py [FAMILY ...]      # writes runs/readers/neqa-*.parquet|pdf|svg|png

The same facts and options in every variant; the twin asks for the same letter without a negation, so that it
shows what each size knows. Under two negations the right letter is that of no negation: a size that hears none
is right there, one that hears one of the two is wrong.
"""

from __future__ import annotations

import sys
from pathlib import Path

import isp_mech as im
from isp_mech.models import members

FAMILY = ["ladder"]
TASK = "neqa"
LABELS = {
    "neqa:twin": "no negation (twin)",
    "neqa": "... is not a kind of",
    "neqa:negation-before": "The following is not true: ...",
    "neqa:negation-after": "... Which option is not right?",
    "neqa:double-negation": "two negations",
    "neqa:sentence": "no letters, a sentence",
}
VARIANTS = [name.partition(":")[2] for name in LABELS]
N, SEED = 300, 0
OUT = Path("runs/readers")


def main() -> None:
    given = sys.argv[1:] or FAMILY
    pairs = [im.contrast(TASK, n=N, seed=SEED, variant=variant) for variant in VARIANTS]
    models = members(im.family(given[0] if len(given) == 1 else given))
    curve = im.concat([im.score(of, model, seed=SEED).curve for model in models for of in pairs])
    curve.save(OUT / "neqa-curve.parquet")
    figures = {
        "negations": im.figures.variants_over_size(curve, LABELS),
        "plain": im.figures.variants_over_size(curve, LABELS, side="plain"),
    }
    for name, figure in figures.items():
        im.figures.save(figure, OUT / f"neqa-{name}")
    for row in curve.frame.itertuples():
        interval = f"{row.accuracy_lo:.2f} to {row.accuracy_hi:.2f}"
        print(f"{row.task:34} {row.model:14} {row.side:8} {row.accuracy:.2f} ({interval})")


if __name__ == "__main__":
    main()
