"""What interventions restore, over both halves of the pairs, and which of them is the best at a size."""

from __future__ import annotations

from typing import Literal

import pandas as pd

from isp_mech.figures.frames import by_size, frame_of, of_task
from isp_mech.tables import Table

NOTHING = "nothing"  # what a change needs of a prompt that could be left in the model
SWAP = "swap"  # the kind that needs a pair's other prompt
GUESSING = 0.5  # of two completions
Needs = Literal["roles", "nothing"]
_MEANS = ("conflict_before", "conflict_after", "gain", "plain_before", "plain_after", "neutral_before", "neutral_after",
          "neutral_kl", "restored", "restored_random", "broken", "plain_tokens")  # fmt: skip
_SPREAD = ("restored", "plain_after", "conflict_before", "conflict_after")  # whose ends are kept, each half's mean


def restored_rows(restoration: Table, task: str | None = None) -> pd.DataFrame:
    """One row for each model and kind of one task, sizes from small to large; the halves are put together.

    Shares, losses and the ends of intervals are means of the two halves, p and q the larger ones; ``restoring`` says
    that it is so on both halves, ``guessing`` that conflict accuracy with the change has 50 % within its interval on
    both. ``intervention``, ``needs`` and ``saved`` are those of the half on which more is right; ``other`` is what the
    other half found.
    """
    frame = by_size(of_task(frame_of(restoration, "restoration"), task))
    guessing = (frame["conflict_after_lo"] <= GUESSING) & (frame["conflict_after_hi"] >= GUESSING)
    frame = frame.assign(guessing=guessing & (frame["intervention"] != "none"))
    groups = frame.groupby(["n_params", "model", "task", "kind"], observed=True, sort=False)
    columns = [*_MEANS, *(f"{name}_{end}" for name in _SPREAD for end in ("lo", "hi"))]
    made = groups[columns].mean().join(groups[["p", "q", "n_random"]].max()).join(groups[["n", "n_overridden"]].sum())
    made = made.join(groups[["restoring", "guessing"]].all())
    best = frame.loc[groups["conflict_after"].idxmax()].set_index(["n_params", "model", "task", "kind"])
    other = frame.loc[groups["conflict_after"].idxmin()].set_index(["n_params", "model", "task", "kind"])
    made = made.join(best[["intervention", "needs", "saved"]]).join(other["intervention"].rename("other"))
    return by_size(made.reset_index())


def best_change(rows: pd.DataFrame, needs: Needs | None = None) -> pd.Series | None:
    """Of one model's rows the change that counts as restoring and makes most conflict prompts right, of those that need
    the spans of roles, or nothing of a prompt, or of both; None where there is none. A swap is none of them: it needs
    the pair's other prompt, so that it says where the override lies and is of no use beyond."""
    rows = rows[rows["restoring"] & (rows["kind"] != SWAP)]
    if needs is not None:
        rows = rows[(rows["needs"] == NOTHING) == (needs == "nothing")]
    return rows.sort_values("conflict_after").iloc[-1] if len(rows) else None
