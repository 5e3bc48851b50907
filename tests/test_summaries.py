"""Onset, sensitivity and shares, against numbers worked by hand and what the measuring rooms say."""

from __future__ import annotations

import numpy as np
import pytest

from isp_mech.errors import InputError
from isp_mech.summaries import onset, onsets, sensitivity, shares
from isp_mech.tables import concat, make_run, table

HEAD = {"n_params": 10, "task": "t"}
DEPTHS = [0.0, 0.5, 1.0]


def a_run(model="m"):
    return make_run(model=model, task="t", method="by hand")


def lens_of(margins, model="m"):
    """One layer, so three sublayers; ``margins[pair][side]``."""
    rows = [
        {**HEAD, "model": model, "pair": pair, "side": side, "layer": (i - 1) // 2,
         "sublayer": ["embed", "attn", "mlp"][i], "depth": DEPTHS[i], "margin": value}
        for pair, sides in margins.items() for side, values in sides.items() for i, value in enumerate(values)
    ]  # fmt: skip
    return table("lens", rows, a_run(model))


MARGINS = {
    "p0": {"conflict": [1.0, 2.0, -1.0], "plain": [0.0, 1.0, -2.0]},
    "p1": {"conflict": [1.0, -1.0, -1.0], "plain": [0.0, -3.0, -3.0]},
    "p2": {"conflict": [1.0, 1.0, 1.0], "plain": [1.0, -1.0, -3.0]},
}


def test_onset_is_the_mean_over_the_pairs_that_have_one():
    rows = onset(lens_of(MARGINS)).frame.set_index("side")
    assert rows.loc["conflict", ["onset", "n_onset", "n"]].tolist() == [0.75, 2, 3]  # at 1.0, at 0.5, never
    assert rows.loc["plain", ["onset", "n_onset"]].tolist() == [0.75, 2]  # zero is not positive
    lo, hi = rows.loc["conflict", ["onset_lo", "onset_hi"]]
    assert 0.5 <= lo <= 0.75 <= hi <= 1.0


def test_onset_reads_the_tables_own_depths():
    margins = np.array([[1.0, -1.0], [1.0, 1.0]])
    assert onsets(margins, np.array([0.2, 0.9])) == pytest.approx([0.9, np.nan], nan_ok=True)


def test_sensitivity_is_conflict_less_plain():
    found = sensitivity(lens_of(MARGINS)).frame
    assert found["sublayer"].tolist() == ["embed", "attn", "mlp"] and found["layer"].tolist() == [-1, 0, 0]
    assert found["sensitivity"].tolist() == pytest.approx([2 / 3, 5 / 3, 7 / 3])
    assert (found["sensitivity_lo"] <= found["sensitivity"]).all() and (found["n"] == 3).all()


def test_several_models_are_summarised_one_by_one():
    other = {pair: {side: [-v for v in values] for side, values in sides.items()} for pair, sides in MARGINS.items()}
    both = concat([lens_of(MARGINS), lens_of(other, "n")])
    assert onset(both).frame["model"].tolist() == ["m", "m", "n", "n"]
    found = sensitivity(both).frame.groupby("model")["sensitivity"].last()
    assert found["m"] == -found["n"]


def test_shares_are_those_of_the_four_kinds():
    right = {"a": (True, True), "b": (True, False), "c": (True, False), "d": (False, True), "e": (False, False)}
    rows = [
        {**HEAD, "model": "m", "item": item, "side": side, "correct": correct, "predicted_index": 0, "loss": 0.5,
         "total_logprob": -1.0, "margin": 0.0, "tie": False}
        for item, sides in right.items() for side, correct in zip(("plain", "conflict"), sides, strict=True)
    ]  # fmt: skip
    found = shares(table("items", rows, a_run())).frame.iloc[0]
    assert [found[k] for k in ("follows", "overridden", "contrary", "lost")] == pytest.approx([0.2, 0.4, 0.2, 0.2])
    with pytest.raises(InputError, match="expected both sides of every pair"):
        shares(table("items", rows[:-1], a_run()))


def test_the_wrong_table_and_a_missing_side_are_named():
    with pytest.raises(InputError, match="table 'onset': expected a table 'lens'"):
        sensitivity(onset(lens_of(MARGINS)))
    half = {"p0": {"conflict": [1.0, 2.0, -1.0]}}
    with pytest.raises(InputError, match="m: expected a lens of both sides of every pair"):
        sensitivity(lens_of(half))


def test_they_agree_with_scoring_and_tracing(make_model, pairs):
    from isp_mech.scoring import score

    found = score(pairs, make_model("neox"), trace=True)
    again = shares(found.items).frame
    assert again.equals(found.shares.frame)
    assert onset(found.traces.lens).frame.equals(found.traces.onset.frame)
