"""Quote repetition: how famous the sentence, where the changed word stands, how many shots.

    python experiments/readers_quotes.py [FAMILY ...]      # writes runs/readers/quotes-*.parquet|pdf|svg|png

``famous`` and ``known`` are by the ladder's own corpus; for a family that read something else give SOURCE, the most
famous quotations first.
"""

from __future__ import annotations

import sys
from pathlib import Path

import isp_mech as im
from isp_mech.models import members

FAMILY = ["ladder"]
TASK = "quote-repetition"
SOURCE = None
FAME = {f"{TASK}:{fame}": fame for fame in ("unknown", "known", "famous")}
PLACES = {f"{TASK}:changed-{place}": place for place in ("first", "middle", "last")}
SHOTS = {f"{TASK}:shots-{k}": float(k) for k in (0, 1, 2, 5)}
VARIANTS = [name.split(":")[1] for name in (*FAME, *PLACES, *SHOTS)]
N, SEED = 150, 0
OUT = Path("runs/readers")


def main() -> None:
    given = sys.argv[1:] or FAMILY
    pairs = [im.contrast(TASK, n=N, seed=SEED, source=SOURCE, variant=variant) for variant in VARIANTS]
    models = members(im.family(given[0] if len(given) == 1 else given))
    curve = im.concat([im.score(of, model, seed=SEED).curve for model in models for of in pairs])
    curve.save(OUT / "quotes-curve.parquet")
    figures = {
        "fame": im.figures.variants_over_size(curve, FAME),
        "place": im.figures.variants_over_size(curve, PLACES),
        "shots": im.figures.dose_response(curve, SHOTS, dose="sentences shown"),
    }
    for name, figure in figures.items():
        im.figures.save(figure, OUT / f"quotes-{name}")
    for row in curve.frame.itertuples():
        interval = f"{row.accuracy_lo:.2f} to {row.accuracy_hi:.2f}"
        print(f"{row.task:34} {row.model:14} {row.side:8} {row.accuracy:.2f} ({interval})")


if __name__ == "__main__":
    main()
