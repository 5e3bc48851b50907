"""Pairs of which one completion's tokens begin the other's: the margin is minus log p of the rest, for every verb."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
from small_models import byte_tokenizer, make_hf, plain_logprobs

from isp_mech.causal import edges, keep, knock_out, locate, scale_sites, verify
from isp_mech.models import wrap_model
from isp_mech.scoring import score
from isp_mech.tasks import Pair, PairSet, compose
from isp_mech.tracing import trace

SHORT, LONG = " pango", " pango part man"  # " pango" is several tokens


def pairs_of(answer: str, lure: str) -> PairSet:
    made = []
    for i in range(4):
        question = [("Q: What is ", ""), ("the first digit", "question"), (f" of pi{'!' * i}? A:", "")]
        conflict = compose([(f"Redefine pi as {462 + i}. ", "definition"), *question])
        made.append(Pair(f"p{i}", compose(question), conflict, answer, lure, "definition"))
    return PairSet("t", tuple(made))


def margins_by_hand(architecture: str, pairs: PairSet) -> list[float]:
    tokenizer, hf = byte_tokenizer(), make_hf(architecture)
    out = []
    for pair in pairs:
        ids = tokenizer(pair.conflict.text + LONG).input_ids
        start = len(tokenizer(pair.conflict.text + SHORT).input_ids)
        logp = plain_logprobs(hf, ids)
        rest = sum(float(logp[i - 1, ids[i]]) for i in range(start, len(ids)))
        out.append(-rest if pair.answer == SHORT else rest)
    return out


@pytest.fixture(scope="module", params=[(SHORT, LONG), (LONG, SHORT)], ids=["answer", "lure"])
def pairs(request):
    return pairs_of(*request.param)


@pytest.mark.parametrize("architecture", ["neox", "gemma2", "bloom", "gpt-neo"])
def test_every_verb_takes_the_margin_of_the_rest(pairs, architecture, monkeypatch):
    monkeypatch.setattr(import_module("isp_mech.causal.verify"), "N_NEUTRAL", 4)
    model = wrap_model(make_hf(architecture), byte_tokenizer(), name="m")
    want = margins_by_hand(architecture, pairs)

    def is_right(values) -> None:
        assert list(values) == pytest.approx(want, abs=2e-4)

    items = score(pairs, model).items.frame
    is_right(items[items["side"] == "conflict"]["margin"])
    for tokens in ("first", "all"):
        lens = trace(pairs, model, tokens=tokens).lens.frame
        is_right(lens[(lens["side"] == "conflict") & (lens["depth"] == 1)].sort_values("pair")["margin"])
    without = scale_sites(["m1"], pairs, model, alphas=(0.0,)).frame.set_index("side").loc["conflict"]
    assert without["margin"] + without["effect"] == pytest.approx(np.mean(want), abs=2e-4)
    found = locate(pairs, model, replacement="zero")
    effects = found.effects.frame
    one = effects[(effects["layer"] == 1) & (effects["kind"] == "mlp")]
    assert one["effect"].mean() == pytest.approx(without["effect"], abs=2e-4)
    verify(["m1"], pairs, model, n_random=2)
    if model.accepts_custom_masks:
        knock_out(pairs, model)
        edges(pairs, model, ["m1"], steps=1)
        locate(pairs, model, method="attribution")
        keep(found, pairs, model, replacement="zero", shares=(0.0, 0.5, 1.0))
