"""The search for an intervention, held against judging every single change on every pair."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from small_models import DIFFERENT

from isp_mech.causal import Intervention, block, parse_intervention, replay, scale
from isp_mech.causal.activation_patching import changed_margins
from isp_mech.causal.intervention_changes import Bound, prompts_of
from isp_mech.causal.restoration_search import FEW, LOOKED_THROUGH, Search, same_as
from isp_mech.inference.batches import plan_batches

N = 2 * FEW
ATS = ("decision", "onward")
CHANGES = [scale(f"a0.h{i}", 2.0) for i in range(3 * LOOKED_THROUGH)]


class Side:
    """Margins drawn once for each change, as if prompts had been run; counts what was asked."""

    def __init__(self, seed, shift, n=N, sign=1.0, first=0):
        self.seed, self.shift, self.sign, self.first, self.asked = seed, shift, sign, first, 0
        self.bound = SimpleNamespace(prompts=[SimpleNamespace(answer=SimpleNamespace(targets=[0]))] * n)

    def of(self, made):
        self.asked += len(made)
        return np.stack([self.margins(one) for one in made], 1)

    def margins(self, made):
        numbers = [site.head for part in made.parts for site in part.sites]
        rng = np.random.default_rng([self.seed, *numbers])
        drawn = self.sign * rng.normal(size=N)[self.first :][: len(self.bound.prompts)]
        return drawn + sum(self.shift(number) for number in numbers)


def search(good=lambda i: i / 100, bad=lambda i: 0.0, loss=lambda i: 0.0):
    conflict, few, rest = Side(1, good), Side(1, good, n=FEW), Side(1, good, n=N - FEW, first=FEW)
    plain = Side(2, lambda i: 50.0 if bad(i) else 0.0, sign=0.0)
    plain.margins = lambda made: np.where(any(bad(s.head) for p in made.parts for s in p.sites), 1.0, -np.ones(N))
    neutral = Side(3, loss)
    neutral.margins = lambda made: -np.full(N, 2.0 + sum(loss(s.head) for p in made.parts for s in p.sites))
    half = SimpleNamespace(quick_conflict=conflict, quick_plain=plain, few=few, rest=rest)
    return Search(half, neutral, plain_floor=0.95, neutral_ceiling=2.05)


def right(one, made):
    return int((one.half.quick_conflict.margins(made) > 0).sum())


@pytest.mark.parametrize("costs", ["nothing", "plain accuracy", "neutral loss"])
def test_the_best_cheap_change_is_found_without_judging_all(costs):
    """It is the one of most right answers, which many changes that cost too much stand before."""
    costly = {"bad": lambda i: i % 3 != 0} if costs == "plain accuracy" else {}
    costly = {"loss": lambda i: 0.1 * (i % 3 != 0)} if costs == "neutral loss" else costly
    one = search(**costly)
    found = one.best(CHANGES, 1)
    cheap = [made for i, made in enumerate(CHANGES) if costs == "nothing" or i % 3 == 0]
    assert right(one, found) == max(right(one, made) for made in cheap) and found in cheap
    assert one.half.few.asked == len(CHANGES) and one.half.rest.asked == LOOKED_THROUGH
    assert one.half.quick_conflict.asked == 1  # as it is
    assert one.half.quick_plain.asked <= LOOKED_THROUGH


def test_a_further_part_has_to_make_two_in_a_hundred_more_right():
    one = search(good=lambda i: 0.5)
    first = one.best(CHANGES, 1)
    more = one.best(CHANGES, 3)
    assert right(one, more) >= right(one, first) + 0.02 * N * (len(more.parts) - 1)
    assert len(search(good=lambda i: 50.0).best(CHANGES, 3).parts) == 1  # all are right with one


def test_where_nothing_is_better_nothing_is_changed():
    assert search(good=lambda i: -50.0).best(CHANGES, 3) == Intervention()
    assert search(good=lambda i: 50.0, bad=lambda i: True).best(CHANGES, 3) == Intervention()
    assert search(good=lambda i: 50.0, loss=lambda i: 1.0).best(CHANGES, 3) == Intervention()


def test_what_does_the_same_is_not_run_again():
    """One site's write added once more is scaling it by 2; of several sites it is not, nor at other tokens."""
    one = search()
    found = one.best(CHANGES, 1)
    asked = [side.asked for side in (one.half.few, one.half.rest, one.half.quick_plain, one.neutral)]
    again = one.best([replay(made.parts[0].sites, 1.0) for made in CHANGES], 1)
    assert again.parts[0].sites == found.parts[0].sites and again.kinds == "replay"
    assert asked == [side.asked for side in (one.half.few, one.half.rest, one.half.quick_plain, one.neutral)]
    assert same_as(replay("a0.h1 m1", 1.0)) != same_as(scale("a0.h1 m1", 2.0))
    assert same_as(replay("m1", 1.0, at="onward")) != same_as(scale("m1", 2.0))


@pytest.mark.parametrize("architecture", DIFFERENT)
def test_replaying_one_site_is_scaling_it(make_model, pairs, architecture):
    model = make_model(architecture)
    prompts = prompts_of(pairs, "conflict", model)
    bound, made = Bound(model, prompts), [replay(site, -2.0, at=at) for site in ("a1.h2", "m0") for at in ATS]
    same = [parse_intervention(same_as(one)) for one in made]
    margins = changed_margins(prompts, [bound.changes(one) for one in (*made, *same)], plan_batches(model))
    assert [one.kinds for one in same] == ["scale"] * 4
    assert margins[:, :4] == pytest.approx(margins[:, 4:], abs=1e-4)


def test_neutral_text_is_not_asked_of_what_needs_roles():
    """It has none, so that such a change does nothing there."""
    one = search(loss=lambda i: 1.0)
    one.half.quick_conflict.margins = lambda made: np.full(N, 1.0 if made.parts else -1.0)
    assert one.best([block("question")], 2) == block("question") and one.neutral.asked == 0
