"""Scaling and knockout: against plain forwards with hooks and masks of our own, and on a model made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from own_forwards import At, margins_alone
from planted_models import letter_pairs, overridden

from isp_mech.causal.interventions import knock_out, scale_sites
from isp_mech.causal.replacements import role_tokens
from isp_mech.errors import InputError
from isp_mech.inference.contrast_prompts import place_prompts
from isp_mech.sites import Site
from isp_mech.tasks import PairSet, compose


def test_scaled_margins_are_those_of_forwards_of_their_own(some_model, pairs):
    sites, alphas = (Site(0, "head", 1), Site(1, "mlp"), Site(2, "head", 3)), (0.0, 1.0, 2.5)
    found = scale_sites(sites, pairs, some_model, alphas=alphas).frame
    for side in ("conflict", "plain"):
        rows = found[found["side"] == side].set_index("alpha")
        want = np.array([scaled_alone(some_model, p, sites, alphas) for p in prompts_of(some_model, pairs, side)])
        right = want > 0 if side == "conflict" else want < 0
        assert rows["margin"].tolist() == pytest.approx(want.mean(0), abs=1e-4)
        assert rows["accuracy"].tolist() == right.mean(0).tolist()
        assert rows["effect"][1.0] == 0
    assert (found["place"] == "a0.h1 m1 a2.h3").all()


def prompts_of(model, pairs, side: str):
    return place_prompts(model, pairs, (side,)).prompts


def scaled_alone(model, prompt, sites, alphas) -> np.ndarray:
    at = [prompt.shared - 1]
    changes = [[At(site, at, lambda x, alpha=alpha: alpha * x) for site in sites] for alpha in alphas]
    return margins_alone(model, prompt, changes)


def test_an_override_grows_with_its_heads_scale(tokenizer):
    """In the hand-made model a1.h2 writes the cue: without it the definition is followed, doubled it wins by more."""
    model, pairs = overridden(tokenizer, strength=2.0, name="planted"), letter_pairs(16)
    rows = scale_sites({Site(1, "head", 2)}, pairs, model).frame.query("side == 'conflict'").set_index("alpha")
    assert rows["margin"].is_monotonic_decreasing
    assert rows["accuracy"][0.0] == 1 and rows["accuracy"][1.0] == 0
    assert rows["effect"][0.0] < 0 < rows["effect"][2.0] and rows["q"][2.0] < 0.05


@pytest.mark.parametrize("architecture", ["neox", "gpt2", "llama"])
def test_knockout_is_a_mask(make_model, pairs, architecture):
    """Against transformers' own eager attention with the role's columns masked in the last rows."""
    model = make_model(architecture)
    found = knock_out(pairs, model, each_layer=True).frame
    assert list(dict.fromkeys(found["place"])) == ["definition", "question"]
    assert found["layers"].tolist() == ["all", "0", "1", "2"] * 2
    prompts = prompts_of(model, pairs, "conflict")
    for role in ("definition", "question"):
        tokens = role_tokens(prompts, role)
        want = [masked_alone(model, prompt, mine) for prompt, mine in zip(prompts, tokens, strict=True)]
        row = found[(found["place"] == role) & (found["layers"] == "all")].iloc[0]
        assert row["margin"] == pytest.approx(np.mean(want), abs=1e-4)
        assert row["accuracy"] == (np.array(want) > 0).mean()


def masked_alone(model, prompt, tokens) -> float:
    n = max(len(completion.tokens) for completion in prompt.completions)
    mask = torch.zeros(n, n).masked_fill(~torch.ones(n, n).bool().tril(), torch.finfo(torch.float32).min)
    mask[prompt.shared - 1 :, tokens] = torch.finfo(torch.float32).min
    return float(margins_alone(model, prompt, [[]], mask)[0])


def test_without_the_definition_the_cue_decides(tokenizer):
    model, pairs = overridden(tokenizer, strength=0.0, name="planted"), letter_pairs(16)
    rows = knock_out(pairs, model, each_layer=True).frame.set_index(["place", "layers"])
    assert rows["accuracy"]["definition", "all"] == 0  # memory's weak head is left
    assert rows["accuracy"]["definition", "0"] == 0 and rows["accuracy"]["definition", "1"] == 1
    assert rows["effect"]["definition", "0"] > 0 > rows["effect"]["question", "0"]


def test_arguments_are_checked(make_model, pairs):
    model = make_model("neox")
    with pytest.raises(InputError, match="neox: no sites: expected one or more"):
        scale_sites([], pairs, model)
    with pytest.raises(InputError, match="no alphas: expected one or more"):
        scale_sites([Site(0, "mlp")], pairs, model, alphas=[])
    with pytest.raises(InputError, match="alpha nan: expected a finite number"):
        scale_sites([Site(0, "mlp")], pairs, model, alphas=[float("nan")])
    with pytest.raises(InputError, match="site a9.h0: expected a head or MLP of 3 layers x 4 heads"):
        scale_sites([Site(9, "head", 0)], pairs, model)
    with pytest.raises(InputError, match="no token of role 'negation'"):
        knock_out(pairs, model, roles=["negation"])
    with pytest.raises(InputError, match="gpt-neo: blocking attention needs an attention that accepts custom masks"):
        knock_out(letter_pairs(4), make_model("gpt-neo"))
    bare = PairSet("bare", tuple(_without_roles(pair) for pair in pairs))
    with pytest.raises(InputError, match="no role that every conflict prompt has"):
        knock_out(bare, model)


def _without_roles(pair):
    from dataclasses import replace

    return replace(pair, conflict=compose([(pair.conflict.text, "")]))
