"""Directions trained to be swapped: on a model whose override lies in one known direction, and beside plain hooks."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from own_forwards import At, margins_alone
from planted_models import IS_DEFINITION, embedding, letter_pairs, overridden, wire
from small_models import DIFFERENT

from isp_mech.causal.activation_patching import changed_margins
from isp_mech.causal.alignment_search import SwappedPrompts, trained_directions, trained_swaps
from isp_mech.causal.intervention_changes import Bound, observe_streams, prompts_of
from isp_mech.causal.intervention_values import swap, with_array
from isp_mech.causal.interventions import intervene
from isp_mech.causal.random_changes import random_changes
from isp_mech.causal.restoration import restoration
from isp_mech.contrasts import contrast
from isp_mech.errors import InputError
from isp_mech.families import family
from isp_mech.inference.batches import plan_batches
from isp_mech.inference.margin import at_first_token
from isp_mech.models import wrap_model
from isp_mech.scoring import score
from isp_mech.sites import Site
from isp_mech.tasks import PairSet, compose

GATE, DISTRACTION = (20, 21), (24, 25)
IS_NOISE, NOISE = 5, 6
SHARP = 0.5  # how far the gate turns a1.h2's attention; sharper, and a closed gate gives no gradient


@pytest.fixture
def gated(tokenizer):
    """Conflict prompts alone open a gate, by which a1.h2 looks at the cue and overrides the definition. They alone have
    noise too, which is written more strongly than the gate, in a direction that nobody reads."""
    hf = overridden(tokenizer, strength=2.0, name="planted").hf
    with torch.no_grad():
        for letter, value in (("v", 1.0), ("w", -1.0)):
            hf.gpt_neox.embed_in.weight[tokenizer(letter).input_ids[0]] = embedding({IS_NOISE: 1.0, NOISE: value})
        opening = ((2, IS_DEFINITION, IS_DEFINITION, GATE, 1.0), (0, IS_NOISE, NOISE, DISTRACTION, 3.0))
        attention = hf.gpt_neox.layers[0].attention
        for head, sees, reads, (one, two), gain in opening:
            wire(hf, layer=0, head=head, sees=sees, reads=reads, gain=0.0)
            attention.dense.weight[one, 8 * head], attention.dense.weight[two, 8 * head] = gain, -gain
        query = hf.gpt_neox.layers[1].attention.query_key_value.weight.view(4, 3, 8, 32)[2, 0]
        query[3] = 0
        query[3, GATE[0]], query[3, GATE[1]] = SHARP, -SHARP
    return wrap_model(hf, tokenizer, name="gated")


def noisy_pairs(n: int) -> PairSet:
    """Letters, with noise before the definition: v in two of three."""
    made = []
    for i, pair in enumerate(letter_pairs(n)):
        noise, text = "w" if i % 3 == 2 else "v", pair.conflict.text
        made.append(replace(pair, conflict=compose([(noise, ""), (text[0], "definition"), (text[1:], "")])))
    return PairSet("noisy letters", tuple(made))


def sides_of(pairs, model):
    plan = plan_batches(model)
    streams = observe_streams([swap(0)], pairs, plan)
    prompts = {side: prompts_of(pairs, side, model) for side in ("conflict", "plain")}
    sides = [
        SwappedPrompts(prompts["conflict"], streams.conflict.stream, streams.plain.stream, 1.0),
        SwappedPrompts(prompts["plain"], streams.plain.stream, streams.conflict.stream, -1.0),
    ]
    return sides, streams.differences(range(len(pairs)))["conflict-plain"], plan


def swapped(layer, u):
    return with_array(swap(layer, "trained"), {f"r{layer}": u.numpy()})


def margins(side, layer, u, plan):
    """(prompt, 2): as it is, and swapped along u."""
    bound = Bound(plan.model, side.prompts, own=side.own, other=side.other)
    return changed_margins(side.prompts, [(), bound.changes(swapped(layer, u))], plan)


def test_it_turns_to_where_the_override_lies(gated):
    """And restores every pair, where the difference of means, turned by the noise, loses those whose noise is rare."""
    (conflict, plain), mean, plan = sides_of(noisy_pairs(24), gated)
    gate = torch.zeros(32)
    gate[list(GATE)] = torch.tensor([1.0, -1.0]) / 2**0.5
    assert abs(mean[0] @ gate / mean[0].norm()) < 0.75
    u = trained_directions([conflict, plain], [0], plan)[0]
    assert abs(u @ gate) > 0.99 and u.norm() == pytest.approx(1)
    before, after = margins(conflict, 0, u, plan).T
    assert (before < 0).all() and (after > 0).all()
    assert (margins(plain, 0, u, plan) < 0).all()
    assert (margins(conflict, 0, mean[0], plan)[:, 1] > 0).mean() < 0.7


@pytest.mark.parametrize("architecture", DIFFERENT)
def test_swapping_is_what_plain_hooks_do(make_model, pairs, architecture):
    """Transformers' own forwards, the stream of the pair's other prompt read by a hook of our own."""
    model = make_model(architecture)
    sides, _, plan = sides_of(pairs.take(range(3)), model)
    for layer in (0, model.architecture.n_layers - 1):
        u = torch.nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(layer)), dim=0)
        for side, other in (sides, sides[::-1]):
            found = margins(side, layer, u, plan)[:, 1]
            for prompt, source, value in zip(side.prompts, other.prompts, found, strict=True):
                (there,) = stream_alone(model, source, layer) @ u
                at = Site(layer, "resid"), [prompt.shared - 1]
                put = At(*at, lambda h, x=there, u=u: h + (x - h @ u)[:, None] * u)
                assert value == pytest.approx(margins_alone(model, prompt, [[put]])[0], abs=1e-4)


def stream_alone(model, prompt, layer):
    """(1, d_model): what a block gives at the decision position, in a forward of the prompt alone."""
    seen = []

    def see(module, args, out):
        seen.append((out[0] if isinstance(out, tuple) else out).view(-1, 32)[[prompt.shared - 1]])

    handle = model.architecture.blocks[layer].block.register_forward_hook(see)
    with torch.no_grad():
        model.hf(torch.tensor([prompt.answer.tokens[: prompt.shared]]), use_cache=False)
    handle.remove()
    return seen[0]


def test_training_lowers_the_loss_of_swapped_prompts(make_model, pairs):
    """Below that of random directions and of the difference of means, as forwards without gradients have it."""
    model = make_model("llama")
    sides, mean, plan = sides_of(pairs, model)

    def loss(layer, u):
        first = [replace(side, prompts=[at_first_token(prompt) for prompt in side.prompts]) for side in sides]
        return np.mean([np.logaddexp(0, -side.sign * margins(side, layer, u, plan)[:, 1]).mean() for side in first])

    trained = trained_directions(sides, range(3), plan, most=3)
    ((best, _),) = trained_directions(sides, range(3), plan).items()
    for layer, u in trained.items():
        random = torch.nn.functional.normalize(torch.randn(6, 32, generator=torch.Generator().manual_seed(0)), dim=1)
        assert loss(layer, u) < min(loss(layer, v) for v in [*random, mean[layer]])
    assert best == min(trained, key=lambda layer: loss(layer, trained[layer]))
    assert [str(one).split("#")[0] for one in trained_swaps(sides, plan)] == [
        f"swap(r{layer}; subspace=trained" for layer in sorted(sorted(trained, key=lambda i: loss(i, trained[i]))[:2])
    ]


def test_random_directions_move_each_prompt_as_far(make_model, pairs):
    model = make_model("neox")
    (side, _), _, _ = sides_of(pairs, model)
    bound = Bound(model, side.prompts, own=side.own, other=side.other)
    u = torch.nn.functional.normalize(torch.arange(32.0), dim=0)
    ((one,), (two,)) = random_changes(swapped(1, u), bound, 2, 0)
    far = ((side.other - side.own)[:, 1] @ u).abs()
    for change in (one, two):
        moved = (change.values - side.own[:, 1] @ change.basis.T)[:, 0]
        assert moved.abs().tolist() == pytest.approx(far.tolist(), abs=1e-5)
        assert float(change.basis.norm()) == pytest.approx(1) and abs(float(change.basis[0] @ u)) < 0.9
    assert abs(float(one.basis[0] @ two.basis[0])) < 0.9


def test_what_gives_no_gradients_is_refused(make_model):
    model = make_model("gpt-neo")
    sides, _, plan = sides_of(letter_pairs(4), model)
    with pytest.raises(InputError, match="gpt-neo: gradients need an attention that accepts custom masks"):
        trained_directions(sides, [0], plan)


def test_a_swap_is_searched_and_judged_as_the_other_kinds_are(gated, monkeypatch):
    """Trained on one half, it restores the other, better than random directions, which move each prompt as far."""
    monkeypatch.setattr(import_module("isp_mech.causal.restoration"), "N_NEUTRAL", 6)
    found = restoration(noisy_pairs(24), gated, kinds=["swap"], n_random=40)
    frame = found.table.frame
    assert frame["intervention"].str.match(r"swap\(r0; subspace=trained#\w{12}; at=decision\)").all()
    assert (frame["conflict_before"] == 0).all() and (frame["restored"] == 1).all() and (frame["broken"] == 0).all()
    assert (frame["p"] < 0.05).all() and frame["restoring"].all()
    assert (frame["needs"] == "the pair's other prompt").all()
    made = found.interventions[frame["intervention"][0]]
    rows = intervene(made, noisy_pairs(24), gated).frame.set_index("side")
    assert rows["accuracy"]["conflict"] == 1 and rows["accuracy"]["plain"] == 1


def test_a_swap_leaves_neutral_prompts_as_they_are():
    """They have no other prompt. The other two sides trade what lies in the direction, so it changes both."""
    some, model = contrast("quote-repetition", n=4, seed=0), family("ladder", sizes=["25k"])
    rows = intervene(swap(1), some, model).frame
    effects = rows.set_index("side")["effect"]
    assert effects["neutral"] == 0 and min(abs(effects["conflict"]), abs(effects["plain"])) > 0
    with pytest.raises(InputError, match="expected intervene"):
        score(some, model, intervention=with_array(swap(1), {"r1": np.ones(32)}))
