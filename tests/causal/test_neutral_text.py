"""Neutral text: the kind that a model reads, and the divergence of what it says next, beside plain transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import isp_mech as im
from isp_mech.causal import block, replay, scale
from isp_mech.causal.intervention_changes import Bound
from isp_mech.causal.neutral_text import _prose, neutral_prompts, next_token_divergence, paragraphs
from isp_mech.inference.batches import plan_batches


def test_the_prose_is_plain_and_long_enough():
    text = "\n".join(paragraphs())
    assert len(text) >= 12_000 and text.isascii() and len(set(paragraphs())) == len(paragraphs())
    assert all(300 < len(paragraph) < 700 and paragraph.endswith(".") for paragraph in paragraphs())


def test_a_model_is_asked_in_the_text_that_it_reads(make_model):
    """The ladder knows the sentences of its corpus better than prose; what is asked for is the next word."""
    ladder = im.load_model(im.family("ladder", sizes=["ladder-25k"]).members[0].path_or_id)
    kind, prompts = neutral_prompts(plan_batches(ladder), 0, 5)
    assert kind == "sentences" and len(prompts) == 5
    model = make_model("neox")
    for prompt in _prose(model, 3, 8):
        assert any(paragraph.startswith(prompt.prompt.text) for paragraph in paragraphs())
        assert len(prompt.answer.tokens) <= (model.max_tokens or np.inf) and prompt.lure is None
    assert [p.prompt for p in _prose(model, 3, 8)] == [p.prompt for p in _prose(model, 3, 8)]
    assert [p.prompt for p in _prose(model, 4, 8)] != [p.prompt for p in _prose(model, 3, 8)]


@pytest.mark.parametrize("kind", ["neox", "llama", "bloom"])
def test_divergence_is_that_of_plain_transformers(make_model, tokenizer, kind):
    """Over the whole vocabulary, with the change made by hooks at the last token."""
    model = make_model(kind)
    plan, prompts = plan_batches(model), _prose(model, 0, 4)
    for made in (scale("a1.h2 m0", 3.0, at="onward"), replay("m1", 0.5)):
        changes = Bound(model, prompts).changes(made)
        found = next_token_divergence(prompts, changes, plan)
        for prompt, value in zip(prompts, found, strict=True):
            ids = torch.tensor([prompt.answer.tokens[: prompt.shared]])
            with torch.no_grad():
                p = model.hf(ids).logits[0, -1].double().log_softmax(-1)
                with made.attach(model.hf, tokenizer, decision=prompt.shared - 1):
                    q = model.hf(ids).logits[0, -1].double().log_softmax(-1)
            assert value == pytest.approx(float((p.exp() * (p - q)).sum()), abs=1e-4) and value > 0
    for nothing in (scale("m0", 1.0), block("question")):
        assert not next_token_divergence(prompts, Bound(model, prompts).changes(nothing), plan).any()
