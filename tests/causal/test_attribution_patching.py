"""Effects by gradients: against finite differences, against exact effects, and their sum along the whole way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from small_models import make_hf

from isp_mech.causal.activation_patching import patched_margins
from isp_mech.causal.attribution_patching import approximate_effects
from isp_mech.causal.locate import locate
from isp_mech.causal.replacements import ConflictSide, SiteOutputs, observe_conflict
from isp_mech.errors import InputError
from isp_mech.inference.batches import BatchPlan, plan_batches
from isp_mech.models import wrap_model
from isp_mech.sites import all_sites


@dataclass(frozen=True)
class Observed:
    """A model's plan and its conflict side, with one replacement."""

    plan: BatchPlan
    conflict: ConflictSide
    values: SiteOutputs

    def effects(self, values: SiteOutputs, **options) -> np.ndarray:
        return approximate_effects(self.conflict.prompts, self.conflict.outputs, values, self.plan, **options)


def observed(model, pairs, kind="mean", batch_size="auto"):
    plan = plan_batches(model, batch_size)
    conflict = observe_conflict(pairs, plan, [kind])
    return Observed(plan, conflict, conflict.replacements[kind])


def test_attribution_is_the_slope_of_the_exact_effect(some_model, pairs):
    seen = observed(some_model, pairs.take([0, 1, 2, 3]))
    own, torch_seed = seen.conflict.outputs, torch.Generator().manual_seed(1)
    way = own.map(lambda x: torch.randn(x.shape, generator=torch_seed) * x.std())
    step, sets = 0.002, [frozenset({site}) for site in all_sites(3, 4)]

    def moved(by: float) -> np.ndarray:
        there = SiteOutputs(own.heads - by * way.heads, own.mlps - by * way.mlps)
        return patched_margins(seen.conflict.prompts, there, sets, seen.plan)

    back, here, on = moved(-step), seen.conflict.observed.margins[:, None], moved(step)
    slope = (back - on) / (2 * step)
    ours = seen.effects(own.minus(way))
    assert np.abs(slope).max() > 0.01
    # OPT's MLPs have kinks: where one lies within a step, the slope on its other side is the gradient
    sides = np.stack([slope, (back - here) / step, (here - on) / step])
    assert np.abs(ours - sides).min(0).max() < 0.01 * np.abs(slope).max()
    assert np.median(np.abs(ours - slope)) < 1e-3 * np.abs(slope).max()


@pytest.mark.parametrize("kind", ["mean", "resample", "zero"])
def test_integrated_over_all_of_a_layer_they_sum_to_its_exact_effect(make_model, pairs, kind):
    seen = observed(make_model("neox"), pairs, kind)  # heads and MLP of a layer run side by side, apart from each other
    sites = all_sites(3, 4)
    layers = [frozenset(site for site in sites if site.layer == layer) for layer in range(3)]
    patched = patched_margins(seen.conflict.prompts, seen.values, layers, seen.plan)
    exact = seen.conflict.observed.margins[:, None] - patched
    by_layer = seen.effects(seen.values, steps=32).reshape(len(pairs), 3, 5).sum(2)
    assert np.abs(exact).max() > 0.05
    assert np.abs(by_layer - exact).max() < 0.01 * np.abs(exact).max()


@pytest.mark.parametrize("steps", [1, 4])
def test_batches_and_their_order_change_nothing(make_model, pairs, steps):
    seen = [observed(make_model("llama"), pairs, batch_size=size) for size in (1, "auto")]
    one, many = (each.effects(each.values, steps=steps) for each in seen)
    assert np.abs(one - many).max() < 1e-4


def test_locating_by_gradients_says_how_far_it_is_from_the_exact_effects(make_model, pairs):
    model = make_model("neox")
    exact = locate(pairs, model)
    for method in ("attribution", "integrated"):
        ours = locate(pairs, model, method=method)
        row = ours.stability.frame.set_index("replacement_b").loc[method]
        want = exact.sites.frame["effect"].corr(ours.sites.frame["effect"], method="spearman")
        assert row["replacement_a"] == "exact" and row["spearman"] == pytest.approx(want, abs=1e-6)
        assert any(method in note and f"{want:.2f}" in note for note in ours.sites.run.notes)
        assert ours.sites.run.method.startswith("locate: total effect by gradients")
        assert not np.allclose(ours.effects.frame["effect"], exact.effects.frame["effect"])


def test_no_gradient_is_kept_and_no_weight_is_touched(make_model, pairs):
    model = make_model("gpt2")
    before = [p.clone() for p in model.hf.parameters()]
    locate(pairs, model, method="attribution")
    assert all(p.grad is None for p in model.hf.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.hf.parameters(), strict=True))


def test_what_cannot_be_done_is_said(make_model, tokenizer, pairs):
    model = make_model("neox")
    with pytest.raises(InputError, match=r"method 'gradient': expected one of exact, exhaustive, attribution"):
        locate(pairs, model, method="gradient")
    seen = observed(model, pairs)
    with pytest.raises(InputError, match="0: expected 1 or more"):
        seen.effects(seen.values, steps=0)
    alone = plan_batches(wrap_model(make_hf("gpt-neo"), tokenizer, name="alone"))
    with pytest.raises(InputError, match="accepts custom masks"):
        approximate_effects(seen.conflict.prompts, seen.values, seen.values, alone)
