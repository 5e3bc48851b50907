"""Attention token by token: transformers' own weights, the roles' sums, and which pairs are taken."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import torch
from small_models import byte_tokenizer, make_hf

from isp_mech.causal.locate import locate
from isp_mech.inference.contrast_prompts import place_prompts
from isp_mech.inference.tokenization import role_names, token_roles
from isp_mech.models import wrap_model
from isp_mech.tables import make_run, table
from isp_mech.tracing.token_attention import LEAST, token_attention
from isp_mech.tracing.trace import trace

KEY = ["pair", "side", "layer", "head"]
NONE = table("effects", [], make_run(model="none", task="t", method="made up"))
PLACE = ["pair", "side"]


@pytest.mark.parametrize("architecture", ["neox", "gpt2", "gemma2"])
def test_they_are_the_weights_that_transformers_gives(architecture, pairs, tokenizer):
    """A second way: the model itself, one prompt at a time, asked for its weights."""
    model = wrap_model(make_hf(architecture), tokenizer, name=architecture)
    plain = make_hf(architecture)
    plain.set_attn_implementation("eager")
    found = token_attention(pairs, model, NONE, n_pairs=4).frame
    assert found["pair"].drop_duplicates().tolist() == ["p0", "p1", "p2", "p3"]
    placed = place_prompts(model, pairs.take(range(4)))
    for prompt, pair, side in zip(placed.prompts, placed.pairs, placed.sides, strict=True):
        ids = list(prompt.answer.tokens[: prompt.shared])
        with torch.no_grad():
            weights = torch.stack(plain(torch.tensor([ids]), output_attentions=True).attentions)[:, 0, :, -1].numpy()
        here = found[(found["pair"] == pair) & (found["side"] == side)]
        ours = np.zeros_like(weights)
        ours[here["layer"], here["head"], here["token"]] = here["weight"]
        np.testing.assert_allclose(ours, np.where(weights >= LEAST, weights, 0), atol=LEAST / 20)
        spans = here[here["stop"] > here["start"]]
        assert all(prompt.prompt.text[a:b] == t for a, b, t in spans[["start", "stop", "text"]].itertuples(index=False))
        texts = here.drop_duplicates("token").set_index("token")["text"]
        assert all(tokenizer.decode([ids[token]]) == text for token, text in texts.items())


def test_summed_over_roles_they_are_what_trace_gives(make_model, pairs):
    model = make_model("llama")
    found = token_attention(pairs, model, NONE, n_pairs=8).frame
    roles = role_names([p for pair in pairs for p in (pair.conflict, pair.plain)])
    placed = place_prompts(model, pairs)
    of_token = {
        key: token_roles(prompt.encoding, prompt.prompt, roles)
        for key, prompt in zip(zip(placed.pairs, placed.sides, strict=True), placed.prompts, strict=True)
    }
    role = [
        roles[of_token[pair, side][token]] for pair, side, token in found[[*PLACE, "token"]].itertuples(index=False)
    ]
    ours = found.assign(role=role).groupby([*KEY, "role"])["weight"].sum()
    theirs = trace(pairs, model).attention.frame.set_index([*KEY, "role"])["weight"]
    gap = theirs - ours.reindex(theirs.index).fillna(0)
    longest = max(prompt.shared for prompt in placed.prompts)
    assert gap.min() > -1e-5 and gap.max() < LEAST * longest


def test_a_start_token_stands_for_no_character(pairs):
    model = wrap_model(make_hf("llama"), byte_tokenizer(start_token=True), name="started")
    frame = token_attention(pairs, model, NONE, n_pairs=1).frame
    first = frame[frame["token"] == 0]
    assert len(first) and (first["text"] == "<|endoftext|>").all() and (first["stop"] == first["start"]).all()
    second = frame[frame["token"] == 1]
    assert len(second) and (second["start"] == 0).all() and (second["stop"] > 0).all()


def test_of_every_site_the_pair_that_it_moves_most(make_model, pairs, monkeypatch):
    module = import_module("isp_mech.tracing.token_attention")
    model = make_model("neox")
    effects = locate(pairs, model).effects
    wide = effects.frame.assign(site=effects.frame["layer"] * 100 + effects.frame["head"].fillna(99).astype(int))
    size = wide.pivot(index="pair", columns="site", values="effect").abs()
    strongest = set(size.idxmax())
    monkeypatch.setattr(module, "N_PAIRS", 1)
    taken = token_attention(pairs, model, effects)
    assert set(taken.frame["pair"]) == strongest and 1 < len(strongest) < len(pairs)
    assert taken.run.settings["n_pairs"] == len(strongest)
    monkeypatch.setattr(module, "MOST", 1)  # too much: the three that the strongest sites move most
    three = list(dict.fromkeys(size[size.mean().sort_values(ascending=False).index].idxmax()))[:3]
    assert set(token_attention(pairs, model, effects).frame["pair"]) == set(three)


def test_batches_and_other_pairs_change_nothing(make_model, pairs):
    model = make_model("opt")
    one = token_attention(pairs, model, NONE, n_pairs=8).frame
    two = token_attention(pairs.take([3, 1, 0]), model, NONE, n_pairs=3, batch_size=1).frame
    index = [*KEY, "token"]
    both = pd.concat([one.set_index(index)["weight"], two.set_index(index)["weight"]], axis=1, keys=["a", "b"])
    both = both.loc[both.index.get_level_values("pair").isin(["p0", "p1", "p3"])]
    assert (both["a"].fillna(LEAST) - both["b"].fillna(LEAST)).abs().max() < 1e-4
