"""Onset, sensitivity and shares, against numbers worked by hand and what the measuring rooms say."""

from __future__ import annotations

import numpy as np
import pytest

from isp_mech.errors import InputError
from isp_mech.scaling.summaries import onset, onsets, sensitivity, shares, story
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


# effects of two pairs on a0.h0, a0.h1, m0, a1.h0, a1.h1, m1; the fourth is not significant
EFFECTS = {"p0": [-2.0, 1.0, -1.0, -9.0, 0.5, -3.0], "p1": [-4.0, 1.0, -1.0, -9.0, 0.5, -5.0]}
PLACES = [(0, "head", 0), (0, "head", 1), (0, "mlp", None), (1, "head", 0), (1, "head", 1), (1, "mlp", None)]


def located(effects=EFFECTS, places=PLACES):
    at = [dict(zip(("layer", "kind", "head"), place, strict=True)) for place in places]
    common = {**HEAD, "model": "m"}
    rows = [
        {**common, "pair": pair, "side": "conflict", **at[i], "replacement": kind, "effect": v * k, "direct_effect": v}
        for kind, k in (("mean", 1), ("zero", 7))
        for pair, values in effects.items()
        for i, v in enumerate(values)
    ]
    nan = float("nan")
    sites = [
        {**common, **place, "effect": np.mean([values[i] for values in effects.values()]), "effect_lo": nan,
         "effect_hi": nan, "direct_effect": nan, "p": 0.001, "q": 0.001, "significant": i != 3}
        for i, place in enumerate(at)
    ]  # fmt: skip
    return table("sites", sites, a_run()), table("effects", rows, a_run())


def test_the_story_by_hand():
    sites, effects = located()
    rest = {"loss": 1.0, "loss_lo": 1.0, "loss_hi": 1.0, "coverage": 0.5, "ties": 0, "n": 2, "baseline": None}
    rows = [
        {**HEAD, "model": "m", "side": side, "accuracy": a, "accuracy_lo": a, "accuracy_hi": a, **rest}
        for side, a in (("plain", 0.9), ("conflict", 0.3))
    ]
    curve = table("curve", rows, a_run())
    row = story(sites, effects, curve=curve).frame.iloc[0]
    assert row["override_mass"] == 3 + 1 + 4 and row["follow_mass"] == 1.5  # a0.h0, m0 and m1; a0.h1 and a1.h1
    assert row["attention_share"] == pytest.approx(3 / 8)
    assert row["depth"] == pytest.approx((0.25 * 4 + 0.75 * 4) / 8)  # two layers: depths a quarter and three quarters
    assert row[["n_override", "n_follow", "n_sites", "n"]].tolist() == [3, 2, 6, 2]
    assert row["accuracy"] == 0.3 and np.isnan(row["overridden"]) and np.isnan(row["onset"])
    assert row["override_mass_lo"] == 6 and row["override_mass_hi"] == 10  # one pair's mass, and the other's


def test_a_model_without_an_override_has_no_place_for_it():
    sites, effects = located({"p0": [1.0] * 6, "p1": [2.0] * 6})
    row = story(sites, effects).frame.iloc[0]
    assert row["override_mass"] == 0 and row["n_override"] == 0
    assert np.isnan(row["attention_share"]) and np.isnan(row["depth"])


def test_a_story_needs_the_effects_of_its_sites():
    sites, effects = located()
    with pytest.raises(InputError, match="m: expected effects of every pair on the heads and MLPs of its sites"):
        story(sites, located(places=[*PLACES[:5], (2, "mlp", None)])[1])
    with pytest.raises(InputError, match="table 'sites': expected a table 'effects'"):
        story(sites, sites)
