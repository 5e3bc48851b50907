"""Locating: every effect equals a forward of its own, and a planted override is found."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from own_forwards import margins_alone, put
from planted_models import letter_pairs, overridden
from small_models import make_hf

from isp_mech.causal.activation_patching import patched_margins
from isp_mech.causal.locate import locate
from isp_mech.causal.prompt_copies import WholePrompts, run_prompts
from isp_mech.causal.replacements import SiteOutputs, derangement, observe_conflict, replacement_outputs
from isp_mech.causal.screening import is_costly
from isp_mech.errors import InputError
from isp_mech.inference.batches import plan_batches
from isp_mech.inference.contrast_prompts import place_prompts
from isp_mech.models import wrap_model
from isp_mech.sites import REPLACEMENTS, Site, all_sites
from isp_mech.tables import Table
from isp_mech.tasks import Pair, PairSet, compose

SITES = all_sites(3, 4)


def alone(model, prompt, values: SiteOutputs, sets, pair: int) -> np.ndarray:
    """(set,): the margin with each set of sites replaced at the decision position, by hooks of our own."""
    at = [prompt.shared - 1]
    return margins_alone(model, prompt, [[put(site, at, values, pair) for site in sites] for sites in sets])


def test_every_effect_is_that_of_a_forward_of_its_own(model, pairs):
    pairs = pairs.take([0, 1, 2, 3])
    found = locate(pairs, model, replacement=REPLACEMENTS).effects.frame
    conflict = observe_conflict(pairs, plan_batches(model), REPLACEMENTS)
    for kind in REPLACEMENTS:
        for i, pair in enumerate(list(pairs)[:3]):
            ours = found[(found["replacement"] == kind) & (found["pair"] == pair.id)]["effect"].to_numpy()
            margins = alone(model, conflict.prompts[i], conflict.replacements[kind], [(s,) for s in SITES], i)
            assert ours == pytest.approx(conflict.observed.margins[i] - margins, abs=1e-4), kind


def test_replacements_are_what_their_names_say():
    heads, mlps = torch.arange(24.0).reshape(4, 1, 2, 3), torch.arange(8.0).reshape(4, 1, 2)
    conflict, plain = SiteOutputs(heads, mlps), SiteOutputs(-heads, -mlps)
    mean = replacement_outputs("mean", conflict)
    assert torch.allclose(mean.heads[1], heads[[0, 2, 3]].mean(0)) and torch.allclose(mean.mlps[3], mlps[:3].mean(0))
    assert (replacement_outputs("zero", conflict).heads == 0).all()
    assert replacement_outputs("plain", conflict, plain=plain) is plain
    other = replacement_outputs("resample", conflict, seed=3)
    for i in range(4):
        assert any(torch.equal(other.heads[i], heads[j]) for j in range(4) if j != i)
    with pytest.raises(InputError, match="'mode': expected one of mean, resample, plain, zero"):
        replacement_outputs("mode", conflict)
    with pytest.raises(InputError, match="needs the other pairs: expected at least two"):
        replacement_outputs("mean", SiteOutputs(heads[:1], mlps[:1]))


@pytest.mark.parametrize("n", [2, 3, 50])
def test_nothing_stays_in_its_place(n):
    order = derangement(n, seed=1)
    assert sorted(order) == list(range(n)) and (order != np.arange(n)).all()


def permuted(architecture: str, order: list[int]):
    """The same function with the heads of layer 1 in another order."""
    made = make_hf(architecture)
    attention = made.gpt_neox.layers[1].attention
    rows = torch.cat([torch.arange(h * 24, (h + 1) * 24) for h in order])  # q, k, v of a head lie together
    columns = torch.cat([torch.arange(h * 8, (h + 1) * 8) for h in order])
    with torch.no_grad():
        attention.query_key_value.weight[:] = attention.query_key_value.weight[rows].clone()
        attention.query_key_value.bias[:] = attention.query_key_value.bias[rows].clone()
        attention.dense.weight[:] = attention.dense.weight[:, columns].clone()
    return made


def test_permuting_heads_permutes_the_result(make_model, tokenizer, pairs):
    order = [2, 0, 3, 1]
    shuffled = wrap_model(permuted("neox", order), tokenizer, name="neox")
    a, b = (locate(pairs, m).sites.frame for m in (make_model("neox"), shuffled))
    for column in ("effect", "direct_effect"):
        ours, theirs = a[column].to_numpy(), b[column].to_numpy()
        want = ours.copy()
        want[5:9] = ours[5 + np.array(order)]
        assert theirs == pytest.approx(want, abs=1e-4)


def test_a_block_of_zeros_shifts_the_result(make_model, tokenizer, pairs):
    made, plain = make_hf("neox-serial", layers=4), make_hf("neox-serial")
    state = dict(plain.state_dict())
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            part = name.split(".")
            if part[1] == "layers" and part[2] == "1":
                parameter.zero_()
            else:
                if part[1] == "layers" and int(part[2]) > 1:
                    part[2] = str(int(part[2]) - 1)
                parameter.copy_(state[".".join(part)])
    a = locate(pairs, make_model("neox-serial")).sites.frame["effect"].to_numpy()
    b = locate(pairs, wrap_model(made, tokenizer, name="longer")).sites.frame["effect"].to_numpy()
    assert b[5:10] == pytest.approx(np.zeros(5), abs=1e-4)
    assert np.delete(b, np.s_[5:10]) == pytest.approx(a, abs=1e-4)


def test_a_planted_override_ranks_first_and_its_rivals_have_their_signs(tokenizer):
    """The heads of ``planted_models``: the definition's pushes to the answer, both cue heads to the lure."""
    pairs = letter_pairs(16)
    found = locate(pairs, overridden(tokenizer, strength=4.0, name="planted"), replacement=("mean", "zero", "resample"))
    sites = found.sites.frame.assign(site=all_sites(2, 4)).set_index("site")
    effect = {str(site): value for site, value in sites["effect"].items()}
    assert min(effect, key=effect.__getitem__) == "a1.h2" and effect["a1.h2"] < effect["a0.h3"] < 0 < effect["a0.h1"]
    written = {"a1.h2", "a0.h3", "a0.h1"}
    assert all(abs(value) < 1e-5 for site, value in effect.items() if site not in written)
    assert {str(s) for s in sites.index[sites["significant"]]} == written
    zero = found.effects.frame.query("replacement == 'zero' and layer == 1 and head == 2")
    assert (zero["effect"] < 0).all()
    # nothing stands after the last layer's head but the norm, whose scale it changes: near, not equal
    assert zero["direct_effect"].to_numpy() == pytest.approx(zero["effect"].to_numpy(), rel=0.35)


def test_sites_are_screened_only_where_completions_have_later_tokens(make_model, pairs):
    """Those models have a vocabulary as large as their body: what is after the first token that differs is costly."""
    model = make_model("neox")
    several = place_prompts(model, pairs, ("conflict",)).prompts
    single = place_prompts(model, letter_pairs(6), ("conflict",)).prompts
    assert all(len(c.tokens) == prompt.shared + 1 for prompt in single for c in prompt.completions)
    assert is_costly(several, small_body(model)) and not is_costly(single, small_body(model))
    assert locate(letter_pairs(6), model).sites.frame["p"].notna().all()


def small_body(model):
    return dataclasses.replace(model, n_params=1000)


def test_error_control_runs_over_all_models_together(make_model, pairs):
    found = locate(pairs, [make_model("neox"), make_model("gpt2")]).sites.frame
    from isp_mech.stats import benjamini_hochberg

    assert found["q"].to_numpy() == pytest.approx(benjamini_hochberg(found["p"].to_numpy()))
    assert (found["significant"] == (found["q"] <= 0.05)).all() and len(found) == 30


def test_stability_compares_replacements_and_halves(make_model, pairs):
    found = locate(pairs, make_model("llama"), replacement=("mean", "zero", "plain"))
    rows = found.stability.frame
    assert list(zip(rows["replacement_a"], rows["replacement_b"], strict=True)) == [
        ("mean", "zero"), ("mean", "plain"), ("zero", "plain"), ("half_a", "half_b"),
    ]  # fmt: skip
    assert rows["spearman"].between(-1, 1).all() and isinstance(found.effects, Table)


def test_arguments_are_checked(make_model, pairs):
    model = make_model("neox")
    with pytest.raises(InputError, match="'mode': expected one of"):
        locate(pairs, model, replacement=("mean", "mode"))
    with pytest.raises(InputError, match="expected one or more, each once"):
        locate(pairs, model, replacement=("mean", "mean"))
    with pytest.raises(InputError, match="needs the other pairs"):
        locate(pairs.take([0]), model)
    values = SiteOutputs(torch.zeros(8, 3, 4, 8), torch.zeros(8, 3, 32))
    with pytest.raises(InputError, match="site m7: expected a head or MLP of 3 layers x 4 heads\n.*site r1"):
        patched_margins([], values, [frozenset({Site(1, "resid"), Site(7, "mlp")})], plan_batches(model))


def test_several_sites_at_once_are_those_of_a_forward_of_its_own_for_any_batch(some_model, pairs):
    """Sets that begin in different layers, one of them empty, against one forward with all hooks at once."""
    plan = plan_batches(some_model)
    conflict = observe_conflict(pairs, plan, ["resample"])
    values = conflict.replacements["resample"]
    sets = [{Site(0, "head", 1), Site(2, "mlp")}, set(), {Site(1, "head", 3), Site(1, "mlp")}]
    sets = [frozenset(sites) for sites in sets]
    found = patched_margins(conflict.prompts, values, sets, plan)
    for i in range(3):
        assert found[i] == pytest.approx(alone(some_model, conflict.prompts[i], values, sets, i), abs=1e-4)
    one = patched_margins(conflict.prompts, values, sets, plan_batches(some_model, 1))
    assert one == pytest.approx(found, abs=1e-4)


def test_shots_that_prompts_share_run_once_and_every_margin_is_that_of_a_forward_of_its_own(some_model):
    shots = [("".join(f"Q: What is the first digit of {n}? A: {n // 10}\n" for n in (46, 27, 31)), "shots")]
    made = []
    for i, (answer, lure) in enumerate([(" 4", " 3"), (" a man", " many men"), (" 4", " part"), (" 2", " 3")]):
        question = (f"Q: What is the first digit of pi{'!' * (i % 2)}? A:", "question")
        conflict = compose([*shots, (f"Redefine pi as {462 + i}. ", "definition"), question])
        made.append(Pair(f"p{i}", compose([*shots, question]), conflict, answer, lure, "definition"))
    plan = plan_batches(some_model)
    conflict = observe_conflict(PairSet("shots", tuple(made)), plan, ["resample"])
    prompts, values = conflict.prompts, conflict.replacements["resample"]
    taken: list[tuple[list[int], int]] = []
    run_prompts(prompts, lambda rows, whole: taken.append((rows, len(whole.batch.ids))), plan, "test")
    assert sorted(i for rows, _ in taken for i in rows) == [0, 1, 2, 3]
    assert sum(n for _, n in taken) < 4  # some stand in one row
    sets = [frozenset({site}) for site in SITES]
    found = patched_margins(prompts, values, sets, plan)
    for i, prompt in enumerate(prompts):
        assert found[i] == pytest.approx(alone(some_model, prompt, values, sets, i), abs=1e-4)
    by_one: list[tuple[int, int, list[int]]] = []

    def each(rows: list[int], whole: WholePrompts) -> None:
        by_one.append((len(rows), len(whole.batch.ids), [path.row for path in whole.paths]))

    run_prompts(prompts, each, plan_batches(some_model, 1), "test")
    assert by_one == [(1, 1, [0])] * 4
    assert patched_margins(prompts, values, sets, plan_batches(some_model, 1)) == pytest.approx(found, abs=1e-4)
