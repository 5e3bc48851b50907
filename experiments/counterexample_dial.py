"""Do counterexamples in training turn the inverse curve into a U? Three sizes, retrained at several rates.

    python experiments/counterexample_dial.py      # trains what is missing (about half an hour on two cores)

A rate is the share of lettered questions that are negated and of bets whose outcome disagrees with the
expected value. Negated questions are trained on one half of the facts and asked about the other. Writes
runs/dial/curve.parquet|pdf|svg|png, training-*.parquet|pdf|svg|png, and prints the table.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import isp_mech as im
from isp_mech.ladder import evaluating, train, weights_folder
from isp_mech.ladder.course import read_course

SIZES = ("ladder-25k", "ladder-335k", "ladder-800k")
RATES = (0.0, 0.01, 0.05)
TASKS = ("neqa", "hindsight-neglect")
N, SEED = 300, 1
OUT = Path("runs/dial")


def folder_of(rate: float) -> Path:
    """Where the models of this rate lie; without counterexamples they are the shipped ones."""
    return OUT / f"rate-{rate:g}" if rate else weights_folder()


def labelled(table: im.Table, rate: float) -> im.Table:
    """The table with the rate in its tasks' names."""
    named = [f"{task}, {rate:.0%} counterexamples" for task in table.frame["task"]]
    return replace(table, frame=table.frame.assign(task=named))


def main() -> None:
    for rate in RATES[1:]:
        dials = ["--negated", f"{rate}", "--disagreeing", f"{rate}"]
        if train.main([*dials, "--sizes", *SIZES, "--out", str(folder_of(rate))]):
            raise SystemExit(2)
    curves = []
    for task in TASKS:
        pairs = evaluating.held_out(im.contrast(task, n=2 * N, seed=SEED), N)
        for rate in RATES:
            family = im.family([folder_of(rate) / size for size in SIZES])
            curves.append(labelled(im.score(pairs, family, progress=True).curve, rate))
    curve = im.concat(curves)
    figure = im.figures.scaling_curve(curve, sides=("conflict", "plain"), values=("accuracy",))
    im.figures.save(figure, OUT / "curve", curve)
    for rate in RATES[1:]:
        training = read_course(folder_of(rate))
        kept = replace(training, frame=training.frame[training.frame["task"].isin(TASKS)].reset_index(drop=True))
        im.figures.save(im.figures.training_course(kept), OUT / f"training-{rate:g}", kept)
    conflict = curve.frame[curve.frame["side"] == "conflict"]
    for row in conflict.itertuples():
        print(f"{row.task:48} {row.model:14} {row.accuracy:.2f} ({row.accuracy_lo:.2f} to {row.accuracy_hi:.2f})")


if __name__ == "__main__":
    main()
