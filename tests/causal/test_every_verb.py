"""What every measuring verb does alike: several models, sites in any form, one plan of batches, short memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
from many_queries import short_of_memory, sizes_of_forwards
from planted_models import letter_pairs, overridden

from isp_mech.causal import block_heads, edges, keep, knock_out, locate, scale_sites, verify
from isp_mech.errors import InputError
from isp_mech.models import plan_tokens
from isp_mech.scoring import score
from isp_mech.sites import Site
from isp_mech.tables import Table
from isp_mech.tracing import head_classes, trace

MODELS = ("neox", "gpt2")
MOST = 100  # tokens of a forward, where memory is short: more than the largest tree has
SITES = (Site(0, "head", 1), Site(1, "mlp"), Site(2, "head", 3))
TOGETHER = ("q", "conflict_q", "plain_q", "significant", "class", "gap_closed")  # over all models
# where an effect is near zero, rounding decides the first; where all of them together do little, the others
ROUNDED = ("p", "conflict_p", "plain_p", "spearman", "spearman_matter", "faithfulness_lo", "faithfulness_hi")

VERBS: dict[str, Callable] = {
    "score": lambda pairs, models, located, **o: score(pairs, models, **o),
    "score and trace": lambda pairs, models, located, **o: score(pairs, models, trace=True, **o),
    "trace": lambda pairs, models, located, **o: trace(pairs, models, **o),
    "locate": lambda pairs, models, located, **o: locate(pairs, models, replacement=("mean", "plain"), **o),
    "locate at a role": lambda pairs, models, located, **o: locate(pairs, models, positions="question", **o),
    "locate by gradients": lambda pairs, models, located, **o: locate(pairs, models, method="integrated", **o),
    "verify": lambda pairs, models, located, **o: verify(located, pairs, models, n_random=2, **o),
    "verify given sites": lambda pairs, models, located, **o: verify(SITES, pairs, models, n_random=2, **o),
    "keep": lambda pairs, models, located, **o: keep(located, pairs, models, shares=(0.0, 0.3, 1.0), **o),
    "scale_sites": lambda pairs, models, located, **o: scale_sites(SITES, pairs, models, **o),
    "knock_out": lambda pairs, models, located, **o: knock_out(pairs, models, each_layer=True, **o),
    "block_heads": lambda pairs, models, located, **o: block_heads(pairs, models, sides=("conflict", "plain"), **o),
    "edges": lambda pairs, models, located, **o: edges(pairs, models, SITES, steps=2, **o),
    "head_classes": lambda pairs, models, located, **o: head_classes(pairs, models, **o),
}


def tables_of(made) -> dict[str, Table]:
    """All tables in what a verb gave."""
    if isinstance(made, Table):
        return {made.name: made}
    parts = [getattr(made, field.name) for field in fields(made)]
    return {name: table for part in parts if part is not None for name, table in tables_of(part).items()}


def largest_gap(a: pd.DataFrame, b: pd.DataFrame, but: tuple[str, ...] = ()) -> float:
    """Between the numbers of two frames that are equal in all else, but for some columns."""
    numbers = a.select_dtypes("float").columns.difference([*TOGETHER, *but])
    rest = a.columns.difference([*numbers, *TOGETHER, *but])
    pd.testing.assert_frame_equal(a[rest].reset_index(drop=True), b[rest].reset_index(drop=True))
    assert (a[numbers].isna().to_numpy() == b[numbers].isna().to_numpy()).all()
    gaps = np.abs(a[numbers].to_numpy() - b[numbers].to_numpy())
    return float(np.nanmax(gaps, initial=0.0))


@pytest.fixture(autouse=True, scope="module")
def short():
    """Few random sequences for head classes and few neutral texts for verify, which these tests judge nothing by."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("isp_mech.tracing.head_types"), "SEQUENCES", 4)
        patch.setattr(import_module("isp_mech.causal.verify"), "N_NEUTRAL", 6)
        patch.setattr(import_module("isp_mech.causal.neutral_text"), "LONGEST", 10)
        yield


@pytest.fixture(scope="module")
def located(make_model, pairs):
    return locate(pairs, [make_model(name) for name in MODELS])


@pytest.fixture(scope="module")
def alone(make_model, pairs, located):
    """What a verb gives for one of the models, measured once."""
    made: dict[str, dict[str, Table]] = {}

    def measured(verb: str) -> dict[str, Table]:
        if verb not in made:
            made[verb] = tables_of(VERBS[verb](pairs, make_model("neox"), located))
        return made[verb]

    return measured


@pytest.mark.parametrize("verb", VERBS)
def test_over_two_models_each_is_measured_as_it_is_alone(make_model, pairs, located, alone, verb):
    both = tables_of(VERBS[verb](pairs, [make_model(name) for name in MODELS], located))
    for kind, table in alone(verb).items():
        frame = both[kind].frame
        assert largest_gap(frame[frame["model"] == "neox"], table.frame) < 1e-5, kind
        assert not len(frame) or (frame["model"] == "gpt2").sum() == (frame["model"] == "neox").sum()


@pytest.mark.parametrize("verb", VERBS)
def test_when_memory_runs_out_batches_are_halved_and_the_run_says_so(
    make_model, pairs, located, alone, monkeypatch, verb
):
    want = alone(verb)
    done = short_of_memory(monkeypatch, MOST)
    halved = tables_of(VERBS[verb](pairs, make_model("neox"), located))
    assert MOST // 2 < max(done) <= MOST
    for kind, table in halved.items():
        assert any("neox: memory ran out; batches were halved to" in note for note in table.run.notes), kind
        assert not any("memory" in note for note in want[kind].run.notes), kind
        assert largest_gap(table.frame, want[kind].frame, ROUNDED) < 1e-4, kind


@pytest.mark.parametrize("verb", VERBS)
def test_auto_is_the_same_number_of_tokens_for_all(make_model, pairs, located, alone, monkeypatch, verb):
    want = alone(verb)
    monkeypatch.setattr("isp_mech.inference.batches.plan_tokens", lambda model, keeping=False: MOST)
    done = sizes_of_forwards(monkeypatch)
    made = tables_of(VERBS[verb](pairs, make_model("neox"), located))
    assert MOST // 2 < max(done) <= MOST
    assert max(largest_gap(table.frame, want[kind].frame, ROUNDED) for kind, table in made.items()) < 1e-4


def test_what_the_model_and_free_memory_allow_is_auto(make_model):
    from isp_mech.inference.batches import plan_batches

    model = make_model("neox")
    assert plan_batches(model).tokens == plan_tokens(model) and plan_batches(model, 3).rows == 3


@pytest.mark.parametrize("verb", VERBS)
def test_a_bad_batch_size_is_refused_before_a_model_is_loaded(pairs, located, verb):
    with pytest.raises(ValueError, match="expected 'auto' or a whole number of at least 1"):
        VERBS[verb](pairs, ["no such folder"], located, batch_size=0)


# ---------------------------------------------------------------------------------------------
# Sites in every form
# ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted(tokenizer):
    """Two hand-made models, letters, and what is located: a0.h1, a0.h3 and, in one of them, a1.h2."""
    models = [overridden(tokenizer, strength=s, name=f"strength {s}") for s in (0.0, 4.0)]
    letters = letter_pairs(12)
    return models, letters, locate(letters, models)


TAKING_SITES: dict[str, Callable] = {
    "verify": lambda sites, pairs, models: verify(sites, pairs, models, n_random=3),
    "scale_sites": lambda sites, pairs, models: scale_sites(sites, pairs, models, alphas=(0.0, 2.0)),
    "edges": lambda sites, pairs, models: edges(pairs, models, sites, steps=1),
}


@pytest.mark.parametrize("verb", TAKING_SITES)
def test_sites_are_taken_in_every_form(planted, verb):
    models, letters, located = planted
    of_model = {
        "strength 0.0": {Site(0, "head", 1), Site(0, "head", 3)},
        "strength 4.0": {Site(0, "head", 1), Site(0, "head", 3), Site(1, "head", 2)},
    }
    texts = {name: [str(site) for site in sites] for name, sites in of_model.items()}
    forms = {
        "table": located.sites,
        "texts by model": texts,
    }
    if verb != "verify":  # which chooses sites anew of what locate gave
        forms["located"] = located
    want = TAKING_SITES[verb](of_model, letters, models).frame
    for form, sites in forms.items():
        pd.testing.assert_frame_equal(TAKING_SITES[verb](sites, letters, models).frame, want, obj=form)
    same = [TAKING_SITES[verb](sites, letters, models[0]).frame for sites in ({Site(0, "head", 1)}, ["a0.h1"], "a0.h1")]
    for frame in same[1:]:
        pd.testing.assert_frame_equal(frame, same[0])
    with pytest.raises(InputError, match="sites"):
        TAKING_SITES[verb](["a0.x1"], letters, models)


@pytest.mark.parametrize("verb", [keep, verify])
def test_effects_are_taken_as_locate_gave_them_or_as_their_table(planted, verb):
    models, letters, located = planted
    options = {"n_random": 3} if verb is verify else {"shares": (0.0, 0.2, 1.0)}
    a, b = (verb(effects, letters, models, **options).frame for effects in (located, located.effects))
    pd.testing.assert_frame_equal(a, b)
