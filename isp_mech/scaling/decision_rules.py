"""Which rule a model follows where two are open: the answer's, the lure's, or neither.

Under hindsight-neglect the answer's rule is the expected value, the lure's the outcome. Both sides of a pair
together tell a rule from a guess: a model that judges by the outcome says the lure on both, one that goes
by the value says the lure on plain and the answer on conflict, and one that guesses does each as often as its opposite.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from isp_mech.scaling.group_rows import HEAD, Row, frame_of, mean_columns, rows_per_group
from isp_mech.stats import Floats
from isp_mech.tables import Table, table

RULES = ("by_answer", "by_lure", "by_neither")


def rules_followed(items: Table, *, seed: int = 0, level: float = 0.95) -> Table:
    """Table ``rules``: per model and task the shares of pairs decided by the answer's rule, the lure's, neither.

    With the shares of pairs that a model has right on plain and conflict (rr), on plain alone (rw), on
    conflict alone (wr) and on neither (ww): ``by_answer`` = rr - ww, ``by_lure`` = rw - wr, ``by_neither`` =
    2 (wr + ww). The three sum to 1. Where each pair is decided by one rule or by a guess, they are those
    shares without bias: a guess cannot know which letter is right, so rr and ww, rw and wr come alike,
    however much it prefers a letter (both letters count alike here, whatever their number). Noise, or a
    rule turned round, can carry a share under 0 or over 1; it is not cut. Intervals are percentile
    bootstrap intervals over pairs, the same resamples for every model.

    Only for pairs whose two completions are letters, right equally often (hindsight-neglect, neqa): where
    they are words, a word's own frequency is no guess in this sense. ``InputError`` lists every model and task
    without both sides, or with one letter right throughout.

    >>> from isp_mech.tables import make_run
    >>> rows = [{"model": "m", "n_params": 10, "task": "t", "item": f"{i}", "side": side, "correct": right,
    ...          "predicted_index": i % 2 if (side == "conflict") == right else 1 - i % 2, "loss": 1.0,
    ...          "total_logprob": 0.0, "margin": 0.0, "tie": False}
    ...         for i in range(4) for side, right in (("plain", True), ("conflict", i < 2))]
    >>> rules = rules_followed(table("items", rows, make_run(model="m", task="t", method="")))
    >>> rules.frame[list(RULES)].values.tolist()
    [[0.5, 0.5, 0.0]]
    """

    def make(head: Row, pairs: pd.DataFrame) -> list[Row]:
        values = rules_of_pairs(pairs)
        return [head | {"n": len(values)} | mean_columns(RULES, values, seed=seed, level=level)]

    frame = frame_of(items, "items", "rules_followed", empty=False)
    called = "model {model!r}, task {task!r}".format_map
    return table("rules", rows_per_group(frame, HEAD, make, subject="rules_followed", called=called), items.run)


def rules_of_pairs(frame: pd.DataFrame) -> Floats:
    """Of each pair, for one model and task, its part in the shares of ``RULES``: (pair, 3), whose mean they are."""
    plain, conflict = (_one_side(frame, side) for side in ("plain", "conflict"))
    if set(plain.index) != set(conflict.index):
        raise ValueError("pairs with one side only, expected plain and conflict of each")
    first, second = plain.loc[conflict.index, "correct"].to_numpy(bool), conflict["correct"].to_numpy(bool)
    said = conflict["predicted_index"].to_numpy(int)
    if set(said.tolist()) - {0, 1}:
        raise ValueError("more than two completions, expected pairs")
    letter = np.where(second, said, 1 - said)  # the answer's place
    counts = np.bincount(letter, minlength=2)
    if not counts.all():
        raise ValueError(f"the answer is class {int(counts.argmax())} in all {len(letter)} pairs, expected either")
    by_answer = (first & second).astype(float) - (~first & ~second)
    by_lure = (first & ~second).astype(float) - (~first & second)
    weight = len(letter) / (2 * counts[letter])
    return np.stack([by_answer, by_lure, 2.0 * ~first], axis=1) * weight[:, None]


def _one_side(frame: pd.DataFrame, side: str) -> pd.DataFrame:
    rows = frame[frame["side"] == side].set_index("item")
    if not len(rows):
        raise ValueError(f"no side {side!r}, expected plain and conflict")
    if not rows.index.is_unique:
        raise ValueError(f"items that are on side {side!r} twice, expected each once")
    return rows
