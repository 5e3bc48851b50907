"""One head's attention to one role: against masks on transformers' own eager attention, and on models made by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from planted_models import ASKS, CUES, IS_CUE, IS_DEFINITION, letter_pairs, overridden, wire
from small_models import make_hf

from isp_mech.causal import block, block_heads, intervene
from isp_mech.causal.replacements import role_tokens
from isp_mech.causal.screening import FIRST_TOKEN, is_costly
from isp_mech.errors import InputError
from isp_mech.inference.contrast_prompts import place_prompts
from isp_mech.stats import benjamini_hochberg, spearman
from isp_mech.tasks import PairSet, compose


def masked_alone(hf, model, prompt, layer: int, head: int, tokens) -> float:
    """The margin with one head of one layer masked from the decision position on, by a plain forward a completion."""
    lowest, total = torch.finfo(torch.float32).min, 0.0
    for sign, completion in ((1, prompt.answer), (-1, prompt.lure)):
        n = len(completion.tokens) - 1
        causal = torch.zeros(n, n).masked_fill(~torch.ones(n, n).bool().tril(), lowest)
        mask = causal.repeat(1, model.architecture.n_heads, 1, 1)
        for row in range(prompt.shared - 1, n):
            mask[0, head, row, tokens] = lowest

        def masked(module, args, kwargs, mask=mask):
            assert "attention_mask" in kwargs
            return args, {**kwargs, "attention_mask": mask}

        path = next(name for name, part in model.hf.named_modules() if part is model.architecture.blocks[layer].block)
        handle = hf.get_submodule(path).register_forward_pre_hook(masked, with_kwargs=True)
        with torch.no_grad():
            ids = torch.tensor([completion.tokens[:-1]])
            logp = hf(ids, attention_mask=causal[None, None], use_cache=False).logits[0].float().log_softmax(-1)
        handle.remove()
        total += sign * sum(float(logp[i - 1, completion.tokens[i]]) for i in range(prompt.shared, n + 1))
    return total


@pytest.mark.parametrize("architecture", ["neox", "llama"])
def test_every_effect_is_that_of_a_masked_forward_of_its_own(make_model, pairs, architecture):
    model, some = make_model(architecture), pairs.take(range(3))
    found = block_heads(some, model).role_effects.frame
    hf = make_hf(architecture)
    hf.set_attn_implementation("eager")
    prompts = place_prompts(model, some, ("conflict",)).prompts
    assert len(found) == 3 * 12 * 2 and (found["measured"] == "exact").all() and (found["side"] == "conflict").all()
    of_role = {role: role_tokens(prompts, role) for role in ("definition", "question")}
    margins = [masked_alone(hf, model, prompt, 0, 0, []) for prompt in prompts]
    for row in found.iloc[::5].itertuples():
        i = [pair.id for pair in some].index(row.pair)
        want = margins[i] - masked_alone(hf, model, prompts[i], row.layer, row.head, of_role[row.role][i])
        assert row.effect == pytest.approx(want, abs=1e-4)
    assert found["effect"].abs().max() > 1e-3


def test_it_is_what_the_intervention_does_on_both_sides(make_model, pairs):
    model = make_model("gemma2")
    found = block_heads(pairs, model, roles="question", sides=("conflict", "plain")).head_roles.frame
    asked = [block("question", layers=[layer], heads=[head]) for layer in range(3) for head in range(4)]
    want = intervene(asked, pairs, model, sides=("conflict", "plain")).frame
    assert found["side"].tolist() == want["side"].tolist() == ["conflict"] * 12 + ["plain"] * 12
    for name in ("effect", "effect_lo", "effect_hi", "p"):
        assert found[name].to_numpy() == pytest.approx(want[name].to_numpy(), abs=1e-5), name
    assert found["q"].to_numpy() == pytest.approx(benjamini_hochberg(found["p"].to_numpy()))


def test_the_planted_heads_are_found_with_the_roles_that_they_read(tokenizer):
    """a0.h1 writes the definition, a0.h3 and, more strongly, a1.h2 the cue, which stands in the question."""
    found = block_heads(letter_pairs(16), overridden(tokenizer, strength=4.0, name="planted"))
    rows = found.head_roles.frame.set_index(["layer", "head", "role"])
    assert set(rows.index[rows["significant"]]) == {(0, 1, "definition"), (0, 3, "question"), (1, 2, "question")}
    effect = rows["effect"]
    assert effect.idxmin() == (1, 2, "question") and effect.idxmax() == (0, 1, "definition")
    assert effect[~rows["significant"]].abs().max() < 1e-3 and (rows["n"] == 16).all()
    stability = found.role_stability.frame.set_index("role")
    assert stability["n_matter"].to_dict() == {"all roles": 1, "definition": 0, "question": 1}
    assert stability["n_places"].to_dict() == {"all roles": 16, "definition": 8, "question": 8}


def test_what_is_not_attended_to_or_not_there_changes_nothing(tokenizer):
    """a0.h0 shuns the definition, one token, to which it gives a weight of zero; half of the prompts lack it."""
    letters = letter_pairs(12)
    model = overridden(tokenizer, strength=1.0, name="planted")
    with torch.no_grad():
        wire(model.hf, layer=0, head=0, sees=IS_CUE, reads=CUES, gain=1.0)
        of_head = model.hf.gpt_neox.layers[0].attention.query_key_value.weight.view(4, 3, 8, 32)[0]
        of_head[0, 7, ASKS], of_head[1, 7, IS_DEFINITION] = 100.0, -100.0  # query, key
    effects = (
        block_heads(letters, model)
        .role_effects.frame.set_index(["layer", "head", "role"])
        .sort_index(kind="stable")["effect"]
    )
    assert effects[0, 0, "definition"].abs().max() < 1e-6 < 0.1 < effects[0, 1, "definition"].min()
    assert effects[0, 0, "question"].max() < -0.1
    lacking = [without(pair, "definition") if i % 2 else pair for i, pair in enumerate(letters)]
    found = block_heads(PairSet("letters", tuple(lacking)), model)
    rows = by_place(found)
    there, all_there = (some[0, 1, "definition"].to_numpy() for some in (rows, effects))
    assert (there[1::2] == 0).all() and there[::2] == pytest.approx(all_there[::2], abs=1e-5)
    assert dict(zip(found.head_roles.frame["role"], found.head_roles.frame["n"], strict=True)) == {
        "question": 12, "definition": 6,
    }  # fmt: skip
    plain = block_heads(letters, model, roles=["definition", "question"], sides=["plain", "conflict"]).head_roles.frame
    assert list(dict.fromkeys(zip(plain["side"], plain["role"], strict=True))) == [
        ("plain", "question"), ("conflict", "definition"), ("conflict", "question"),
    ]  # fmt: skip


def by_place(found):
    """Effects by layer, head and role, pairs in their order."""
    return found.role_effects.frame.set_index(["layer", "head", "role"])["effect"].sort_index(kind="stable")


def without(pair, role: str):
    """The pair with the same texts, and no such role in them."""
    roles = {name: spans for name, spans in pair.conflict.roles.items() if name != role}
    return dataclasses.replace(pair, conflict=dataclasses.replace(pair.conflict, roles=roles))


def test_stability_is_the_rank_correlation_of_two_halves(make_model, pairs):
    found = block_heads(pairs, make_model("neox"), seed=3)
    wide = found.role_effects.frame.pivot(index="pair", columns=["layer", "head", "role"], values="effect")
    order = np.random.default_rng(3).permutation(8)
    a, b = (wide.to_numpy(float)[some].mean(0) for some in (order[:4], order[4:]))
    for row in found.role_stability.frame.itertuples():
        here = np.array([row.role in ("all roles", role) for _, _, role in wide.columns])
        matters = here & ((abs(a) > 0.1 * abs(a).max()) | (abs(b) > 0.1 * abs(b).max()))
        assert (row.n_places, row.n_matter) == (here.sum(), matters.sum())
        assert row.spearman == pytest.approx(spearman(a[here], b[here]), abs=0.05)  # rounding decides ties of nothing
        assert row.spearman_matter == pytest.approx(spearman(a[matters], b[matters]), abs=1e-6)
    assert not len(block_heads(pairs.take([0]), make_model("neox")).role_stability)


def test_many_places_are_screened_where_later_tokens_are_costly(make_model, pairs):
    model, roles = make_model("neox"), ("definition", "question", "other")
    large, small = (dataclasses.replace(model, n_params=n) for n in (10**9, 1000))  # beside the vocabulary
    assert is_costly(place_prompts(model, pairs, ("conflict",)).prompts, small)
    whole, some = (block_heads(pairs, m, roles=roles).head_roles for m in (large, small))
    exact = (some.frame["measured"] == "exact").to_numpy()
    assert exact.sum() == 24 + 2 and (whole.frame["measured"] == "exact").all()
    a, b = (table.frame["effect"].to_numpy() for table in (whole, some))
    assert b[exact] == pytest.approx(a[exact], abs=1e-5)
    assert (some.frame["p"].isna() == ~exact).all() and (some.frame["measured"][~exact] == FIRST_TOKEN).all()
    assert "all 36 heads x roles were measured at the first token at which the completions differ" in some.run.notes[0]


def test_arguments_are_checked(make_model, pairs):
    model = make_model("neox")
    with pytest.raises(InputError, match="role 'negation': expected some of definition, question, other"):
        block_heads(pairs, model, roles=["negation"])
    with pytest.raises(InputError, match="side 'neutral': expected some of conflict, plain"):
        block_heads(pairs, model, sides=["neutral"])
    with pytest.raises(InputError, match="no sides: expected some of conflict, plain"):
        block_heads(pairs, model, sides=[])
    with pytest.raises(InputError, match="no roles: expected some"):
        block_heads(pairs, model, roles=[])
    bare = [dataclasses.replace(pair, conflict=compose([(pair.conflict.text, "")])) for pair in pairs]
    with pytest.raises(InputError, match="no roles: expected prompts that have some"):
        block_heads(PairSet("bare", tuple(bare)), model)
    with pytest.raises(InputError, match="gpt-neo: blocking attention needs an attention that accepts custom masks"):
        block_heads(letter_pairs(4), make_model("gpt-neo"))


def test_a_word_in_two_roles_is_seen_where_both_are_blocked(tokenizer):
    """The cue stands once more in front: a1.h2 looks there where it may not look at the question."""
    model, twice = overridden(tokenizer, strength=4.0, name="planted"), []
    for pair in letter_pairs(12):
        (start, _), cue = (
            pair.conflict.roles["question"][0],
            pair.conflict.text[pair.conflict.roles["question"][0][0] + 1],
        )
        texts = [pair.conflict.text[1:start], pair.conflict.text[start : start + 2], pair.conflict.text[start + 2 :]]
        rest = [(cue, "reminder"), (texts[0], ""), (texts[1], "question"), (texts[2], "")]
        conflict = compose([(pair.conflict.text[0], "definition"), *rest])
        twice.append(dataclasses.replace(pair, plain=compose(rest), conflict=conflict))
    roles = ["question", "reminder", "question+reminder"]
    found = block_heads(PairSet("twice", tuple(twice)), model, roles=roles).head_roles.frame
    effect = found.set_index(["layer", "head", "role"])["effect"][1, 2]
    assert abs(effect["question"]) < 0.1 and abs(effect["reminder"]) < 0.1 and effect["question+reminder"] < -5
