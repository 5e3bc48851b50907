"""Changes of a forward: what changes nothing gives the margins as they are, beside others that change much."""

from __future__ import annotations

import numpy as np
import pytest
from many_queries import short_of_memory, sizes_of_forwards
from small_models import make_hf

from isp_mech.causal.activation_patching import Block, Patch, Scale, changed_margins, patched_margins
from isp_mech.causal.replacements import observe_conflict
from isp_mech.errors import InputError
from isp_mech.inference.batches import plan_batches
from isp_mech.models import wrap_model
from isp_mech.sites import Site, all_sites

SITES = frozenset({Site(0, "head", 1), Site(1, "mlp"), Site(2, "head", 3)})
EVERY_LAYER = frozenset(range(3))


def test_what_changes_nothing_gives_every_bit_of_the_margins_as_they_are(some_model, pairs):
    plan = plan_batches(some_model)
    conflict = observe_conflict(pairs, plan, ["zero"])
    values, tokens = conflict.replacements["zero"], [[p.shared - 3, p.shared - 2] for p in conflict.prompts]
    nothing = [Patch(frozenset(), values), Scale(SITES, 1.0), Scale(frozenset(), 2.0), Block(tokens, frozenset())]
    something = [Patch(SITES, values), Scale(SITES, 0.0), Block(tokens, EVERY_LAYER)]
    margins = changed_margins(conflict.prompts, [*nothing, *something], plan)
    assert (margins[:, :4] == margins[:, :1]).all()
    assert margins[:, 0] == pytest.approx(conflict.observed.margins, abs=1e-4)
    assert margins[:, 4] == pytest.approx(margins[:, 5], abs=1e-4)  # taken away is scaled by nought
    assert (np.abs(margins[:, 4:] - margins[:, :1]).max(0) > 0.01).all()


def test_a_run_over_copies_in_which_nothing_is_changed_gives_the_margins_too(some_model, pairs):
    """Computed otherwise, as copies of a few tokens: the sites' own outputs put back, no token blocked."""
    plan = plan_batches(some_model)
    conflict = observe_conflict(pairs, plan, ["zero"])
    own = frozenset(all_sites(3, 4))
    changes = [Patch(own, conflict.outputs), Block([[]] * len(pairs), EVERY_LAYER)]
    margins = changed_margins(conflict.prompts, [*changes, Scale(SITES, 1.0)], plan)
    assert np.abs(margins - margins[:, 2:]).max() < 1e-4


def test_equal_sets_run_once(make_model, pairs, monkeypatch):
    plan = plan_batches(make_model("neox"))
    conflict = observe_conflict(pairs, plan, ["mean"])
    done = sizes_of_forwards(monkeypatch)
    values = conflict.replacements["mean"]
    (once,) = (patched_margins(conflict.prompts, values, sets, plan) for sets in ([SITES],))
    tokens = sum(done)
    done.clear()
    twice = patched_margins(conflict.prompts, values, [SITES, frozenset(), SITES], plan)
    assert sum(done) == tokens and (twice[:, [0, 2]] == once).all()


@pytest.mark.parametrize("batch_size", ["auto", 8])
def test_a_single_copy_that_does_not_fit_halves_its_prompts(make_model, pairs, monkeypatch, batch_size):
    """At the tokens of a role a copy has many tokens: of eight prompts more than memory holds, of one not."""
    model = make_model("neox")
    plan = plan_batches(model)
    conflict = observe_conflict(pairs, plan, ["zero"], positions="definition")
    sets = [frozenset({site}) for site in all_sites(3, 4)]
    values, tokens = conflict.replacements["zero"], conflict.tokens
    want = patched_margins(conflict.prompts, values, sets, plan, tokens=tokens)
    done, short = short_of_memory(monkeypatch, 100), plan_batches(model, batch_size)
    found = patched_margins(conflict.prompts, values, sets, short, tokens=tokens)
    assert np.abs(found - want).max() < 1e-4 and short.halvings > 0 and max(done) <= 100
    assert short.tokens <= 100 and (short.rows is None or short.rows < 8)


def test_what_a_model_cannot_do_is_said(make_model, tokenizer, pairs):
    alone = wrap_model(make_hf("gpt-neo"), tokenizer, name="alone")
    with pytest.raises(InputError, match="alone: blocking attention needs an attention that accepts custom masks"):
        changed_margins([], [Block([], EVERY_LAYER)], plan_batches(alone))
    with pytest.raises(InputError, match="site a7.h0: expected a head or MLP of 3 layers x 4 heads"):
        changed_margins([], [Scale(frozenset({Site(7, "head", 0)}), 2.0)], plan_batches(make_model("neox")))
