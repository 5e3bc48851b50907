"""Effects at a role's tokens: each equals a plain forward with hooks of our own, and a planted move is found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from own_forwards import margins_alone, put
from planted_models import letter_pairs, overridden

from isp_mech.causal.activation_patching import patched_margins
from isp_mech.causal.locate import locate
from isp_mech.causal.replacements import (
    SiteOutputs,
    observe,
    observe_conflict,
    observe_role,
    replacement_outputs,
    role_tokens,
)
from isp_mech.errors import InputError
from isp_mech.inference.batches import plan_batches
from isp_mech.inference.contrast_prompts import place_prompts
from isp_mech.sites import all_sites
from isp_mech.tasks import Pair, PairSet, compose


@pytest.mark.parametrize("role", ["definition", "question"])
def test_every_effect_is_that_of_a_forward_of_its_own(some_model, pairs, role):
    pairs = pairs.take([0, 1, 2, 3])
    plan, sites = plan_batches(some_model), all_sites(3, 4, stream=True)
    conflict = observe_conflict(pairs, plan, ["mean", "resample"], positions=role, seed=2)
    margins = observe(conflict.placed, plan).margins
    for kind, some in (("mean", (0, 1)), ("resample", (2,))):
        values = conflict.replacements[kind]
        sets = [frozenset({site}) for site in sites]
        found = patched_margins(conflict.prompts, values, sets, plan, tokens=conflict.tokens)
        for i in some:
            alone = [[put(site, conflict.tokens[i], values, i)] for site in sites]
            want = margins_alone(some_model, conflict.prompts[i], alone)
            assert found[i] == pytest.approx(want, abs=1e-4), kind
    located = locate(pairs, some_model, positions=role, replacement=("resample", "zero"), seed=2)
    ours = located.effects.frame.query("replacement == 'resample'")["effect"].to_numpy().reshape(len(pairs), -1)
    assert ours == pytest.approx(margins[:, None] - found, abs=1e-4)
    assert located.sites.frame["kind"].tolist() == [site.kind for site in sites]
    assert located.sites.frame["direct_effect"].isna().all()
    assert f"at the tokens of role {role}" in located.sites.run.method


def test_batches_change_nothing_and_plain_takes_the_plain_prompts_own(make_model, pairs):
    model = make_model("llama")
    a = locate(pairs, model, positions="question", replacement="plain").effects.frame
    b = locate(pairs, model, positions="question", replacement="plain", batch_size=1).effects.frame
    assert a["effect"].to_numpy() == pytest.approx(b["effect"].to_numpy(), abs=1e-4)
    plain = place_prompts(model, pairs, ("plain",))
    tokens = role_tokens(plain.prompts, "question")
    own = observe_role(plain, tokens, plan_batches(model))
    prompt = plain.prompts[2]
    ids = torch.tensor([prompt.answer.tokens[:-1]])
    seen = []
    handle = model.architecture.blocks[1].block.register_forward_hook(
        lambda m, a, out: seen.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        model.hf(ids)
    handle.remove()
    want = seen[0].reshape(ids.shape[1], -1)[tokens[2]].mean(0)
    assert own.stream[2, 1].numpy() == pytest.approx(want.numpy(), abs=1e-4)


def test_the_definition_is_read_where_it_stands(tokenizer):
    """In the planted model the stream at the definition's token carries its meaning until layer 0 has read it."""
    pairs = letter_pairs(16)
    model = overridden(tokenizer, strength=0.0, name="planted")
    found = locate(pairs, model, positions="definition", replacement="zero")
    effects = found.effects.frame
    assert effects["effect"].abs().max() < 1e-4  # a0.h1 reads the embedding, before any site that is replaced here


def test_a_role_that_moves_through_an_earlier_token_is_found_there(make_model, pairs):
    """The stream at the definition's tokens matters more the earlier it is cut, and its last layer not at all."""
    model = make_model("neox")
    found = locate(pairs, model, positions="definition", replacement="zero").sites.frame
    last = found[found["layer"] == 2]
    assert last["effect"].to_numpy() == pytest.approx(np.zeros(len(last)), abs=1e-5)
    stream = found[(found["kind"] == "resid") & (found["layer"] < 2)]
    assert (stream["effect"].abs() > 1e-3).all()


def test_arguments_are_checked(make_model, pairs):
    model = make_model("neox")
    with pytest.raises(InputError, match="p0 .conflict.*: no token of role 'negation', found definition, question"):
        locate(pairs, model, positions="negation")
    with pytest.raises(InputError, match="no token of role 'definition', found question, other"):
        locate(pairs, model, positions="definition", replacement="plain")
    with pytest.raises(InputError, match="method 'attribution' with positions 'question': expected method exact"):
        locate(pairs, model, positions="question", method="attribution")
    with pytest.raises(InputError, match="needs the other pairs"):
        locate(pairs.take([0]), model, positions="question")
    with pytest.raises(InputError, match="'mode': expected one of mean, resample, plain, zero"):
        replacement_outputs("mode", SiteOutputs(torch.zeros(2, 1, 1, 1), torch.zeros(2, 1, 1), torch.zeros(2, 1, 1)))


def test_a_role_up_to_the_decision_position_is_replaced_there_too(make_model):
    made = []
    for i in range(4):
        plain = compose([("Say ", ""), ("the digit:", "question")])
        conflict = compose([(f"Redefine {i}. ", "definition"), ("Say ", ""), ("the digit:", "question")])
        made.append(Pair(f"p{i}", plain, conflict, " 4", " 3", "definition"))
    model = make_model("neox")
    pairs = PairSet("ends", tuple(made))
    prompts = place_prompts(model, pairs, ("conflict",)).prompts
    assert [mine[-1] for mine in role_tokens(prompts, "question")] == [prompt.shared - 1 for prompt in prompts]
    last = locate(pairs, model, positions="question", replacement="zero").sites.frame.query("layer == 2")
    assert (last["effect"].abs() > 1e-4).any()
