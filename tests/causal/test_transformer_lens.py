"""Interventions by TransformerLens's own hooks on its own forward: the same logits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from small_models import DIFFERENT

from isp_mech.causal import block, replacing, reweight, scale, steer
from isp_mech.causal.activation_patching import changed_margins
from isp_mech.causal.intervention_changes import Bound, prompts_of
from isp_mech.causal.intervention_values import with_array
from isp_mech.inference.batches import plan_batches


def hooks_of(part, arrays, tokens, decision):
    """The part as TransformerLens's names and functions of what stands there."""
    at = slice(decision, None) if part.at == "onward" else slice(decision, decision + 1)

    def scores(layer):
        def hook(value, hook):  # (batch, head, query, key)
            value = value.clone()
            more = -torch.inf if part.kind == "block" else math.log(part.number)
            for head in range(value.shape[1]) if part.heads is None else part.heads:
                value[:, head, decision:, tokens] += more
            return value

        return f"blocks.{layer}.attn.hook_attn_scores", hook

    def written(site):
        def hook(value, hook):
            value, vector = value.clone(), torch.tensor(arrays.get(f"{part.source}/{site}", 0.0))
            here = value[:, at, site.head] if site.kind == "head" else value[:, at]
            changed = {"scale": here * part.number, "replace": here * 0 + vector, "steer": here + part.number * vector}
            if site.kind == "head":
                value[:, at, site.head] = changed[part.kind]
            else:
                value[:, at] = changed[part.kind]
            return value

        name = {"head": "attn.hook_z", "mlp": "hook_mlp_out", "resid": "hook_resid_post"}[site.kind]
        return f"blocks.{site.layer}.{name}", hook

    if part.role:
        return [scores(layer) for layer in part.layers]
    return [written(site) for site in part.sites]


RNG = np.random.default_rng(3)
MADE = {
    "block": block("definition", layers=(0, 1)),
    "block, heads": block("definition", layers=(1,), heads=(0, 3)),
    "reweight": reweight("definition", 7.0, layers=(0, 1)),
    "reweight, less": reweight("question", 0.2, layers=(2,), heads=(1,)),
    "scale": scale("a0.h1 a2.h3 m1", -0.7),
    "scale onward": scale("a1.h2 m0", 2.5, at="onward"),
    "replace": with_array(replacing("a1.h0 m2"), {"a1.h0": RNG.normal(size=8), "m2": RNG.normal(size=32)}),
    "steer": with_array(steer(1, alpha=1.5), {"r1": RNG.normal(size=32)}),
    "steer onward": with_array(steer(0, alpha=-0.5, at="onward"), {"r0": RNG.normal(size=32)}),
}


@pytest.mark.parametrize("architecture", DIFFERENT)
def test_transformer_lens_gives_the_same(make_model, pairs, architecture):
    model = make_model(architecture)
    prompts = prompts_of(pairs, "conflict", model)[:2]
    bound, plan = Bound(model, prompts), plan_batches(model)
    ours = changed_margins(prompts, [bound.changes(made) for made in MADE.values()], plan)
    plain = changed_margins(prompts, [()], plan)
    assert (np.abs(ours - plain).max(0) > 1e-3).all()
    for n, prompt in enumerate(prompts):
        for i, made in enumerate(MADE.values()):
            (part,) = made.parts
            tokens = bound.tokens(part.role, early=True)[n] if part.role else []
            hooks = hooks_of(part, made.arrays, tokens, prompt.shared - 1)
            margin = 0.0
            for completion, sign in ((prompt.answer, 1), (prompt.lure, -1)):
                ids = torch.tensor([completion.tokens])
                with torch.no_grad():
                    logits = model.bridge.run_with_hooks(ids, fwd_hooks=hooks)[0].log_softmax(-1)
                predicted = range(prompt.shared, len(completion.tokens))
                margin += sign * sum(float(logits[k - 1, completion.tokens[k]]) for k in predicted)
            assert margin == pytest.approx(ours[n, i], abs=1e-4), list(MADE)[i]
