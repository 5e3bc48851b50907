"""Interventions on pairs: the table of many, what is found on planted models, and files that bring them back."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from planted_models import letter_pairs, overridden
from small_models import make_hf

import isp_mech as im
from isp_mech.causal import block, intervene, load_intervention, parse_intervention, replacing, scale, steer, swap
from isp_mech.causal.activation_patching import changed_margins
from isp_mech.causal.intervention_changes import Bound, prompts_of
from isp_mech.causal.interventions import scale_sites
from isp_mech.causal.restoration import restoration
from isp_mech.causal.restoration_judgement import same_answer, tokens_touched
from isp_mech.causal.restoration_search import candidates, size_of
from isp_mech.errors import InputError
from isp_mech.inference.batches import plan_batches
from isp_mech.models import wrap_model
from isp_mech.sites import Site


@pytest.fixture
def planted(tokenizer):
    """a1.h2 writes the cue; a head of the definition is weaker."""
    return overridden(tokenizer, strength=2.0, name="planted")


def test_intervening_is_what_scaling_and_knocking_out_are(make_model, pairs):
    model = make_model("neox")
    asked = [scale("a0.h1 m1", 0.5), block("definition", layers=(1,)), "none", swap(1), replacing("a0.h1")]
    found = intervene(asked, pairs, model).frame.set_index(["side", "place"])
    scaled = scale_sites("a0.h1 m1", pairs, model, alphas=(0.5,)).frame.set_index("side")
    for side in ("conflict", "plain"):
        row = found.loc[side, str(asked[0])]
        assert row["margin"] == pytest.approx(scaled["margin"][side], abs=1e-5) and row["intervention"] == "scale"
        assert found.loc[side, "none"]["effect"] == 0
    knocked = im.causal.knock_out(pairs, model, roles=["definition"], each_layer=True).frame.set_index("layers")
    assert found.loc["conflict", str(asked[1])]["margin"] == pytest.approx(knocked["margin"]["1"], abs=1e-5)
    assert found.loc["plain", str(asked[1])]["effect"] == 0  # the plain prompts have no definition
    assert abs(found.loc["conflict", str(asked[3])]["effect"]) > 0
    with pytest.raises(InputError, match="no token of role 'negation', found definition, question, other"):
        intervene(block("negation"), pairs, model)


def test_the_planted_head_is_found_and_restores(planted, monkeypatch):
    monkeypatch.setattr(import_module("isp_mech.causal.restoration"), "N_NEUTRAL", 6)
    restored = restoration(letter_pairs(24), planted, kinds=["scale", "block"], n_random=40)
    frame = restored.table.frame
    assert len(frame) == 4 and set(frame["split"]) == {"half_a", "half_b"}
    of_scale = frame[frame["kind"] == "scale"]
    for text in of_scale["intervention"]:
        sites = {site for part in parse_intervention(text).parts for site in part.sites}
        assert Site(1, "head", 2) in sites and len(sites) <= 2
        assert text in restored.interventions
    assert (of_scale["restored"] == 1).all() and (of_scale["conflict_before"] == 0).all()
    assert (of_scale["needs"] == "nothing").all() and (frame["n"] == 12).all()
    # each pair by itself: shares of right ones are the table's, and the half's own intervention gives these margins
    by_pair = restored.pairs.frame.query("kind == 'scale'")
    assert by_pair.groupby("side")["pair"].nunique().tolist() == [24, 24] and len(by_pair) == 48
    for row in of_scale.to_dict("records"):
        half = by_pair[by_pair["split"] == row["split"]].set_index(["side", "pair"])
        for when in ("before", "after"):
            right = half[f"margin_{when}"] > 0
            assert right["conflict"].mean() == row[f"conflict_{when}"]
            assert 1 - right["plain"].mean() == row[f"plain_{when}"]
        made = restored.interventions[row["intervention"]]
        items = im.score(letter_pairs(24), planted, intervention=made).items.frame.set_index(["side", "item"])
        np.testing.assert_allclose(half["margin_after"], items["margin"].loc[half.index], atol=1e-4)
    same = im.verify("", letter_pairs(24), planted, interventions=["scale", "block"], n_random=40)
    assert same.frame.equals(frame)


def test_nothing_is_called_restored_in_a_random_model(make_model, pairs, monkeypatch):
    monkeypatch.setattr(import_module("isp_mech.causal.restoration"), "N_NEUTRAL", 6)
    frame = restoration(pairs, make_model("neox"), n_random=19).table.frame
    assert len(frame) == 14 and not frame["restoring"].any()
    assert ((frame["n_random"] == 0) == (frame["intervention"] == "none")).all()


def test_a_constant_answer_is_told_and_refused(tokenizer, monkeypatch):
    """Attention to the definition and to the cue blocked, the model says x whatever is asked: half of all is right."""
    hf = overridden(tokenizer, strength=2.0, name="planted").hf
    with torch.no_grad():
        hf.lm_head.bias = torch.nn.Parameter(torch.zeros(len(hf.lm_head.weight)))
        hf.lm_head.bias[tokenizer("x").input_ids[0]] = 0.1
    model, pairs = wrap_model(hf, tokenizer, name="constant"), letter_pairs(12)
    rows = intervene(scale("a0.h1 a0.h3 a1.h2", 0.0), pairs, model).frame.set_index("side")
    assert (rows["accuracy"] == 0.5).all()
    plan = plan_batches(model)
    sides = [Bound(model, prompts_of(pairs, side, model)) for side in ("conflict", "plain")]

    def told(made):
        return same_answer(list(pairs), [changed_margins(s.prompts, s.changes(made), plan)[:, 0] for s in sides])

    assert told(scale("a0.h1 a0.h3 a1.h2", 0.0)) == 1
    assert told(scale("a1.h2", 0.0)) == 0.5  # the definition is followed, and the cue where there is none
    assert [tokens_touched(block("definition"), side) for side in sides] == [1, 0]  # a plain prompt has none
    places = [replace(pair, answer_index=i % 2) for i, pair in enumerate(pairs)]
    assert same_answer(places, [np.array([1 - 2.0 * (i % 2) for i in range(12)])] * 2) == 1  # always the first


def test_of_equally_good_ones_the_smaller_is_less():
    a, b = scale("a0.h1", 0.0), scale("a0.h1 m1", 0.0)
    assert size_of(a) < size_of(b) < size_of(a + b)
    assert size_of(block("q", layers=(0, 1))) < size_of(block("q"))
    assert len(candidates("block", ["q", "r"], 4, 2, "decision")) == 8
    assert candidates("swap", ["q"], 4, 2, "decision") == []  # they are trained


def test_a_file_brings_it_back(tmp_path, pairs, make_model):
    from isp_mech.causal.intervention_values import with_array

    made = block("definition") + with_array(steer(1, alpha=0.1), {"r1": np.arange(32) / 7})
    again = load_intervention(made.save(tmp_path / "made.json"))
    assert again == made and all((again.arrays[name] == made.arrays[name]).all() for name in made.arrays)
    with pytest.raises(InputError, match="no such file, expected"):
        load_intervention(tmp_path / "other.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(InputError, match="expected a file that an intervention's save wrote"):
        load_intervention(tmp_path / "bad.json")


def test_text_is_generated_with_it(tokenizer, pairs):
    """Token by token with a cache, as in one forward over the whole text."""
    hf, prompt = make_hf("llama"), pairs[0].conflict
    made = block("definition", layers=(0, 1)) + scale("a1.h2 m0", -1.0, at="onward")
    ids = torch.tensor([tokenizer(prompt.text)["input_ids"]])
    plain = hf.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)
    before = hf.config._attn_implementation
    with made.attach(hf, tokenizer, prompt=prompt):
        out = hf.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)
    with made.attach(hf, tokenizer, prompt=prompt), torch.no_grad():
        logits = hf(out[:, :-1]).logits[0, ids.shape[1] - 1 :]
    assert logits.argmax(-1).tolist() == out[0, ids.shape[1] :].tolist()
    assert hf.config._attn_implementation == before and not torch.equal(out, plain)
    assert torch.equal(hf.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0), plain)
    with (
        pytest.raises(InputError, match="roles definition: expected a prompt that has them"),
        made.attach(hf, tokenizer),
    ):
        pass
    with pytest.raises(InputError, match="needs the pairs"), steer(1).attach(hf, tokenizer):
        pass


def test_scores_are_those_of_the_changed_forward(make_model, pairs, tmp_path, capsys):
    """Of pairs, the margins that intervening gives; of a task, every class; on the command line, from a file."""
    from isp_mech.tasks import Item, Task

    model, made = make_model("neox"), block("definition") + scale("a0.h1 m1", 0.5, at="onward")
    items = im.score(pairs, model, intervention=made).items.frame
    rows = intervene(made, pairs, model).frame.set_index("side")
    for side in ("conflict", "plain"):
        assert items[items["side"] == side]["margin"].mean() == pytest.approx(rows["margin"][side], abs=1e-4)
    task = Task("t", tuple(Item(f"i{i}", f"Q{i}: what? A:", (" 4", " a man", " a many"), 0) for i in range(3)))
    nothing, plain = (im.score(task, model, intervention=one).scores.frame for one in (scale("m1", 1.0), None))
    assert nothing["logprob"].tolist() == pytest.approx(plain["logprob"].tolist(), abs=1e-4)
    changed = im.score(task, model, intervention=scale("m1 a0.h0", 2.0)).scores.frame
    assert (changed["logprob"] - plain["logprob"]).abs().min() > 1e-3
    with pytest.raises(InputError, match="no token of role 'definition'"):
        im.score(task, model, intervention=block("definition"))
    with pytest.raises(InputError, match="expected rule strict, no trace"):
        im.score(pairs, model, intervention=made, trace=True)


def test_the_command_line_takes_a_file(tmp_path, folders, capsys):
    from isp_mech.cli import main

    command = ["score", "redefine-math", "--n", "6", "--family", str(folders[0]), "--out", str(tmp_path / "out")]
    file = scale("m0", 3.0).save(tmp_path / "made.json")
    assert main([*command, "--intervention", str(file), "--quiet"]) == 0
    changed = im.read_table(tmp_path / "out" / "tables" / "scores.parquet")
    assert changed.run.settings["intervention"] == "scale(m0; alpha=3.0; at=decision)"
    assert main([*command, "--quiet"]) == 0
    plain = im.read_table(tmp_path / "out" / "tables" / "scores.parquet")
    assert "intervention" not in plain.run.settings
    assert (changed.frame["logprob"] - plain.frame["logprob"]).abs().max() > 1e-3
    assert main([*command, "--intervention", str(tmp_path / "none.json"), "--quiet"]) == 2
