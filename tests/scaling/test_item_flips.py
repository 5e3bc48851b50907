"""Flips counted by hand, joined to traces by id, and a planted difference found."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

import isp_mech as im
from isp_mech.errors import InputError
from isp_mech.scaling import item_flips
from isp_mech.scaling.item_flips import auc, auc_interval, mcnemar_p
from isp_mech.tables import Table, concat, make_run, table

RUN = make_run(model="m", task="t", method="score", seed=0)


def items(right, *, task="t", side="conflict", margins=None, plain=None):
    """``right`` (models, items): whether each item is right; margins default to plus or minus one."""
    rows = []
    for i, line in enumerate(np.asarray(right, dtype=bool)):
        for j, ok in enumerate(line):
            base = {"model": f"m{i}", "n_params": 10 ** (i + 3), "task": task, "item": f"p{j}", "predicted_index": 0,
                    "loss": 1.0, "total_logprob": -1.0, "tie": False}  # fmt: skip
            margin = (1.0 if ok else -1.0) if margins is None else margins[i][j]
            rows.append(base | {"side": side, "correct": bool(ok), "margin": margin})
            if plain is not None:
                rows.append(base | {"side": "plain", "correct": plain[i][j] < 0, "margin": plain[i][j]})
    return table("items", rows, RUN)


@dataclass(frozen=True)
class Traced:
    lens: Table
    attention: Table


@dataclass(frozen=True)
class Located:
    effects: Table
    sites: Table


def test_every_item_of_every_step_by_hand():
    found = im.flips(items([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1]]))
    kinds = found.flips.frame.set_index(["model", "item"])["kind"].to_dict()
    assert kinds == {
        ("m1", "p0"): "kept", ("m1", "p1"): "lost", ("m1", "p2"): "gained", ("m1", "p3"): "missed",
        ("m2", "p0"): "lost", ("m2", "p1"): "missed", ("m2", "p2"): "kept", ("m2", "p3"): "gained",
    }  # fmt: skip
    steps = found.flip_steps.frame
    assert steps[["model_from", "model", "lost", "gained", "kept", "missed"]].to_numpy().tolist() == [
        ["m0", "m1", 1, 1, 1, 1], ["m1", "m2", 1, 1, 1, 1]]  # fmt: skip
    assert steps["change"].tolist() == [0.0, 0.0] and steps["p"].tolist() == [1.0, 1.0]
    assert steps["n_params_from"].tolist() == [1000, 10_000] and steps["n_params"].tolist() == [10_000, 100_000]
    first = found.flips.frame.query("model == 'm1' and item == 'p1'").iloc[0]
    assert (first["margin_from"], first["margin_to"]) == (1.0, -1.0)
    assert found.flips.run.method == "flips between sizes" and found.flips.run.settings["side"] == "conflict"


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=2, max_size=4))
def test_steps_add_up_to_accuracy(right):
    accuracy = np.mean(right, axis=1)
    steps = pd.concat(item_flips._steps(items(right).frame), ignore_index=True).assign(side="conflict")
    found = pd.DataFrame(item_flips._step_rows(steps, seed=0))
    np.testing.assert_allclose(found["change"], np.diff(accuracy), atol=1e-12)
    assert (found[["lost", "gained", "kept", "missed"]].sum(axis=1) == 6).all()
    assert [*found["p"]] == [mcnemar_p(a, b) for a, b in zip(found["lost"], found["gained"], strict=True)]
    np.testing.assert_allclose(found["q"], scipy.stats.false_discovery_control(found["p"]))


def test_the_order_of_rows_does_not_matter_and_scores_will_do():
    made = items(np.random.default_rng(0).random((3, 40)) < 0.5)
    shuffled = table("items", made.frame.sample(frac=1, random_state=1), RUN)

    @dataclass(frozen=True)
    class Scored:
        items: Table

    one, other = im.flips(made), im.flips(Scored(shuffled))
    by = ["model", "item"]
    pd.testing.assert_frame_equal(
        one.flips.frame.sort_values(by, ignore_index=True), other.flips.frame.sort_values(by, ignore_index=True)
    )
    assert one.flip_steps.frame[["lost", "gained", "p"]].equals(other.flip_steps.frame[["lost", "gained", "p"]])


def test_sides_and_tasks_stay_apart():
    both = concat([items([[1, 1], [0, 1]], task="a"), items([[0, 1], [1, 1]], task="b")])
    steps = im.flips(both).flip_steps.frame.set_index("task")
    assert (steps.loc["a", "lost"], steps.loc["a", "gained"], steps.loc["b", "gained"]) == (1, 0, 1)
    pairs = items([[1, 1, 1], [0, 1, 1]], plain=[[-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])
    assert im.flips(pairs).flip_steps.frame.loc[0, ["lost", "gained"]].tolist() == [1, 0]
    assert im.flips(pairs, side="plain").flip_steps.frame.loc[0, ["lost", "gained"]].tolist() == [1, 1]
    assert im.flips(items([[1, 1], [0, 1]], side="item")).flips.frame["side"].unique().tolist() == ["item"]


@pytest.fixture(scope="module")
def planted():
    """Two models, 200 items; those whose lure is strong and whose peak is high are lost, by construction."""
    rng = np.random.default_rng(0)
    strength, noise = rng.normal(3, 1, 200), rng.normal(0, 0.5, 200)
    lost = strength + noise > 3.3
    edge = rng.normal(2, 1, 200)
    made = items([np.ones(200), ~lost], margins=[edge, np.where(lost, -1.0, 1.0)], plain=[-np.ones(200), -strength])
    heads = {"model": "m1", "n_params": 10_000, "task": "t", "side": "conflict"}
    ids = [f"p{j}" for j in range(200)]
    lens = [heads | {"pair": p, "layer": layer, "sublayer": "mlp", "depth": depth, "margin": margin}
            for p, gone in zip(ids, lost, strict=True)
            for layer, depth, margin in ((0, 0.5, 2.0 if gone else 1.0), (1, 1.0, 50.0))]  # fmt: skip
    attention = [
        heads | {"pair": p, "layer": 0, "head": h, "role": role, "weight": weight}
        for p in ids
        for h in (0, 1)
        for role, weight in (("quote", 0.2 + 0.2 * h), ("other", 0.5))
    ]
    effects = [heads | {"pair": p, "layer": 0, "kind": kind, "head": head, "replacement": how, "effect": effect,
                        "direct_effect": 0.0}
               for p, s in zip(ids, strength, strict=True)
               for how, factor in (("mean", 1.0), ("zero", 100.0))
               for kind, head, effect in (("head", 0, -factor * s), ("head", 1, -9.0), ("mlp", None, 4.0))]  # fmt: skip
    sites = [
        heads
        | {
            "layer": 0,
            "kind": kind,
            "head": head,
            "effect": effect,
            "effect_lo": effect,
            "effect_hi": effect,
            "direct_effect": 0.0,
            "p": q,
            "q": q,
            "significant": q < 0.05,
        }
        for kind, head, effect, q in (("head", 0, -3.0, 0.01), ("head", 1, -9.0, 0.5), ("mlp", None, 4.0, 0.01))
    ]
    for row in sites:
        del row["side"]
    traced = Traced(table("lens", lens, RUN), table("attention", attention, RUN))
    located = Located(table("effects", effects, RUN), table("sites", sites, RUN))
    return im.flips(made, traces=traced, sites=located), lost, strength, edge


def test_lost_items_have_more_of_what_was_planted(planted):
    found, lost, strength, edge = planted
    rows = found.flip_traces.frame.set_index("feature")
    assert set(rows.index) == {
        "margin before",
        "lure strength",
        "lens peak",
        "attention to quote",
        "attention to other",
        "override",
    }
    lure = rows.loc["lure strength"]
    assert lure["auc"] == pytest.approx(auc(strength[lost], strength[~lost])) and lure["auc_lo"] > 0.5
    assert lure["q"] < 0.01 and lure["mean_lost"] == pytest.approx(strength[lost].mean())
    assert (lure["n_lost"], lure["n_kept"], lure["unit"]) == (lost.sum(), (~lost).sum(), "nats")
    assert rows.loc["margin before", "mean_kept"] == pytest.approx(edge[~lost].mean())
    assert rows.loc["margin before", "q"] > 0.05
    assert rows.loc["lens peak", ["auc", "mean_lost", "mean_kept"]].tolist() == [1.0, 2.0, 1.0]  # not the last layer
    assert rows.loc["attention to quote", ["auc", "mean_lost", "p"]].tolist() == pytest.approx([0.5, 0.3, 1.0])
    # the one significant negative site, by the first replacement
    assert rows.loc["override", "mean_lost"] == pytest.approx(strength[lost].mean(), rel=1e-6)
    assert rows.loc["override", "auc"] == pytest.approx(lure["auc"])
    q = scipy.stats.false_discovery_control(found.flip_traces.frame["p"])
    np.testing.assert_allclose(found.flip_traces.frame["q"], q)


def test_a_step_that_loses_nothing_has_no_comparison():
    rows = im.flips(items([[1, 1, 0], [1, 1, 1]])).flip_traces.frame
    assert rows["feature"].tolist() == ["margin before"] and math.isnan(rows["auc"][0]) and math.isnan(rows["q"][0])
    assert (rows["n_lost"][0], rows["n_kept"][0]) == (0, 2) and math.isnan(rows["mean_lost"][0])


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match="t: one model, m0: expected two or more"):
        im.flips(items([[1, 1]]))
    with pytest.raises(InputError, match="side 'neutral': expected one of conflict"):
        im.flips(items([[1], [1]]), side="neutral")
    frame = items([[1, 1, 1], [1, 1, 1]]).frame
    with pytest.raises(InputError) as caught:
        im.flips(table("items", pd.concat([frame.drop(index=[4, 5]), frame.loc[[0]]]), RUN))
    assert list(caught.value.problems) == [
        "t: item 'p0' is there twice for m0, expected it once",
        "t: m1 lacks 2 of 3 items, such as 'p1'",
    ]
    with pytest.raises(InputError, match="found table 'curve', expected a table 'items' or what holds one"):
        im.flips(table("curve", [], RUN))
    with pytest.raises(InputError, match="flips: traces: found str, expected a table 'lens'"):
        im.flips(items([[1], [1]]), traces="lens.parquet")
    with pytest.raises(InputError, match="side 'item': expected one of none"):
        im.flips(table("items", [], RUN))


def test_real_scores_traces_and_sites_join(make_model, pairs):
    """Two small random models: every pair is in every table, whatever the numbers are."""
    models = [make_model("neox"), make_model("gpt2")]
    found = im.flips(im.score(pairs, models), traces=im.trace(pairs, models), sites=im.locate(pairs, models))
    assert len(found.flips) == len(pairs) and len(found.flip_steps) == 1
    features = set(found.flip_traces.frame["feature"])
    assert {"margin before", "lure strength", "lens peak", "override", "attention to definition"} <= features
    counts = found.flip_steps.frame.iloc[0]
    assert (found.flip_traces.frame["n_lost"] == counts["lost"]).all()
    assert (found.flip_traces.frame["n_kept"] == counts["kept"]).all()


# --- the comparisons themselves

few = st.lists(st.integers(-3, 3), min_size=1, max_size=12)


@given(few, few)
def test_auc_is_the_share_of_pairs_won(a, b):
    won = np.mean([(x > y) + 0.5 * (x == y) for x in a for y in b])
    assert auc(a, b) == pytest.approx(won) and auc(b, a) == pytest.approx(1 - won)
    assert auc(a, b) * len(a) * len(b) == pytest.approx(scipy.stats.mannwhitneyu(a, b).statistic)
    assert math.isnan(auc(a, [])) and math.isnan(auc([], b))


def test_auc_intervals_and_p():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.8, 1, 60), rng.normal(0, 1, 80)
    lo, hi, p = auc_interval(a, b)
    assert lo < auc(a, b) < hi and p == pytest.approx(1 / 2001)
    # DeLong's standard error, from the placements
    wins = (a[:, None] > b) + 0.0
    se = math.sqrt(wins.mean(axis=1).var(ddof=1) / 60 + wins.mean(axis=0).var(ddof=1) / 80)
    assert (hi - lo) / (2 * 1.96 * se) == pytest.approx(1, abs=0.1)
    small = rng.normal(0.3, 1, 12), rng.normal(0, 1, 15)
    p = auc_interval(*small, n_boot=20_000)[2]
    assert p == pytest.approx(scipy.stats.mannwhitneyu(*small, method="exact").pvalue, abs=0.015)
    assert all(math.isnan(x) for x in auc_interval([1.0], [1.0, 2.0]))
    same = auc_interval([1.0, 1.0], [1.0, 1.0])
    assert same == (0.5, 0.5, 1.0) and auc_interval(a, b) == auc_interval(a, b)


def test_auc_calls_no_difference_as_often_as_it_says():
    rng = np.random.default_rng(1)
    p = [auc_interval(rng.normal(size=15), rng.normal(size=20), n_boot=200)[2] for _ in range(400)]
    assert 0.02 < np.mean(np.array(p) <= 0.05) < 0.085


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_a_fair_coin(lost, gained):
    p = mcnemar_p(lost, gained)
    assert p == mcnemar_p(gained, lost)
    expected = scipy.stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert p == pytest.approx(expected)
