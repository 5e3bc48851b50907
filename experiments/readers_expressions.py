"""Linear expressions whose shots fit two rules: does a model ask although nothing is unknown?

    python experiments/readers_expressions.py [FAMILY ...]      # writes runs/readers/expressions-*.parquet|pdf|svg|png

After Shah et al. 2022, section 3.3. Dose and response: shots that ask nothing, because nothing is unknown.
"""

from __future__ import annotations

import sys
from pathlib import Path

import isp_mech as im
from isp_mech.models import members

FAMILY = ["ladder"]
TASK = "linear-expressions"
DOSES = {f"{TASK}:disagreeing-{k}": float(k) for k in (0, 1, 2, 5)}
LABELS = {f"{TASK}:disagreeing-0": "as it is", f"{TASK}:clear-instructions": "clear instructions"}
VARIANTS = [name.split(":")[1] for name in dict.fromkeys((*DOSES, *LABELS))]
N, SEED = 30, 0  # ten shots a pair and ten more on the neutral side; more give narrower intervals
OUT = Path("runs/readers")


def main() -> None:
    given = sys.argv[1:] or FAMILY
    pairs = [im.contrast(TASK, n=N, seed=SEED, variant=variant) for variant in VARIANTS]
    models = members(im.family(given[0] if len(given) == 1 else given))
    curve = im.concat([im.score(of, model, seed=SEED).curve for model in models for of in pairs])
    curve.save(OUT / "expressions-curve.parquet")
    figures = {
        "dose": im.figures.dose_response(curve, DOSES, dose="shots of ten without an unknown"),
        "wording": im.figures.variants_over_size(curve, LABELS),
    }
    for name, figure in figures.items():
        im.figures.save(figure, OUT / f"expressions-{name}")
    for row in curve.frame.itertuples():
        interval = f"{row.accuracy_lo:.2f} to {row.accuracy_hi:.2f}"
        print(f"{row.task:34} {row.model:14} {row.side:8} {row.accuracy:.2f} ({interval})")


if __name__ == "__main__":
    main()
