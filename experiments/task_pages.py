"""The figures and numbers of the documentation's four pages on why a task scales inversely on the ladder.

    python experiments/task_pages.py [TASK ...]     # docs/images/TASK-*.svg, and the table in docs/why/TASK.md

The table stands between two comments of the page; the words around it are written by hand.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from pages import numbers, put

import isp_mech as im
from isp_mech.causal import knock_out
from isp_mech.scaling import summaries

TASKS = ("quote-repetition", "redefine-math", "neqa", "hindsight-neglect")
N, SEED, N_RANDOM = 300, 2026, 200
DOCS = Path("docs")
MARKS = numbers("task_pages.py")


def main() -> None:
    for task in sys.argv[1:] or TASKS:
        pairs, family = im.contrast(task, n=N, seed=SEED), im.family("ladder")
        scores = im.score(pairs, family, trace=True)
        sites = im.locate(pairs, family)
        check = im.verify(sites, pairs, family, n_random=N_RANDOM)
        onset = scores.traces.onset
        story = summaries.story(sites.sites, sites.effects, curve=scores.curve, shares=scores.shares, onset=onset)
        figures = {
            "curve": im.figures.scaling_curve(scores.curve, values=("accuracy",)),
            "shares": im.figures.shares_over_size(scores.shares),
            "story": im.figures.story_over_size(story),
            "map": im.figures.override_map(sites),
            "verification": im.figures.verification(check),
        }
        for name, figure in figures.items():
            figure.savefig(DOCS / "images" / f"{task}-{name}.svg")
        flow = knock_out(pairs, family)
        text = "\n".join(["", *table(scores, sites, story, check, flow), "", shape(scores), ""])
        put(DOCS / "why" / f"{task}.md", MARKS, [text])
        print(f"\n## {task}\n{text}")


def table(scores, sites, story, check, flow) -> list[str]:
    """Markdown: a column for each size."""
    order = scores.curve.frame.sort_values("n_params")["model"].drop_duplicates().tolist()
    conflict, plain = (scores.curve.frame.query("side == @side").set_index("model") for side in ("conflict", "plain"))
    shares, told = scores.shares.frame.set_index("model"), story.frame.set_index("model")
    rows = {
        "conflict prompts right, %": [percent(conflict.loc[m], "accuracy") for m in order],
        "plain prompts right, %": [percent(plain.loc[m], "accuracy") for m in order],
        "pairs overridden, %": [percent(shares.loc[m], "overridden") for m in order],
        "sites towards the answer, of all": [f"{told.n_follow[m]} of {told.n_sites[m]}" for m in order],
        "sites towards the lure": [str(told.n_override[m]) for m in order],
        "override mass, nats": [number(told.loc[m], "override_mass") for m in order],
        "of it in heads, %": [heads_share(told.attention_share[m]) for m in order],
        "strongest towards the lure": [strongest(sites.sites.frame, m) for m in order],
        "conflict right with the located sites replaced, %": [after(check.frame, m) for m in order],
    }
    for role, effects in flow.frame.groupby("place", sort=False):
        by_model = effects.set_index("model")
        rows[f"attention to {str(role).replace('_', ' ')}, nats"] = [number(by_model.loc[m], "effect") for m in order]
    lines = ["| | " + " | ".join(m.removeprefix("ladder-") for m in order) + " |", "|---" * (len(order) + 1) + "|"]
    return lines + [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()]


def percent(row: pd.Series, name: str) -> str:
    return f"{100 * row[name]:.0f} ({100 * row[f'{name}_lo']:.0f} to {100 * row[f'{name}_hi']:.0f})"


def heads_share(share: float) -> str:
    return "none" if np.isnan(share) else f"{100 * share:.0f}"


def number(row: pd.Series, name: str) -> str:
    return f"{row[name]:.2f} ({row[f'{name}_lo']:.2f} to {row[f'{name}_hi']:.2f})"


def strongest(frame: pd.DataFrame, model: str) -> str:
    found = frame[(frame["model"] == model) & frame["significant"] & (frame["effect"] < 0)]
    if not len(found):
        return "none"
    row = found.loc[found["effect"].idxmin()]
    site = im.Site(row["layer"], row["kind"], row["head"] if row["kind"] == "head" else None)
    return f"{site} ({row['effect']:.2f})"


def after(frame: pd.DataFrame, model: str) -> str:
    """Mean over both halves, each judged by sites that the other chose, with the larger p."""
    rows = frame[(frame["model"] == model) & (frame["sites"] != "random")]
    if not (rows["n_sites"] > 0).all():
        return "none found"
    before, now = (100 * np.average(rows[f"accuracy_{when}"]) for when in ("before", "after"))
    return f"{before:.0f} to {now:.0f} (p {rows['p_random'].max():.3f})"


def shape(scores) -> str:
    return f"Shape of the conflict curve: {im.shape_of_curve(scores.curve, 'conflict').sentence}"


if __name__ == "__main__":
    main()
