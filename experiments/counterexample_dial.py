"""Do counterexamples in training turn the inverse curve into a U? Three sizes, retrained at several rates.

    python experiments/counterexample_dial.py      # trains what is missing (about an hour on two cores)

A rate is the share of lettered questions that are negated and of bets whose outcome disagrees with the
expected value. Negated questions are trained on one half of the facts and asked about the other. Writes
runs/dial/curve-*.parquet|pdf|svg|png, training-*.parquet|pdf|svg|png, and prints the table. A U over size is a largest
size above the lowest smaller one, over training an end above the lowest evaluation: both with 95 % intervals.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from ladder_card import correct_by_size
from scipy.stats import binomtest

import isp_mech as im
from isp_mech.ladder import evaluation, train, weights_folder
from isp_mech.ladder.training_course import read_course
from isp_mech.stats import bootstrap_interval

SIZES = ("ladder-25k", "ladder-335k", "ladder-1.8m")
RATES = (0.0, 0.05, 0.2)
COUNTEREXAMPLES = {"neqa": "negated questions", "hindsight-neglect": "disagreeing bets"}
N, SEED = 300, 1
OUT = Path("runs/dial")


def folder_of(rate: float) -> Path:
    """Where the models of this rate lie; without counterexamples they are the shipped ones."""
    return OUT / f"rate-{rate:g}" if rate else weights_folder()


def labelled(table: im.Table, rate: float) -> im.Table:
    """The table with the counterexamples' rate in place of the task."""
    named = [f"{rate:.0%} {COUNTEREXAMPLES[task]}" for task in table.frame["task"]]
    return replace(table, frame=table.frame.assign(task=named))


def turn_over_size(items: pd.DataFrame) -> str:
    """Conflict accuracy of the largest size less the lowest smaller one's, with its interval over pairs."""
    sizes, correct = correct_by_size(items, "conflict")
    lowest = int(np.argmin(correct[:, :-1].mean(0)))
    rise = correct[:, -1] - correct[:, lowest]
    low, high = bootstrap_interval(rise, seed=SEED)
    return f"{sizes[-1]} less {sizes[lowest]}: {rise.mean():.2f} ({low:.2f} to {high:.2f})"


def turn_over_training(course: pd.DataFrame, task: str, size: str) -> str:
    """The lowest conflict accuracy in the course of training, and that of the end."""
    rows = course[(course["model"] == size) & (course["task"] == task) & (course["side"] == "conflict")]
    n = evaluation.TASKS[task]

    def said(value: float) -> str:
        low, high = binomtest(round(value * n), n).proportion_ci(method="wilson")
        return f"{value:.2f} ({low:.2f} to {high:.2f})"

    lowest, end = rows.loc[rows["value"].idxmin()], rows.loc[rows["step"].idxmax()]
    return f"{size}: {said(lowest['value'])} at step {lowest['step']}, {said(end['value'])} at the end"


def main() -> None:
    for rate in RATES[1:]:
        dials = ["--negated", f"{rate}", "--disagreeing", f"{rate}"]
        if train.main([*dials, "--sizes", *SIZES, "--out", str(folder_of(rate))]):
            raise SystemExit(2)
    courses = {rate: read_course(folder_of(rate)) for rate in RATES}
    for task in COUNTEREXAMPLES:
        curves, turns = [], []
        pairs = evaluation.held_out(im.contrast(task, n=2 * N, seed=SEED), N)
        for rate in RATES:
            family = im.family([folder_of(rate) / size for size in SIZES])
            scores = im.score(pairs, family, progress=True)
            curves.append(labelled(scores.curve, rate))
            turns.append(f"{rate:.0%} {COUNTEREXAMPLES[task]}: {turn_over_size(scores.items.frame)}")
            turns += [f"    {turn_over_training(courses[rate].frame, task, size)}" for size in SIZES]
        curve = im.concat(curves)
        figure = im.figures.scaling_curve(curve, sides=("conflict", "plain"), values=("accuracy",))
        im.figures.save(figure, OUT / f"curve-{task}", curve)
        for row in curve.frame[curve.frame["side"] == "conflict"].itertuples():
            print(f"{row.task:24} {row.model:14} {row.accuracy:.2f} ({row.accuracy_lo:.2f} to {row.accuracy_hi:.2f})")
        print("\n".join(turns))
    for rate in RATES[1:]:
        rows = courses[rate].frame
        kept = replace(courses[rate], frame=rows[rows["task"].isin(COUNTEREXAMPLES)].reset_index(drop=True))
        im.figures.save(im.figures.training_course(kept), OUT / f"training-{rate:g}", kept)


if __name__ == "__main__":
    main()
