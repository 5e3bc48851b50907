"""What counts as restoring: a clear gain, more than random changes give, at little cost, each by itself enough to
refuse it."""

from __future__ import annotations

import numpy as np
import pytest

from isp_mech.scaling.restoring import join_restoration
from isp_mech.tables import make_run, table

ENDS = ("gain", "conflict_before", "conflict_after", "plain_before", "plain_after", "neutral_before", "neutral_after",
        "neutral_kl", "restored", "broken")  # fmt: skip
GOOD = {"gain": 0.4, "gain_lo": 0.3, "conflict_before": 0.1, "conflict_after": 0.5, "plain_before": 1.0,
        "plain_after": 0.97, "neutral_before": 2.0, "neutral_after": 2.05, "neutral_kl": 0.1,
        "neutral_information": 1.5, "same_answer": 0.6, "restored": 0.5,
        "broken": 0.0, "restored_random": 0.05, "p": 0.005}  # fmt: skip
REFUSED = [
    {"gain": 0.09, "gain_lo": 0.05},
    {"gain": 0.12, "gain_lo": 0.0},
    {"p": 0.2},
    {"restored_random": 0.5},
    {"restored_random": np.nan},
    {"plain_after": 0.94},
    {"neutral_after": 2.11},
    {"same_answer": 0.93},
    {"neutral_kl": 1.6},
]


def restored(*changes, model="m"):
    rows = []
    for changed in changes:
        row = GOOD | changed
        ends = {f"{name}_{end}": row[name] for name in ENDS for end in ("lo", "hi") if f"{name}_{end}" not in row}
        rows.append(
            {"model": model, "n_params": 1, "task": "t", "kind": "scale", "split": "half_a", "intervention": "none",
             "saved": "", "n_sites": 1, "n_layers": 1, "n_tokens": 1.0, "needs": "nothing", "n": 100,
             "n_overridden": 90, "n_random": 200, "q": np.nan, "restoring": False} | row | ends
        )  # fmt: skip
    return table("restoration", rows, make_run(model=model, task="t", method="made up"))


def test_a_clear_cheap_gain_counts():
    assert join_restoration([restored({})]).frame["restoring"].tolist() == [True]


@pytest.mark.parametrize("changed", REFUSED, ids=str)
def test_what_lacks_one_of_them_does_not(changed):
    found = join_restoration([restored({}, changed)]).frame
    assert found["restoring"].tolist() == [True, False]


def test_what_tells_little_otherwise_is_no_broken_model():
    """Though the text tells the model less, as it does where its words are guessed."""
    made = restored(
        {"neutral_kl": 0.09, "neutral_information": 0.01}, {"neutral_kl": 0.11, "neutral_information": 0.01}
    )
    assert join_restoration([made]).frame["restoring"].tolist() == [True, False]


def test_a_table_from_before_they_were_measured_is_not_refused_for_them():
    early = restored({"neutral_kl": 9.0}).frame.drop(columns=["same_answer", "neutral_information"])
    table_of = table("restoration", early.to_dict("records"), make_run(model="m", task="t", method="made up"))
    assert table_of.frame["same_answer"].isna().all()
    assert join_restoration([table_of]).frame["restoring"].tolist() == [True]


def test_false_discoveries_are_controlled_over_all_models():
    """One p of 0.04 alone is small enough; beside nine that are not, q is ten times as large."""
    one = restored({"p": 0.04})
    assert join_restoration([one]).frame["restoring"].tolist() == [True]
    many = join_restoration([one, restored(*[{"p": 0.9}] * 9, model="other")]).frame
    assert not many["restoring"].any() and many["q"].iloc[0] == pytest.approx(0.4)
