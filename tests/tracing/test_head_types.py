"""Head classes: heads made by hand are what they were made to be, and the scores are TransformerLens's."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from induction_model import inducing, repeating_pairs
from planted_models import letter_pairs, overridden
from scipy.stats import rankdata
from small_models import HEAD_ORDER, byte_tokenizer, heads_permuted, make_hf

import isp_mech as im
from isp_mech.causal.locate import locate
from isp_mech.errors import InputError
from isp_mech.inference.batches import plan_batches
from isp_mech.ladder.planted_models import FOLLOW, Plant, Wire, null_model, plant_model, planted, planted_pairs
from isp_mech.models import wrap_model
from isp_mech.tables import make_run, table
from isp_mech.tracing import head_types as module
from isp_mech.tracing.head_types import (
    CLASSES,
    class_of,
    class_shares,
    head_classes,
    head_scores,
    repeated_random_tokens,
)


@pytest.fixture(autouse=True)
def few_sequences(monkeypatch):
    """A quarter of the random sequences: scores are means over them."""
    monkeypatch.setattr(module, "SEQUENCES", 16)


def classes_of(found) -> dict[str, str]:
    """The class of every head that has one, by the head's name."""
    named = found.frame[found.frame["class"] != "none"]
    return {f"a{r['layer']}.h{r['head']}": r["class"] for _, r in named.iterrows()}


def row_of(found, layer: int, head: int):
    return found.frame.query("layer == @layer and head == @head").iloc[0]


def test_heads_of_induction_of_copying_and_of_suppression_made_by_hand(tokenizer):
    pairs = repeating_pairs(20)
    found = head_classes(pairs, inducing(tokenizer))
    assert classes_of(found) == {"a1.h0": "induction", "a1.h1": "copying"}
    induction, even, back = row_of(found, 1, 0), row_of(found, 1, 1), row_of(found, 0, 0)
    assert induction["induction"] == pytest.approx(0.98, abs=1e-3) and induction["copying"] > 0.95
    assert even["induction"] == pytest.approx(np.mean([1 / (i + 1) for i in range(25, 50)]), abs=1e-4)
    # the first token has none before it and attends to itself: to two that follow it, one of 25 attends by half
    assert 0.6 < even["copying"] < induction["copying"] and back["induction"] < 0.01
    assert induction["conflict_direct"] > 1 and induction["plain_direct"] < -1
    against = head_classes(pairs, inducing(tokenizer, sign=-1.0))
    assert classes_of(against) == {"a1.h0": "suppression", "a1.h1": "copying"}
    suppression = row_of(against, 1, 0)
    assert suppression["copying"] == pytest.approx(1 - induction["copying"], abs=1e-4)
    assert suppression["conflict_direct"] < -1 and suppression["plain_direct"] > 1


def test_a_start_token_is_no_part_of_what_is_repeated(tokenizer):
    plain = inducing(tokenizer)
    started = dataclasses.replace(plain, tokenizer=byte_tokenizer(start_token=True))
    assert repeated_random_tokens(started).sequences.shape[1] == repeated_random_tokens(plain).sequences.shape[1] + 1
    found = head_scores(plan_batches(started))
    assert found.induction[:, 1, 0].min() > 0.99 and found.copying[:, 1, 0].min() > 0.95


def test_the_hand_made_override_is_recall_and_its_following_is_copying(tokenizer):
    found = head_classes(letter_pairs(24), overridden(tokenizer, strength=2.0, name="overridden"))
    assert classes_of(found) == {"a0.h1": "copying", "a0.h3": "recall", "a1.h2": "recall"}
    assert row_of(found, 0, 1)["plain_direct"] == pytest.approx(0, abs=1e-5)  # no definition there


@pytest.mark.parametrize(
    "plant",
    [
        *(planted(name) for name in ("head", "deep-early-head", "redundant-layers", "follows")),
        Plant("opposed", 2, (FOLLOW, Wire("a0.h4", "memory", -0.5), Wire("a1.h2", "memory", 2.0))),
    ],
    ids=lambda plant: plant.name,
)
def test_planted_heads_are_what_they_were_planted_as(plant, tmp_path):
    model = im.load_model(str(plant_model(plant, tmp_path / plant.name)))
    found = classes_of(head_classes(planted_pairs(40, seed=4), model))
    names = {("definition", 1): "copying", ("memory", 1): "recall", ("memory", -1): "opposing"}
    want = {wire.site: names[wire.reads, int(np.sign(wire.strength))] for wire in plant.wires}
    assert {site: name for site, name in found.items() if site in want} == want
    assert len(found) <= len(want) + 1  # of the others, five in a hundred may be called something


def test_in_random_weights_hardly_a_head_has_a_class(tmp_path, monkeypatch):
    models = [im.load_model(str(null_model(tmp_path / f"null-{seed}", seed=seed))) for seed in range(3)]
    scores = {model.name: head_scores(plan_batches(model)) for model in models}  # the same whatever the pairs are
    monkeypatch.setattr(module, "head_scores", lambda plan, **_: scores[plan.model.name])
    found = [head_classes(planted_pairs(40, seed=seed), models).frame for seed in range(4, 9)]
    assert all(len(frame) == 3 * 3 * 6 for frame in found)
    # over several sets of pairs: within one the heads' errors go together, since they see the same prompts
    assert np.mean([(frame["class"] != "none").mean() for frame in found]) <= 0.05
    assert all((frame["induction"] < module.INDUCTION).all() for frame in found)


@pytest.mark.parametrize("architecture", ["neox", "gpt2", "llama"])
def test_the_scores_are_those_of_cached_activations(tokenizer, monkeypatch, architecture):
    """Patterns and head outputs of a TransformerBridge, token by token."""
    monkeypatch.setattr(module, "SEQUENCES", 3)
    model = wrap_model(make_hf(architecture), tokenizer, name=architecture)
    asked, found = repeated_random_tokens(model, seed=3), head_scores(plan_batches(model), seed=3)
    centred = architecture != "llama"
    half = asked.half
    for s, ids in enumerate(asked.sequences):
        alphabet = asked.alphabets[s].tolist()
        with torch.no_grad():
            read = model.hf.lm_head.weight[alphabet] * model.architecture.ln_final.weight
        _, cache = model.bridge.run_with_cache(ids[None])
        assert (ids[half:] == ids[:half]).all() and len(set(ids.tolist())) == half
        for layer in range(3):
            patterns = cache[f"blocks.{layer}.attn.hook_pattern"][0].numpy()
            z = cache[f"blocks.{layer}.attn.hook_z"][0].reshape(len(ids), 4, 8)
            for head in range(4):
                pattern, weighed = patterns[head], np.zeros(2)
                looked = [pattern[i, i - half + 1] for i in range(half, 2 * half)]
                for i in range(1, len(ids)):
                    write = z[i, head] @ model.architecture.head_matrix(layer)[head]
                    logits = read @ (write - write.mean() if centred else write)
                    ranks = (rankdata(logits.detach().numpy()) - 1) / (len(alphabet) - 1)
                    for j in range(1, i + 1):
                        weighed += pattern[i, j] * np.array([ranks[alphabet.index(int(ids[j]))], 1])
                assert found.induction[s, layer, head] == pytest.approx(np.mean(looked), abs=1e-4)
                assert found.copying[s, layer, head] == pytest.approx(weighed[0] / weighed[1], abs=1e-4)


def test_permuting_heads_permutes_the_table(tokenizer, pairs):
    hf = heads_permuted()
    before, after = (head_classes(pairs, wrap_model(m, tokenizer, name="m")).frame for m in (make_hf("opt"), hf))
    numbers = before.select_dtypes("float").columns
    assert (before.loc[before["layer"] == 1, "copying"].std() > 0.01) and len(numbers) == 14
    moved = after["layer"] == 1
    after = after.assign(head=after["head"].where(~moved, after["head"].map(dict(enumerate(HEAD_ORDER)))))
    after = after.sort_values(["layer", "head"], ignore_index=True)
    assert np.abs(before[numbers] - after[numbers]).max().max() < 1e-4
    assert before["class"].tolist() == after["class"].tolist()


def test_sequences_hold_plain_tokens_alone_behind_a_start_token():
    for start_token in (False, True):
        model = wrap_model(make_hf("gpt2", length=31), byte_tokenizer(start_token=start_token), name="m")
        asked = repeated_random_tokens(model)
        assert asked.half == 15 and asked.sequences.shape == (module.SEQUENCES, 30 + start_token)
        assert 0 not in asked.alphabets and all(len(set(tokens.tolist())) == 256 for tokens in asked.alphabets)
        assert ((asked.sequences == 0).sum(1) == start_token).all()
        assert torch.equal(asked.sequences, repeated_random_tokens(model).sequences)
        assert not torch.equal(asked.sequences, repeated_random_tokens(model, seed=1).sequences)


def test_q_is_taken_over_heads_models_and_sides_together(make_model, pairs):
    one, two = make_model("neox"), make_model("gpt2")
    frame = head_classes(pairs, [one, two], batch_size=7).frame
    p = frame[["conflict_p", "plain_p"]].to_numpy()
    q = frame[["conflict_q", "plain_q"]].to_numpy()
    order = p.flatten().argsort()
    want = np.minimum.accumulate((p.flatten()[order] * p.size / np.arange(1, p.size + 1))[::-1])[::-1]
    assert q.flatten()[order] == pytest.approx(np.minimum(want, 1))
    alone = head_classes(pairs, one).frame
    mine = frame[frame["model"] == "neox"].reset_index(drop=True)
    columns = ["induction", "copying", "conflict_direct", "plain_direct"]
    assert np.abs(alone[columns] - mine[columns]).max().max() < 1e-4
    traced = im.trace(pairs, one).effects.frame.query("kind == 'head' and side == 'plain'")
    assert mine["plain_direct"].tolist() == pytest.approx(
        traced.groupby(["layer", "head"])["direct_effect"].mean().tolist(), abs=1e-5
    )


@pytest.mark.parametrize(
    ("conflict", "plain", "induction", "copies_less", "want"),
    [
        (1, -1, 0.05, False, "copying"),
        (1, 0, 0.05, True, "copying"),
        (1, -1, 0.5, False, "induction"),
        (1, 1, 0.5, False, "opposing"),
        (-1, -1, 0.5, True, "recall"),
        (-1, 1, 0.0, True, "suppression"),
        (-1, 0, 0.0, True, "suppression"),
        (-1, 1, 0.0, False, "none"),
        (0, -1, 0.9, True, "none"),
        (0, 0, 0.9, False, "none"),
    ],
)
def test_every_sign_has_its_class(conflict, plain, induction, copies_less, want):
    assert class_of(conflict, plain, induction, copies_less) == want


def by_hand(model: str, names: list[str], effects: list[float], significant: list[bool]):
    """Tables of heads and of sites of a model with one layer, an MLP after the heads."""
    head = {"model": model, "n_params": 10, "task": "t"}
    numbers = ("induction", "copying", "conflict_direct", "plain_direct")
    heads = [
        {**head, "layer": 0, "head": i, "class": name}
        | dict.fromkeys([*numbers, *(f"{x}_{end}" for x in numbers[1:] for end in ("lo", "hi"))], 0.5)
        | dict.fromkeys(["conflict_p", "plain_p", "conflict_q", "plain_q"], 0.5)
        for i, name in enumerate(names)
    ]
    sites = [
        {**head, "layer": 0, "kind": "head" if i < len(names) else "mlp", "head": i if i < len(names) else None}
        | {"effect": effect, "effect_lo": effect, "effect_hi": effect, "direct_effect": 0.0}
        | {"p": 0.01, "q": 0.01, "significant": called}
        for i, (effect, called) in enumerate(zip(effects, significant, strict=True))
    ]
    run = make_run(model=model, task="t", method="by hand")
    return table("heads", heads, run), table("sites", sites, run)


def test_shares_of_the_override_by_hand():
    heads, sites = by_hand(
        "m", ["recall", "copying", "recall", "recall"], [-2.0, 3.0, -1.0, -4.0, -1.0], [True, True, True, False, True]
    )
    found = class_shares(heads, sites).frame.set_index("class")
    assert list(found.index) == [*CLASSES, "mlp"]
    assert found.loc["recall", ["n_sites", "n_override", "override", "share"]].tolist() == [3, 2, -3.0, 0.75]
    assert found.loc["mlp", ["n_sites", "n_override", "override", "share"]].tolist() == [1, 1, -1.0, 0.25]
    assert found.loc["copying", ["n_sites", "n_override", "override", "share"]].tolist() == [1, 0, 0.0, 0.0]
    heads, sites = by_hand("m", ["copying"], [1.0, 1.0], [True, True])
    assert class_shares(heads, sites).frame["share"].isna().all()
    with pytest.raises(InputError, match="m: expected the heads that the table of heads has"):
        class_shares(by_hand("m", ["copying", "none"], [1.0] * 3, [True] * 3)[0], sites)
    with pytest.raises(InputError, match="other: expected the heads"):
        class_shares(heads, by_hand("other", ["copying"], [1.0, 1.0], [True, True])[1])
    elsewhere = sites.frame.assign(kind=["head", "resid"])
    with pytest.raises(InputError, match="found the residual stream: expected sites at the decision position"):
        class_shares(heads, table("sites", elsewhere, sites.run))


def test_shares_of_a_planted_override(tmp_path):
    models = [
        im.load_model(str(plant_model(planted(name), tmp_path / name))) for name in ("redundant-layers", "head-and-mlp")
    ]
    shares = {}
    for model, ends in zip(models, (False, True), strict=True):
        pairs = planted_pairs(40, seed=4, ends_with_word=ends)
        frame = class_shares(head_classes(pairs, model), locate(pairs, model).sites).frame
        assert frame["share"].sum() == pytest.approx(1)
        shares[model.name] = frame.set_index("class")["share"]
    assert shares["redundant-layers"]["recall"] > 0.95 and shares["redundant-layers"]["mlp"] < 0.05
    assert 0.3 < shares["head-and-mlp"]["recall"] < 0.7 and 0.3 < shares["head-and-mlp"]["mlp"] < 0.7


def test_what_cannot_be_done_is_said(tokenizer, pairs):
    with pytest.raises(InputError, match="attention patterns need an attention that accepts custom masks"):
        head_classes(pairs, wrap_model(make_hf("gpt-neo"), tokenizer, name="alone"))
    short = wrap_model(make_hf("gpt2", length=16), tokenizer, name="short")
    short.hf.config.n_positions = 3
    with pytest.raises(InputError, match="room for 1: expected two each"):
        repeated_random_tokens(short)
