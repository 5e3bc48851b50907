"""Faithfulness: integrals by hand, sets that keep what they should, and a planted model."""

from __future__ import annotations

import numpy as np
import pytest
from planted_models import letter_pairs, overridden

from isp_mech.causal.activation_patching import patched_margins
from isp_mech.causal.faithfulness import _rows, keep
from isp_mech.causal.locate import locate
from isp_mech.causal.replacements import observe_conflict
from isp_mech.causal.site_sets import effects_by_pair
from isp_mech.errors import InputError
from isp_mech.inference.batches import plan_batches
from isp_mech.sites import all_sites


def test_integrals_by_hand():
    """Three shares of four sites kept, two pairs: f = 0, 1.5, 1."""
    margins = np.array([[0.0, 3.0, 2.0], [2.0, 5.0, 4.0]])
    rows = _rows(margins, (0.0, 0.5, 1.0), (0, 2, 4), 0, split="half_a")
    assert [row["faithfulness"] for row in rows] == [0, 1.5, 1]
    assert rows[0]["cpr"] == pytest.approx(0.5 * (0 + 1.5) / 2 + 0.5 * (1.5 + 1) / 2)
    assert rows[0]["cmd"] == pytest.approx(0.5 * (1 + 0.5) / 2 + 0.5 * (0.5 + 0) / 2)
    assert rows[1]["margin"] == 4 and rows[1]["n"] == 2 and rows[1]["split"] == "half_a"


def test_the_planted_sites_alone_do_what_the_model_does(tokenizer):
    pairs = letter_pairs(24)
    model = overridden(tokenizer, strength=4.0, name="planted")
    found = keep(locate(pairs, model), pairs, model, shares=(0.0, 0.1, 0.2, 0.3, 1.0)).frame
    assert found.groupby(["split", "order"], sort=False).ngroups == 4
    three = found.query("order == 'absolute' and n_sites == 3")  # of ten, three write anything
    assert three["faithfulness"].to_numpy() == pytest.approx(np.ones(2), abs=1e-4)
    one = found.query("order == 'towards' and n_sites == 1")
    assert (one["faithfulness"] > 0.8).all()  # the override alone goes the way the model goes
    ends = found.query("n_sites in (0, 10)")
    assert ends["faithfulness"].tolist() == [0, 1] * 4
    assert (found["cpr"] > 0.9).all() and (found["cmd"] < 0.2).all()


def test_margins_are_those_of_the_sets_replaced(make_model, pairs):
    model = make_model("gpt2")
    located = locate(pairs, model, replacement="resample", seed=3)
    found = keep(located, pairs, model, replacement="resample", shares=(0.0, 0.5, 1.0), seed=3).frame
    plan = plan_batches(model)
    conflict = observe_conflict(pairs, plan, ["resample"], seed=3)
    order = np.random.default_rng(3).permutation(8)
    pick, judge = sorted(order[:4]), sorted(order[4:])
    effect = effects_by_pair(located.effects, model, pairs, "resample")[pick].mean(0)
    worst = np.argsort(-np.abs(effect), kind="stable")[8:]
    sets = [frozenset(all_sites(3, 4)), frozenset(all_sites(3, 4)[i] for i in worst)]
    want = patched_margins(conflict.prompts, conflict.replacements["resample"], sets, plan)[judge].mean(0)
    rows = found.query("split == 'half_b' and order == 'absolute'")
    assert rows["margin"].tolist()[:2] == pytest.approx(want, abs=1e-4)
    assert rows["margin"].iloc[2] == pytest.approx(conflict.observed.margins[judge].mean(), abs=1e-4)


def test_effects_are_read_pair_by_pair(make_model, pairs):
    model = make_model("neox")
    frame = locate(pairs, model, replacement=("mean", "zero")).effects
    values = effects_by_pair(frame, model, pairs, "zero")
    rows = frame.frame.query("replacement == 'zero' and pair == 'p5'")
    assert values[5] == pytest.approx(rows["effect"].to_numpy()) and values.shape == (8, 15)
    assert effects_by_pair(frame, model, pairs.take([5, 2]), "zero")[0] == pytest.approx(values[5])


def test_arguments_are_checked(make_model, pairs):
    model = make_model("neox")
    located = locate(pairs, model)
    with pytest.raises(InputError, match="'mode': expected one of"):
        keep(located, pairs, model, replacement="mode")
    with pytest.raises(InputError, match="expected shares that rise from 0 to 1"):
        keep(located, pairs, model, shares=(0.1, 1.0))
    with pytest.raises(InputError, match="3 pairs: expected at least four"):
        keep(located, pairs.take([0, 1, 2]), model)
    with pytest.raises(InputError, match="0 of 8 pairs with replacement 'zero': expected effects of every pair"):
        keep(located, pairs, model, replacement="zero")
