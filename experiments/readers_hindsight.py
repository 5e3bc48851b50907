"""Hindsight-neglect, as its readers asked: does one shot that tells value from outcome help? Does a persona?

    python experiments/readers_hindsight.py [FAMILY ...]      # writes runs/readers/hindsight-*.parquet|pdf|svg|png

Dose and response (shots whose outcome disagrees with the expected value), and which rule each size follows:
expected value, outcome, or neither. The shots of a dose are those of the next but for one outcome.
"""

from __future__ import annotations

import sys
from pathlib import Path

import isp_mech as im
from isp_mech.models import members
from isp_mech.scaling.decision_rules import rules_followed

FAMILY = ["ladder"]
TASK = "hindsight-neglect"
DOSES = {f"{TASK}:disagreeing-{k}": float(k) for k in range(6)}
WORDINGS = {
    f"{TASK}:disagreeing-0": "as it is",
    f"{TASK}:persona": "a statistical assistant",
    f"{TASK}:clear-instructions": "clear instructions",
}
RULES = {"by_answer": "expected value", "by_lure": "outcome", "by_neither": "neither"}
N, SEED = 120, 0  # twelve sets of ten shots; more give narrower intervals
OUT = Path("runs/readers")


def main() -> None:
    given = sys.argv[1:] or FAMILY
    variants = [name.split(":")[1] for name in dict.fromkeys([*DOSES, *WORDINGS])]
    pairs = [im.contrast(TASK, n=N, seed=SEED, variant=variant) for variant in variants]
    models = members(im.family(given[0] if len(given) == 1 else given))
    scores = [im.score(of, model, seed=SEED) for model in models for of in pairs]
    curve = im.concat([of.curve for of in scores])
    rules = rules_followed(im.concat([of.items for of in scores]), seed=SEED)
    curve.save(OUT / "hindsight-curve.parquet")
    rules.save(OUT / "hindsight-rules.parquet")
    dose = "shots of ten whose outcome disagrees with the value"
    figures = {
        "dose": im.figures.dose_response(curve, DOSES, dose=dose),
        "wording": im.figures.variants_over_size(curve, WORDINGS),
        "rules": im.figures.rules_over_size(rules, RULES),
    }
    for name, figure in figures.items():
        im.figures.save(figure, OUT / f"hindsight-{name}")
    for row in rules.frame.itertuples():
        value = f"{row.by_answer:+.2f} ({row.by_answer_lo:+.2f} to {row.by_answer_hi:+.2f})"
        outcome = f"{row.by_lure:+.2f} ({row.by_lure_lo:+.2f} to {row.by_lure_hi:+.2f})"
        print(f"{row.task:38} {row.model:14} value {value}, outcome {outcome}, neither {row.by_neither:.2f}")


if __name__ == "__main__":
    main()
