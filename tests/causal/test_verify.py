"""Verifying: sets of sites are judged on pairs that did not choose them, against matched random sets."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pandas as pd
import pytest
from planted_models import letter_pairs, overridden

from isp_mech.causal.activation_patching import patched_margins
from isp_mech.causal.locate import locate
from isp_mech.causal.replacements import observe_conflict
from isp_mech.causal.verify import _Quality, matched_sets, verify
from isp_mech.errors import InputError
from isp_mech.inference.batches import plan_batches
from isp_mech.sites import Site


@pytest.fixture(autouse=True)
def few_texts(monkeypatch):
    """Few neutral texts: enough to tell a loss that is the same from one that is not."""
    monkeypatch.setattr(import_module("isp_mech.causal.verify"), "N_NEUTRAL", 6)


@pytest.fixture(scope="module")
def family(tokenizer):
    """A model that follows its prompt, and the same with one head that writes the lure over it."""
    return [overridden(tokenizer, strength=0.0, name="follows"), overridden(tokenizer, strength=6.0, name="overridden")]


def test_the_planted_override_is_chosen_on_one_half_and_gives_the_prompt_back_on_the_other(family):
    pairs = letter_pairs(24)
    found = locate(pairs, family)
    assert str(top(found.sites.frame.query("model == 'overridden'"))) == "a1.h2"
    made = verify(found, pairs, family, n_random=40)
    rows = made.frame.query("model == 'overridden' and sites != 'random'")
    assert rows["split"].tolist() == ["half_b", "half_a"]
    for row in rows.itertuples():
        assert "a1.h2" in row.sites.split()
        assert row.accuracy_before == 0 and row.accuracy_after == 1 and row.gap_closed == 1
        assert row.margin_after > row.margin_before and row.p_random <= 2 / 41
        assert row.n_random == 40 and row.n_sites == len(row.sites.split())
    drawn = made.frame.query("model == 'overridden' and sites == 'random'")
    assert (drawn["accuracy_after"] < 0.5).all() and drawn["p_random"].isna().all()


def test_a_model_that_follows_has_nothing_to_remove(family):
    pairs = letter_pairs(24)
    made = verify(locate(pairs, family[0]), pairs, family[0], n_random=5).frame
    assert (made["accuracy_before"] == 1).all() and made["gap_closed"].isna().all()


def test_a_given_set_is_judged_on_all_pairs(make_model, pairs):
    model = make_model("gpt2")
    sites = {Site(1, "head", 2), Site(2, "mlp")}
    row = verify(sites, pairs, model, n_random=7, replacement="resample", seed=4).frame.iloc[0]
    plan = plan_batches(model)
    conflict = observe_conflict(pairs, plan, ["resample"], seed=4)
    margins = patched_margins(conflict.prompts, conflict.replacements["resample"], [frozenset(sites)], plan)[:, 0]
    assert (row["sites"], row["split"], row["n_sites"], row["n_random"]) == ("a1.h2 m2", "all", 2, 7)
    assert row["margin_before"] == pytest.approx(conflict.observed.margins.mean(), abs=1e-4)
    assert row["margin_after"] == pytest.approx(margins.mean(), abs=1e-4)
    assert row["accuracy_after"] == (margins > 0).mean()
    by_name = verify({"gpt2": sites}, pairs, model, n_random=7, replacement="resample", seed=4).frame.iloc[0]
    assert by_name["margin_after"] == row["margin_after"]


def test_nothing_replaced_changes_nothing(make_model, pairs):
    row = verify(set(), pairs, make_model("neox"), n_random=3).frame.iloc[0]
    for column in ("accuracy", "margin", "plain", "neutral_loss"):
        assert row[f"{column}_before"] == pytest.approx(row[f"{column}_after"], abs=1e-6)
    assert row["n_sites"] == 0 and np.isnan(row["p_random"])


def test_random_sets_match_by_kind_and_layer(make_model):
    chosen = (Site(0, "head", 1), Site(2, "head", 0), Site(2, "head", 3), Site(1, "mlp"))
    drawn = matched_sets(chosen, make_model("neox"), 100, seed=0)
    assert len(drawn) == 100 and frozenset(chosen) not in drawn and len(set(drawn)) > 20
    for sites in drawn:
        heads = sorted(s.layer for s in sites if s.kind == "head")
        assert heads == [0, 2, 2] and sum(s.kind == "mlp" for s in sites) == 1


def test_the_better_set_is_that_of_the_better_accuracy_then_margin():
    same = [_Quality(0.5, 1.0), _Quality(0.5, 1.0)]
    assert same[0] >= same[1] and _Quality(0.5, 2.0) > same[0] > _Quality(0.5, 0.5)
    assert _Quality(0.9, -9.0) > same[0] > _Quality(0.2, 9.0)


def at_least_as_good(model, pairs, sites, n: int) -> np.ndarray:
    """Of each random set, in their order, whether it is at least as good as the sites: all of them measured at once."""
    plan = plan_batches(model)
    conflict = observe_conflict(pairs, plan, ["mean"])
    sets = [frozenset(sites), *matched_sets(tuple(sites), model, n, seed=0)]
    margins = patched_margins(conflict.prompts, conflict.replacements["mean"], sets, plan)
    first, *others = [_Quality(float((m > 0).mean()), float(m.mean())) for m in margins.T]
    return np.array([quality >= first for quality in others])


def test_where_no_answer_is_soon_clear_p_is_the_plain_one(family):
    pairs, sites = letter_pairs(12), {Site(1, "head", 2)}
    good = at_least_as_good(family[1], pairs, sites, 40)
    row = verify(sites, pairs, family[1], n_random=40).frame.iloc[0]
    assert good.sum() < 10 and row["n_random"] == 40
    assert row["p_random"] == pytest.approx((1 + good.sum()) / 41)


def test_a_useless_set_stops_early(make_model, monkeypatch):
    """Completions of one token, whose sets are judged on the margin itself."""
    model, pairs, sites = make_model("neox"), letter_pairs(12), (Site(0, "head", 1), Site(1, "head", 2))
    good = at_least_as_good(model, pairs, sites, 200)
    last = int(np.flatnonzero(good)[9]) + 1  # the tenth that is at least as good
    run: list[int] = []
    real = patched_margins

    def counted(prompts, values, sets, *args, **options):
        run.append(len(sets))
        return real(prompts, values, sets, *args, **options)

    monkeypatch.setattr(import_module("isp_mech.causal.verify"), "patched_margins", counted)
    row, drawn = (made for _, made in verify(sites, pairs, model, n_random=200).frame.iterrows())
    assert last < 200 and row["n_random"] == drawn["n_random"] == last
    assert row["p_random"] == pytest.approx(10 / last)
    assert max(run) < 200 / 2  # nor were all of them measured


def test_several_replacements_are_verified_each(family):
    pairs, kinds = letter_pairs(12), ("mean", "zero")
    located = locate(pairs, family[1], replacement=kinds)
    both = verify(located, pairs, family[1], replacement=kinds, n_random=5).frame
    assert both["replacement"].drop_duplicates().tolist() == list(kinds)
    for kind in kinds:
        alone = verify(located, pairs, family[1], replacement=kind, n_random=5).frame
        mine = both[both["replacement"] == kind].reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, alone)
    with pytest.raises(InputError, match="expected one or more, each once"):
        verify(located, pairs, family[1], replacement=("mean", "mean"))


def test_arguments_are_checked(make_model, pairs):
    model = make_model("neox")
    with pytest.raises(InputError, match="'mode': expected one of"):
        verify(set(), pairs, model, replacement="mode")
    with pytest.raises(InputError, match="expected a share over 0"):
        verify(set(), pairs, model, share=0.0)
    with pytest.raises(InputError, match="site a9.h0: expected a head or MLP of 3 layers x 4 heads"):
        verify({Site(9, "head", 0)}, pairs, model)
    with pytest.raises(InputError, match="0 of 4 pairs with replacement 'zero': expected effects of every pair"):
        verify(locate(pairs, model), pairs, model, replacement="zero")
    with pytest.raises(InputError, match="expected at least four"):
        verify(locate(pairs.take([0, 1]), model), pairs.take([0, 1]), model)


def top(frame) -> Site:
    row = frame.loc[frame["effect"].idxmin()]
    return Site(int(row["layer"]), row["kind"], None if row["kind"] == "mlp" else int(row["head"]))
