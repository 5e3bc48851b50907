"""Effects by gradients: against finite differences, against exact effects, and their sum along the whole way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_models import make_hf

from isp_mech.causal.activation_patching import replaced_margins
from isp_mech.causal.attribution_patching import approximate_effects
from isp_mech.causal.locate import locate
from isp_mech.causal.replacements import Outputs, observe, replacement_outputs
from isp_mech.errors import InputError
from isp_mech.inference.contrast_prompts import prepare
from isp_mech.models import wrap_model
from isp_mech.sites import all_sites


def seen_of(model, pairs):
    prepared = prepare(model, pairs, ("conflict",))
    return prepared.forks, observe(model, prepared)


def test_attribution_is_the_slope_of_the_exact_effect(model, pairs):
    forks, seen = seen_of(model, pairs)
    own, torch_seed = seen.outputs, torch.Generator().manual_seed(1)
    way = Outputs(*(torch.randn(x.shape, generator=torch_seed) * x.std() for x in (own.heads, own.mlps)))
    step = 0.002

    def moved(by: float) -> np.ndarray:
        there = Outputs(own.heads - by * way.heads, own.mlps - by * way.mlps)
        return replaced_margins(model, forks, there, [frozenset({site}) for site in all_sites(3, 4)])

    back, here, on = moved(-step), seen.margins[:, None], moved(step)
    slope = (back - on) / (2 * step)
    away = Outputs(own.heads - way.heads, own.mlps - way.mlps)
    found = approximate_effects(model, forks, own, away)
    assert np.abs(slope).max() > 0.01
    # OPT's MLPs have kinks: where one lies within a step, the slope on its other side is the gradient
    sides = np.stack([slope, (back - here) / step, (here - on) / step])
    assert np.abs(found - sides).min(0).max() < 0.01 * np.abs(slope).max()
    assert np.median(np.abs(found - slope)) < 1e-3 * np.abs(slope).max()


@pytest.mark.parametrize("kind", ["mean", "resample", "zero"])
def test_integrated_over_all_of_a_layer_they_sum_to_its_exact_effect(make_model, pairs, kind):
    model = make_model("neox")  # heads and MLP of a layer run side by side: neither changes the other
    forks, seen = seen_of(model, pairs)
    stand_in = replacement_outputs(kind, seen.outputs)
    sites = all_sites(3, 4)
    layers = [frozenset(site for site in sites if site.layer == layer) for layer in range(3)]
    exact = seen.margins[:, None] - replaced_margins(model, forks, stand_in, layers)
    found = approximate_effects(model, forks, seen.outputs, stand_in, steps=32)
    by_layer = found.reshape(len(forks), 3, 5).sum(2)
    assert np.abs(exact).max() > 0.05
    assert np.abs(by_layer - exact).max() < 0.01 * np.abs(exact).max()


@pytest.mark.parametrize("steps", [1, 4])
def test_batches_and_their_order_change_nothing(make_model, pairs, steps):
    model = make_model("llama")
    forks, seen = seen_of(model, pairs)
    stand_in = replacement_outputs("mean", seen.outputs)
    one, many = (
        approximate_effects(model, forks, seen.outputs, stand_in, steps=steps, batch_size=size) for size in (1, "auto")
    )
    assert np.abs(one - many).max() < 1e-4


def test_locating_by_gradients_says_how_far_it_is_from_the_exact_effects(make_model, pairs):
    model = make_model("neox")
    exact = locate(pairs, model)
    for method in ("attribution", "integrated"):
        found = locate(pairs, model, method=method)
        told = found.stability.frame.set_index("replacement_b").loc[method]
        want = exact.sites.frame["effect"].corr(found.sites.frame["effect"], method="spearman")
        assert told["replacement_a"] == "exact" and told["spearman"] == pytest.approx(want, abs=1e-6)
        assert any(method in note and f"{want:.2f}" in note for note in found.sites.run.notes)
        assert found.sites.run.method.startswith("locate: total effect by gradients")
        assert not np.allclose(found.effects.frame["effect"], exact.effects.frame["effect"])


def test_no_gradient_is_kept_and_no_weight_is_touched(make_model, pairs):
    model = make_model("gpt2")
    before = [p.clone() for p in model.hf.parameters()]
    locate(pairs, model, method="attribution")
    assert all(p.grad is None for p in model.hf.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.hf.parameters(), strict=True))


def test_what_cannot_be_done_is_said(make_model, tokenizer, pairs):
    model = make_model("neox")
    with pytest.raises(InputError, match=r"method 'gradient': expected one of exact, attribution, integrated"):
        locate(pairs, model, method="gradient")
    forks, seen = seen_of(model, pairs)
    with pytest.raises(InputError, match="0: expected 1 or more"):
        approximate_effects(model, forks, seen.outputs, seen.outputs, steps=0)
    alone = wrap_model(make_hf("gpt-neo"), tokenizer, name="alone")
    with pytest.raises(InputError, match="takes a mask"):
        approximate_effects(alone, forks, seen.outputs, seen.outputs)
