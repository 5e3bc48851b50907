"""Edges: they sum to what they are parts of, each is the slope along its own path, and a planted one is found."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

import numpy as np
import pytest
import torch
from small_models import HEAD_ORDER, heads_permuted, make_hf

import isp_mech as im
from isp_mech.causal.activation_patching import patched_margins
from isp_mech.causal.attribution_patching import approximate_effects
from isp_mech.causal.edge_attribution import edge_effects
from isp_mech.causal.edges import edges
from isp_mech.causal.locate import locate
from isp_mech.causal.replacements import ConflictSide, SiteOutputs, observe_conflict
from isp_mech.causal.site_sets import sites_for
from isp_mech.errors import InputError
from isp_mech.inference.batches import BatchPlan, plan_batches
from isp_mech.inference.margin import ContrastPrompt
from isp_mech.ladder.planted_models import plant_model, planted, planted_pairs
from isp_mech.models import wrap_model
from isp_mech.sites import Site, all_sites, parse_site

SITES = all_sites(3, 4)


@dataclass(frozen=True)
class Observed:
    """A model's plan and its conflict side, with one replacement."""

    plan: BatchPlan
    conflict: ConflictSide
    values: SiteOutputs

    @property
    def both(self) -> tuple[list[ContrastPrompt], SiteOutputs, SiteOutputs]:
        return self.conflict.prompts, self.conflict.outputs, self.values


def observed(model, pairs, kind="mean", batch_size="auto") -> Observed:
    plan = plan_batches(model, batch_size)
    conflict = observe_conflict(pairs, plan, [kind], seed=1)
    return Observed(plan, conflict, conflict.replacements[kind])


def test_all_edges_from_a_site_sum_to_its_attribution(model, pairs):
    seen = observed(model, pairs.take([0, 1, 2, 3]))
    want = approximate_effects(*seen.both, seen.plan, steps=1)
    found = edge_effects(*seen.both, SITES, seen.plan, steps=1)
    assert np.abs(want).max() > 0.05
    for ours in (np.nansum(found.edges, 2), found.whole):
        assert np.abs(ours - want).max() < 1e-4 * np.abs(want).max()
    assert found.edges.shape == (4, 15, 16)


@pytest.mark.parametrize("architecture", ["neox", "neox-serial", "gemma2"])
def test_integrated_they_sum_to_its_exact_effect(make_model, pairs, architecture):
    model = make_model(architecture)
    seen = observed(model, pairs.take([0, 1, 2, 3]), "resample")
    patched = patched_margins(seen.conflict.prompts, seen.values, [frozenset({site}) for site in SITES], seen.plan)
    exact = seen.conflict.observed.margins[:, None] - patched
    found, one = (edge_effects(*seen.both, SITES, seen.plan, steps=steps) for steps in (24, 1))
    assert np.abs(np.nansum(found.edges, 2) - exact).max() < 0.01 * np.abs(exact).max()
    assert np.abs(np.nansum(found.edges, 2) - found.whole).max() < 1e-4 * np.abs(exact).max()
    assert np.abs(one.whole - exact).max() > 0.02 * np.abs(exact).max()  # one gradient does not


def through_one_reader(hf, prompt, write, reader, by: float) -> float:
    """The margin when the reader alone finds ``by`` times the write more in the stream: two plain forwards for each
    completion, one to see what the reader then gives, one to put that in its place."""
    blocks, total = hf.gpt_neox.layers, 0.0
    for sign, query in ((1, prompt.answer), (-1, prompt.lure)):
        ids, seen = torch.tensor([query.tokens[:-1]]), []

        def more(module, args):
            x = args[0].clone()
            x[0, prompt.shared - 1] += by * write
            return (x, *args[1:])

        def forward(hooks, ids=ids):
            handles = [register(hook) for register, hook in hooks]
            with torch.no_grad():
                logp = hf(ids).logits[0].log_softmax(-1)
            for handle in handles:
                handle.remove()
            return logp

        if reader == "output":
            logp = forward([(hf.gpt_neox.final_layer_norm.register_forward_pre_hook, more)])
        else:
            block = blocks[reader.layer]
            is_mlp = reader.kind == "mlp"
            reads = block.post_attention_layernorm if is_mlp else block.input_layernorm
            gives = block.mlp if is_mlp else block.attention.dense
            mine = slice(0, 32) if is_mlp else slice(8 * reader.head, 8 * reader.head + 8)

            def look(module, args, out=None, seen=seen):
                seen.append((args[0] if out is None else out).clone())

            def put(module, args, out=None, seen=seen, mine=mine):
                x = (args[0] if out is None else out).clone()
                x[..., mine] = seen[0][..., mine]
                return (x,) if out is None else x

            at = gives.register_forward_hook if is_mlp else gives.register_forward_pre_hook
            forward([(reads.register_forward_pre_hook, more), (at, look)])
            logp = forward([(at, put)])
        total += sign * sum(float(logp[i - 1, query.tokens[i]]) for i in range(prompt.shared, len(query.tokens)))
    return total


def test_each_is_the_slope_along_its_own_path(make_model, pairs):
    model = make_model("neox-serial")
    some = pairs.take([0, 1, 3])  # completions of one and of several tokens
    seen = observed(model, some)
    prompts, outputs, values = seen.both
    found = edge_effects(prompts, outputs, values, SITES, seen.plan)
    hf, step = make_hf("neox-serial").double(), 1e-3
    names = [*SITES, "output"]
    tested = [("a0.h1", "a1.h2"), ("a0.h1", "m0"), ("a1.h3", "m2"), ("m0", "a2.h0"), ("m1", "m2"), ("a1.h0", "output")]
    tested.append(("m2", "output"))
    for u, v in tested:
        site, reader = parse_site(u), "output" if v == "output" else parse_site(v)
        for i, prompt in enumerate(prompts):
            if site.kind == "head":
                gap = outputs.heads[i, site.layer, site.head] - values.heads[i, site.layer, site.head]
                write = (gap @ model.architecture.head_matrix(site.layer)[site.head]).detach().double()
            else:
                write = (outputs.mlps[i, site.layer] - values.mlps[i, site.layer]).double()
            on, back = (through_one_reader(hf, prompt, write, reader, by) for by in (step, -step))
            slope = (on - back) / (2 * step)
            effect = found.edges[i, SITES.index(site), names.index(reader)]
            assert effect == pytest.approx(slope, rel=1e-3, abs=1e-4), (u, v)


def test_there_are_edges_to_what_comes_later_alone(make_model, pairs):
    for architecture, to_own_mlp in (("neox", False), ("neox-serial", True)):
        frame = edges(pairs, make_model(architecture), SITES, steps=1).frame
        for u, v in zip(frame["from_site"], frame["to_site"], strict=True):
            u, v = parse_site(u), parse_site(v) if v != "output" else Site(3, "mlp")
            assert v.layer > u.layer or (to_own_mlp and u.kind == "head" and v == Site(u.layer, "mlp"))
        assert len(frame) == 15 + 5 * 10 + 5 * 5 + to_own_mlp * 12


def test_the_notes_tell_how_far_the_gradients_are_from_exact_effects(make_model, pairs):
    model = make_model("neox")
    exact = locate(pairs, model).sites.frame.query("layer == 1 and kind == 'mlp'")["effect"].item()
    (rough,), (fine,) = (edges(pairs, model, {Site(1, "mlp")}, steps=steps).run.notes for steps in (1, 32))
    assert "neox: with steps 1, a site's effect by gradients and the exact one differ most at m1" in rough
    assert f"and {exact:.3f} nats, on 8 pairs" in rough
    told = [[float(x) for x in note.split(", ")[2].removesuffix(" nats").split(" and ")] for note in (rough, fine)]
    off = [abs(ours - exact) for ours, exact in told]
    assert off[1] < 0.0011 < 0.003 < off[0]


def test_permuting_heads_permutes_the_edges(tokenizer, pairs):
    hf = heads_permuted()
    frames = [edges(pairs, wrap_model(m, tokenizer, name="m"), SITES, steps=2).frame for m in (make_hf("opt"), hf)]
    back = {f"a1.h{new}": f"a1.h{old}" for new, old in enumerate(HEAD_ORDER)}
    before, after = frames[0], frames[1].replace({"from_site": back, "to_site": back})
    keys = ["from_site", "to_site"]
    a, b = (frame.set_index(keys)["effect"] for frame in (before, after))
    assert np.abs(a - b[a.index]).max() < 1e-4 and a.abs().max() > 0.05


def test_batches_and_chunks_change_nothing(make_model, pairs, monkeypatch):
    model = make_model("llama")
    sites = [site for site in SITES if site.layer > 0]
    single, seen = observed(model, pairs, batch_size=1), observed(model, pairs)
    one = edge_effects(*single.both, sites, single.plan, steps=3)
    monkeypatch.setattr(BatchPlan, "copies", lambda *shape: 4)
    many = edge_effects(*seen.both, sites, seen.plan, steps=3)
    assert np.nanmax(np.abs(one.edges - many.edges)) < 1e-4 and np.abs(one.whole - many.whole).max() < 1e-4
    assert (np.isnan(one.edges) == np.isnan(many.edges)).all()


def test_a_planted_edge_is_the_strongest_towards_the_lure(tmp_path):
    model = im.load_model(str(plant_model(planted("moved-to-mlp"), tmp_path / "moved")))
    pairs = planted_pairs(24, seed=4)
    located = locate(pairs, model)
    frame = edges(pairs, model, located).frame
    between = frame[frame["to_site"] != "output"].sort_values("effect")
    first = between.iloc[0]
    assert (first["from_site"], first["to_site"], bool(first["significant"])) == ("a1.h4", "m2", True)
    assert first["effect"] < 5 * between["effect"].iloc[1]
    out = frame[frame["to_site"] == "output"].set_index("from_site")["effect"]
    assert out.idxmin() == "m2" and out.idxmax() == "a0.h1"


def test_sites_come_from_a_set_a_mapping_or_locating(make_model, pairs, monkeypatch):
    model = make_model("gpt2")
    few = {Site(0, "head", 1), Site(2, "mlp"), Site(1, "head", 0)}
    order = (Site(0, "head", 1), Site(1, "head", 0), Site(2, "mlp"))
    assert sites_for(few, model) == sites_for({"gpt2": few}, model) == order
    assert sites_for({"other": few}, model) == ()
    none = edges(pairs, model, {"other": few})
    assert len(none) == 0 and "gpt2: no significant sites" in none.run.notes[0]
    located = locate(pairs, model)
    frame = located.sites.frame.assign(significant=True)
    frame["effect"] = np.arange(15.0) - 7
    object.__setattr__(located.sites, "frame", frame)
    assert sites_for(located, model) == sites_for(located.sites, model) == SITES
    strongest = sites_for(located, model, strongest=3)  # on either side
    assert set(strongest) == {SITES[0], SITES[14], SITES[1]}
    monkeypatch.setattr(import_module("isp_mech.causal.edges"), "STRONGEST", 3)
    found = edges(pairs, model, located, steps=1).frame
    assert set(found["from_site"]) == set(map(str, strongest))
    frame.loc[0, "significant"] = False
    assert set(sites_for(located, model, strongest=3)) == {SITES[14], SITES[1], SITES[13]}


def test_what_cannot_be_done_is_said(make_model, tokenizer, pairs):
    model = make_model("neox")
    with pytest.raises(InputError, match="0: expected 1 or more"):
        edges(pairs, model, SITES, steps=0)
    with pytest.raises(InputError, match=r"site a7.h0: expected a head or MLP of 3 layers x 4 heads"):
        edges(pairs, model, {Site(7, "head", 0)})
    with pytest.raises(InputError, match="'mode': expected one of mean, resample, plain, zero"):
        edges(pairs, model, SITES, replacement="mode")
    with pytest.raises(InputError, match="no rows for 'gpt2', found neox"):
        edges(pairs, make_model("gpt2"), locate(pairs, model))
    alone = wrap_model(make_hf("gpt-neo"), tokenizer, name="alone")
    seen = observed(model, pairs)
    with pytest.raises(InputError, match="accepts custom masks"):
        edge_effects(*seen.both, SITES, plan_batches(alone))
