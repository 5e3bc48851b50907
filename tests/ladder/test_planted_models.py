"""Planted models: what is known to stand in them is found, and in models with nothing in them nothing is."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import isp_mech as im
from isp_mech.ladder import planted_models as planted
from isp_mech.ladder.planted_models import PLANTED, Plant, Wire, held_against, null_model, plant_model, planted_pairs
from isp_mech.sites import all_sites, parse_site
from isp_mech.tasks import check_one_factor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("planted")


def located(plant, model, n=24):
    pairs = planted_pairs(n, seed=4, ends_with_word=plant.ends_with_word)
    frame = im.locate(pairs, model).sites.frame
    return [str(site) for site in all_sites(model.architecture.n_layers, model.architecture.n_heads)], frame


def test_there_are_heads_and_mlps_at_different_depths_with_and_without_a_second_site():
    assert len(PLANTED) >= 12 and len({plant.name for plant in PLANTED}) == len(PLANTED)
    kinds = {frozenset(parse_site(site).kind for site in plant.override) for plant in PLANTED}
    assert kinds == {frozenset({"head"}), frozenset({"mlp"}), frozenset({"head", "mlp"})}
    assert {1, 2} <= {len(plant.override) for plant in PLANTED}
    assert len({max(parse_site(site).layer for site in plant.override) for plant in PLANTED}) >= 4
    with pytest.raises(ValueError, match="'heads': expected one of head, early-head"):
        planted.planted("heads")


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.name)
def test_what_is_planted_is_found(plant, folder):
    model = im.load_model(str(plant_model(plant, folder / plant.name)))
    names, frame = located(plant, model)
    found = held_against(plant, names, frame["effect"], frame["significant"])
    assert found.rank == 1 and found.first in plant.sites
    assert found.recall == 1 and found.roc_auc >= 0.99
    effect = dict(zip(names, frame["effect"], strict=True))
    assert all(effect[site] < 0 for site in plant.override)
    assert all(effect[site] > 0 for site in plant.sites - plant.override)
    written = json.loads((folder / plant.name / "planted.json").read_text())
    assert {wire["site"] for wire in written["wires"]} == plant.sites


@pytest.mark.parametrize("name", ["deep-head", "redundant-mlps", "head-and-mlp"])
def test_without_the_sites_of_memory_the_definition_is_followed(name, folder):
    plant = planted.planted(name)
    model = im.load_model(str(plant_model(plant, folder / f"{name}-again")))
    pairs = planted_pairs(40, seed=5, ends_with_word=plant.ends_with_word)
    sites = {parse_site(site) for site in plant.override}
    row = im.verify(sites, pairs, model, n_random=20).frame.iloc[0]
    assert row["accuracy_after"] >= row["accuracy_before"] + 0.4 and row["p_random"] == pytest.approx(1 / 21)


def test_in_random_weights_nothing_is_found(folder):
    models = [
        im.load_model(str(null_model(folder / f"null-{seed}", seed=seed, layers=2 + seed % 2))) for seed in range(4)
    ]
    called = [
        im.locate(pairs, models).sites.frame["significant"]
        for pairs in (planted_pairs(60, seed=6), im.contrast("redefine-math", n=60, seed=6))
    ]
    assert np.concatenate(called).mean() <= 0.05


def test_pairs_differ_in_the_definition_alone():
    words, others = planted.word_lists()
    assert not set(words) & set(others)
    for pairs in (planted_pairs(30, seed=1), planted_pairs(30, seed=1, ends_with_word=True)):
        for pair in pairs:
            check_one_factor(pair)
            (defined,) = pair.conflict.spans("definition")
            word, new = defined.removeprefix("Redefine ").removesuffix(". ").split(" as ")
            assert word in words and pair.answer == f" {new[0]}"
            assert pair.lure == f" {planted.remembered_digit(word)}"


def test_a_wired_mlp_is_linear_and_a_wired_head_copies_what_it_sees(folder):
    """One head and one MLP by themselves, without noise: logits as worked by hand."""
    plant = Plant("alone", 2, (Wire("a0.h1", "definition"), Wire("m1", "memory", 2.0)), True)
    model = im.load_model(str(plant_model(plant, folder / "alone")))
    first, second = model.hf.gpt_neox.layers
    first.mlp.dense_4h_to_h.weight.data.zero_()
    second.attention.dense.weight.data.zero_()
    first.attention.dense.weight.data[:, :16] = first.attention.dense.weight.data[:, 32:] = 0  # head 1 stays
    second.mlp.dense_4h_to_h.weight.data[:, 20:] = 0  # the twenty wired units stay
    pair = planted_pairs(1, seed=9, ends_with_word=True)[0]
    ids = torch.tensor([model.tokenizer(pair.conflict.text).input_ids])
    logits = model.hf(ids).logits[0, -1].detach()
    digits = [int(logits.argsort(descending=True)[i]) for i in (0, 1)]
    assert [model.tokenizer.decode([d]) for d in digits] == [pair.lure, pair.answer]
    # the stream: norm 4 and mean 0, then 1 on the answer's coordinate; the MLP reads it after a LayerNorm
    after = (1 / planted.WIDTH) * (16 + 1 - 1 / planted.WIDTH)
    written = 2.0 / planted.SCALE / after**0.5
    final = (16 + 1 + written**2 - (1 + written) ** 2 / planted.WIDTH) / planted.WIDTH
    want = planted.LOGIT * (written - 1) / final**0.5
    assert float(logits[digits[0]] - logits[digits[1]]) == pytest.approx(want, rel=5e-3)  # but for means of 1 / 96


def test_held_against_a_plant_by_hand():
    plant = Plant("by hand", 1, (Wire("a0.h0", "definition"), Wire("m0", "memory")))
    found = held_against(
        plant, ["a0.h0", "a0.h1", "a0.h2", "m0"], np.array([0.1, 0.2, -0.05, -3]), [True, False, True, True]
    )
    assert (found.first, found.rank, found.recall, found.false_alarms) == ("m0", 1, 1.0, 0.5)
    assert found.roc_auc == pytest.approx(0.75)  # of four pairs of a planted and another site, one is the wrong way
    tied = held_against(plant, ["a0.h1", "m0"], np.array([-1.0, 1.0]), [False, False])
    assert tied.rank == 2 and tied.recall == 0 and tied.roc_auc == 0.5


def test_the_command_writes_every_model(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(planted, "PLANTED", PLANTED[:2])
    assert planted.main(["--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / plant.name) for plant in PLANTED[:2]]
    assert (tmp_path / "head" / "model.safetensors").is_file()
