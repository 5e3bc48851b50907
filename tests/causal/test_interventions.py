"""Scaling and knockout: against plain forwards with hooks and masks of our own, and on a model made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted_models import letter_pairs, overridden

from isp_mech.causal.attention_knockout import knock_out, scale_sites
from isp_mech.causal.replacements import role_tokens
from isp_mech.errors import InputError
from isp_mech.inference.contrast_prompts import prepare
from isp_mech.sites import Site
from isp_mech.tasks import PairSet, compose


def one_forward(model, fork, sites, alpha: float) -> float:
    """The margin with the sites scaled at the decision position, by hooks on a plain chain for each completion."""
    total = 0.0
    for sign, query in ((1, fork.answer), (-1, fork.lure)):
        ids, at, handles = torch.tensor([query.tokens[:-1]]), fork.shared - 1, []
        for site in sites:
            block = model.architecture.blocks[site.layer]

            def before(module, args, head=site.head, ids=ids, at=at):
                z = args[0].clone()
                z.view(1, ids.shape[1], 4, 8)[0, at, head] *= alpha
                return (z,)

            def after(module, args, out, ids=ids, at=at):
                out = out.clone()
                out.view(1, ids.shape[1], -1)[0, at] *= alpha
                return out

            if site.kind == "head":
                handles.append(block.attn_out.register_forward_pre_hook(before))
            else:
                handles.append(block.mlp_write.register_forward_hook(after))
        with torch.no_grad():
            logp = model.hf(ids).logits[0].float().log_softmax(-1)
        for handle in handles:
            handle.remove()
        total += sign * sum(float(logp[i - 1, query.tokens[i]]) for i in range(fork.shared, len(query.tokens)))
    return total


def test_scaled_margins_are_those_of_forwards_of_their_own(model, pairs):
    sites = {Site(0, "head", 1), Site(1, "mlp"), Site(2, "head", 3)}
    found = scale_sites(sites, pairs, model, alphas=(0.0, 1.0, 2.5)).frame
    for side in ("conflict", "plain"):
        forks = prepare(model, pairs, (side,)).forks
        rows = found[found["side"] == side].set_index("alpha")
        for alpha in (0.0, 1.0, 2.5):
            want = np.array([one_forward(model, fork, sites, alpha) for fork in forks])
            assert rows["margin"][alpha] == pytest.approx(want.mean(), abs=1e-4)
            right = want > 0 if side == "conflict" else want < 0
            assert rows["accuracy"][alpha] == right.mean()
        assert rows["effect"][1.0] == 0
    assert (found["place"] == "a0.h1 m1 a2.h3").all()


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
    forks = prepare(model, pairs, ("conflict",)).forks
    for role in ("definition", "question"):
        tokens = role_tokens(forks, role)
        want = [masked_margin(model, fork, mine) for fork, mine in zip(forks, tokens, strict=True)]
        row = found[(found["place"] == role) & (found["layers"] == "all")].iloc[0]
        assert row["margin"] == pytest.approx(np.mean(want), abs=1e-4)
        assert row["accuracy"] == (np.array(want) > 0).mean()


def masked_margin(model, fork, tokens) -> float:
    total = 0.0
    for sign, query in ((1, fork.answer), (-1, fork.lure)):
        ids = torch.tensor([query.tokens[:-1]])
        n = ids.shape[1]
        mask = torch.zeros(n, n).masked_fill(~torch.ones(n, n).bool().tril(), torch.finfo(torch.float32).min)
        mask[fork.shared - 1 :, tokens] = torch.finfo(torch.float32).min
        with torch.no_grad():
            logits = model.hf(ids, attention_mask=mask[None, None], use_cache=False).logits
        logp = logits[0].float().log_softmax(-1)
        total += sign * sum(float(logp[i - 1, query.tokens[i]]) for i in range(fork.shared, len(query.tokens)))
    return total


def test_without_the_definition_the_cue_decides(tokenizer):
    model, pairs = overridden(tokenizer, strength=0.0, name="planted"), letter_pairs(16)
    rows = knock_out(pairs, model, each_layer=True).frame.set_index(["place", "layers"])
    assert rows["accuracy"]["definition", "all"] == 0  # memory's weak head is left
    assert rows["accuracy"]["definition", "0"] == 0 and rows["accuracy"]["definition", "1"] == 1
    assert rows["effect"]["definition", "0"] > 0 > rows["effect"]["question", "0"]


def test_arguments_are_checked(make_model, pairs):
    model = make_model("neox")
    with pytest.raises(InputError, match="0 sites, 4 alphas: expected one or more of each"):
        scale_sites([], pairs, model)
    with pytest.raises(InputError, match="alpha nan: expected a finite number"):
        scale_sites([Site(0, "mlp")], pairs, model, alphas=[float("nan")])
    with pytest.raises(InputError, match="site a9.h0: expected a head or MLP of 3 layers x 4 heads"):
        scale_sites([Site(9, "head", 0)], pairs, model)
    with pytest.raises(InputError, match="no token of role 'negation'"):
        knock_out(pairs, model, roles=["negation"])
    with pytest.raises(InputError, match="gpt-neo: knockout needs an attention that takes a mask"):
        knock_out(pairs.take([0, 3]), make_model("gpt-neo"))
    bare = PairSet("bare", tuple(_without_roles(pair) for pair in pairs))
    with pytest.raises(InputError, match="no role that every conflict prompt has"):
        knock_out(bare, model)


def _without_roles(pair):
    from dataclasses import replace

    return replace(pair, conflict=compose([(pair.conflict.text, "")]))
