"""Every kind of intervention against plain hooks and masks on the transformers model itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_models import DIFFERENT, make_hf

from isp_mech.causal.activation_patching import changed_margins
from isp_mech.causal.attach import attach
from isp_mech.causal.changes import Block, Patch, Project, Reweight
from isp_mech.causal.intervention_changes import Bound
from isp_mech.causal.intervention_values import (
    Intervention,
    block,
    parse_intervention,
    replacing,
    replay,
    reweight,
    scale,
    steer,
    swap,
    with_array,
)
from isp_mech.causal.replacements import SiteOutputs, role_tokens
from isp_mech.errors import InputError
from isp_mech.inference.batches import plan_batches
from isp_mech.inference.contrast_prompts import place_prompts

# those that differ most, and ALiBi positions; two more in the long run
SIX = (*DIFFERENT, "bloom", *(pytest.param(name, marks=pytest.mark.slow) for name in ("llama", "qwen2")))
RNG = np.random.default_rng(0)


def fitted(made: Intervention, **sizes: int) -> Intervention:
    return with_array(made, {site: RNG.normal(size=size) for site, size in sizes.items()})


MEAN = fitted(replacing("a0.h1 m1", "mean"), **{"a0.h1": 8, "m1": 32})
STEERED = fitted(steer(1, alpha=1.5, at="onward"), r1=32)
EVERY_KIND = [
    replacing("a0.h1 m1", "zero"),
    MEAN,
    scale("a0.h1 m1 a2.h3", -0.5),
    scale("a1.h0 a1.h2", 3.0, at="onward"),
    scale("a0.h1 m0", 0.0, at="definition"),
    block("definition"),
    block("question", layers=(0, 2), heads=(1, 3)),
    reweight("definition", 20.0),
    reweight("question", 0.1, layers=(1,), heads=(0,)),
    replay("a0.h1 m1", 2.0),
    replay("a1.h1 m0", -1.0, at="onward"),
    replay("m0", 1.0, at="definition"),
    STEERED,
    block("definition", heads=(1,)) + block("question", heads=(2,)) + reweight("definition", 5.0, layers=(1,)),
    block("question", layers=(1, 2)) + scale("a0.h1", 2.0) + STEERED + MEAN + replay("a0.h1", 1.0),
    scale("m0", 0.0, at="definition") + block("question", heads=(0, 1)) + reweight("definition", 3.0),
]


def margins_attached(architecture: str, tokenizer, model, prompts, pairs, made: Intervention) -> np.ndarray:
    hf, out = make_hf(architecture), []
    for prompt, pair in zip(prompts, pairs, strict=True):
        total = 0.0
        with attach(made, hf, tokenizer, prompt=pair.conflict, decision=prompt.shared - 1), torch.no_grad():
            for sign, completion in ((1, prompt.answer), (-1, prompt.lure)):
                logp = hf(torch.tensor([completion.tokens[:-1]])).logits[0].float().log_softmax(-1)
                for i in range(prompt.shared, len(completion.tokens)):
                    total += sign * float(logp[i - 1, completion.tokens[i]])
        out.append(total)
    return np.array(out)


@pytest.mark.parametrize("architecture", SIX)
def test_every_kind_is_what_plain_hooks_do(make_model, tokenizer, pairs, architecture):
    """All in one call: each intervention is a copy of its own."""
    model, some = make_model(architecture), pairs.take(range(4))
    prompts = place_prompts(model, some, ("conflict",)).prompts
    bound = Bound(model, prompts)
    margins = changed_margins(prompts, [bound.changes(made) for made in EVERY_KIND], plan_batches(model))
    for column, made in enumerate(EVERY_KIND):
        want = margins_attached(architecture, tokenizer, model, prompts, some, made)
        assert margins[:, column] == pytest.approx(want, abs=1e-4), str(made)


@pytest.mark.parametrize("architecture", ["neox", "gemma2"])
def test_the_plain_way_gives_the_same(make_model, pairs, architecture, monkeypatch):
    model = make_model(architecture)
    prompts = place_prompts(model, pairs, ("conflict",)).prompts
    changes = [Bound(model, prompts).changes(made) for made in EVERY_KIND]
    fast = changed_margins(prompts, changes, plan_batches(model))
    monkeypatch.setenv("ISP_MECH_PLAIN", "1")
    assert changed_margins(prompts, changes, plan_batches(model)) == pytest.approx(fast, abs=1e-4)
    of_sites = [c for made, c in zip(EVERY_KIND, changes, strict=True) if made.kinds in ("replay", "scale", "steer")]
    alone = changed_margins(prompts, of_sites, plan_batches(model))
    at = [i for i, made in enumerate(EVERY_KIND) if made.kinds in ("replay", "scale", "steer")]
    assert alone == pytest.approx(fast[:, at], abs=1e-4)


def test_a_model_with_its_own_mask_takes_changes_of_sites(make_model, tokenizer):
    from planted_models import letter_pairs

    model, some = make_model("gpt-neo"), letter_pairs(4)
    prompts = place_prompts(model, some, ("conflict",)).prompts
    made = [scale("a0.h1 m1", 0.5), replay("a1.h1", 2.0, at="onward"), fitted(steer(0, at="onward"), r0=32)]
    bound = Bound(model, prompts)
    margins = changed_margins(prompts, [bound.changes(one) for one in made], plan_batches(model))
    for column, one in enumerate(made):
        want = margins_attached("gpt-neo", tokenizer, model, prompts, some, one)
        assert margins[:, column] == pytest.approx(want, abs=1e-4), str(one)
    with pytest.raises(InputError, match="needs an attention that accepts custom masks"):
        changed_margins(prompts, bound.changes(block("question")), plan_batches(model))


NOTHING = [
    Intervention(),
    scale("a0.h1 m1", 1.0),
    reweight("definition", 1.0),
    block("definition", layers=()),
    block("definition", heads=()),
    replay("a0.h1", 0.0),
    steer(1, alpha=0.0),
    with_array(steer(1), {"r1": np.zeros(32)}),
    scale("", 3.0),
]


def test_what_changes_nothing_gives_every_bit(some_model, pairs):
    prompts = place_prompts(some_model, pairs, ("conflict",)).prompts
    bound = Bound(some_model, prompts)
    bound.values["conflict-plain"] = zeros = _zeros(some_model, len(prompts))
    changes = [*(bound.changes(made) for made in NOTHING), *(bound.changes(made) for made in EVERY_KIND)]
    margins = changed_margins(prompts, changes, plan_batches(some_model))
    assert (margins[:, : len(NOTHING)] == margins[:, :1]).all() and zeros.has_stream
    assert (np.abs(margins[:, len(NOTHING) :] - margins[:, :1]).max(0) > 1e-3).all()
    assert all(made.parts == () or made.parts[0].changes_nothing for made in NOTHING[:7])


def _zeros(model, n: int) -> SiteOutputs:
    from isp_mech.causal.changes import zero_outputs

    return zero_outputs(n, model)


def test_a_subspace_is_swapped(make_model, pairs):
    """All of the stream: the whole of it is put in. Of one direction: what is orthogonal to it stays."""
    model = make_model("neox")
    prompts = place_prompts(model, pairs, ("conflict",)).prompts
    n, generator = len(prompts), torch.Generator().manual_seed(0)
    values = torch.randn(n, 32, generator=generator)
    stream = torch.zeros(n, 3, 32)
    stream[:, 1] = values
    nothing = _zeros(model, n)
    put = Patch(frozenset({_resid(1)}), SiteOutputs(nothing.heads, nothing.mlps, stream))
    whole = Project(1, torch.eye(32), values)
    none = Project(1, torch.zeros(0, 32), torch.zeros(n, 0))
    margins = changed_margins(prompts, [put, whole, none, Patch(frozenset(), nothing)], plan_batches(model))
    assert margins[:, 1] == pytest.approx(margins[:, 0], abs=1e-4)
    assert (margins[:, 2] == margins[:, 3]).all()
    with pytest.raises(InputError, match="expected intervene"):
        bound = Bound(model, prompts, {"conflict-plain": nothing})
        bound.changes(swap(1))


def _resid(layer: int):
    from isp_mech.sites import Site

    return Site(layer, "resid")


def test_what_cannot_be_is_said(make_model, pairs):
    model, plan = make_model("neox"), plan_batches(make_model("neox"))
    prompts = place_prompts(model, pairs, ("conflict",)).prompts
    late = [[prompt.shared - 1] for prompt in prompts]
    with pytest.raises(InputError, match=r"p0 \(conflict\): attention to token .* which always sees itself"):
        changed_margins(prompts, [Block(late, frozenset({0}))], plan)
    tokens = role_tokens(prompts, "definition")
    with pytest.raises(InputError, match="log factor nan"):
        changed_margins(prompts, [Reweight(tokens, float("nan"), frozenset({0}))], plan)
    with pytest.raises(InputError, match="layer 7: expected 0 to 2"):
        changed_margins(prompts, [Block(tokens, frozenset({7}))], plan)
    with pytest.raises(InputError, match="head 9: expected 0 to 3"):
        changed_margins(prompts, [Block(tokens, frozenset({0}), frozenset({9}))], plan)
    with pytest.raises(InputError, match="no vector for r1: fit it to pairs first"):
        Bound(model, prompts).changes(steer(1))


@pytest.mark.parametrize("made", [*EVERY_KIND, *NOTHING, swap(2), block("q", layers=(0, 1, 2, 5), heads=(7,))], ids=str)
def test_texts_parse_back(made):
    again = parse_intervention(str(made), made.arrays)
    assert again == made and hash(again) == hash(made) and str(again) == str(made)


@pytest.mark.parametrize(
    "text, said",
    [
        ("blocks(question)", "expected a text such as"),
        ("block(question; layers=all)", r"expected block\(...; layers; heads\)"),
        ("scale(a0.h1; alpha=nan; at=decision)", "nan, expected a finite number"),
        ("reweight(q; factor=-1; layers=all; heads=all)", "expected a number over 0"),
        ("steer(m1; vector=conflict-plain; alpha=1; at=decision)", "expected one layer's stream"),
        ("replace(a0.h1; with=median; at=decision)", "'median', expected one of mean"),
        ("scale(a0.x1; alpha=2; at=decision)", "expected a name such as a5.h3"),
    ],
)
def test_bad_texts_are_refused(text, said):
    with pytest.raises(InputError, match=said):
        parse_intervention(text)
