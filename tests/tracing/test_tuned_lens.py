"""Lenses: training brings them nearer to the model's own distribution; files give back what was written."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from small_models import make_hf

from isp_mech.errors import InputError
from isp_mech.models import wrap_model
from isp_mech.tracing.trace import trace
from isp_mech.tracing.tuned_lens import Lens, lens_of, load_lens, train_lens

TEXTS = [
    f"Redefine pi as {i}. Q: What is the first digit of pi? A: {i % 10} part pango {'!' * (i % 5)}" for i in range(12)
]


def identity(of, **changed):
    d, last = of.architecture.d_model, 2 * of.architecture.n_layers
    eye = torch.eye(d).expand(last, d, d).clone()
    return dataclasses.replace(Lens(of.name, "tuned", tuple(range(last)), eye, torch.zeros(last, d)), **changed)


@pytest.fixture(scope="module")
def trained(make_model):
    model = make_model("gemma2")  # a capped, tied unembedding and an RMSNorm
    return model, train_lens(model, TEXTS, steps=30, tokens=64)


def test_training_brings_every_sublayer_nearer(trained):
    model, lens = trained
    assert lens.sublayers == tuple(range(6)) and len(lens.kl) == len(lens.kl_plain) == 6
    assert all(tuned < plain for tuned, plain in zip(lens.kl, lens.kl_plain, strict=True))
    assert all(p.grad is None for p in model.hf.parameters())  # the model itself learns nothing


def test_the_divergence_told_is_that_of_the_distributions(make_model):
    """One text is held out, and read in full: the plain lens's divergence, by transformers and by hand."""
    model = make_model("neox")
    lens = train_lens(model, TEXTS[:3], steps=1, tokens=200)
    hf, ids = make_hf("neox"), torch.tensor([model.tokenizer(TEXTS[2]).input_ids])
    with torch.no_grad():
        out = hf(ids, output_hidden_states=True)
        p = out.logits[0].log_softmax(-1)
        for block, stream in enumerate(out.hidden_states[:-1]):  # before every block; the last is normed already
            q = hf.lm_head(hf.gpt_neox.final_layer_norm(stream[0])).log_softmax(-1)
            assert lens.kl_plain[2 * block] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), abs=1e-4)


def test_the_same_seed_gives_the_same_lens(make_model):
    one, two, other = (train_lens(make_model("neox"), TEXTS, steps=2, tokens=32, seed=s) for s in (0, 0, 1))
    assert torch.equal(one.matrices, two.matrices) and not torch.equal(one.matrices, other.matrices)


def test_the_identity_is_the_plain_lens(make_model, pairs):
    model = make_model("neox")
    plain, same = trace(pairs, model), trace(pairs, model, lens=identity(model))
    assert np.abs(plain.lens.frame["margin"] - same.lens.frame["margin"]).max() < 1e-5
    assert same.lens.run.settings["lens"] == "tuned" and plain.lens.run.settings["lens"] == "plain"


def test_a_lens_changes_the_reading_and_never_the_last_row(trained, pairs):
    model, lens = trained
    plain, tuned = (trace(pairs, model, lens=choice).lens.frame for choice in (None, [lens]))
    last = plain["depth"] == 1
    assert np.abs(plain["margin"] - tuned["margin"])[~last].max() > 1e-3
    assert np.abs(plain["margin"] - tuned["margin"])[last].max() < 1e-6


def test_a_lens_of_some_sublayers_gives_those_rows_and_the_last(make_model, pairs):
    model = make_model("neox")
    whole = identity(model)
    some = identity(model, sublayers=(2, 4), matrices=whole.matrices[:2], biases=whole.biases[:2])
    found = trace(pairs, model, lens=some)
    assert found.lens.frame.groupby(["pair", "side"]).size().eq(3).all()
    assert found.lens.frame["depth"].unique() == pytest.approx([2 / 6, 4 / 6, 1])
    assert len(found.onset) == 2


def test_a_lens_is_saved_and_read(trained, tmp_path):
    _, lens = trained
    again = load_lens(lens.save(tmp_path / "deep" / "lens.safetensors"))
    assert torch.equal(again.matrices, lens.matrices) and torch.equal(again.biases, lens.biases)
    for name in ("model", "kind", "sublayers", "kl", "kl_plain"):
        assert getattr(again, name) == getattr(lens, name)


def test_a_jacobian_lens_of_transformer_lens_is_read(make_model, tmp_path, pairs):
    """Margins read by TransformerLens itself with the same maps, at the decision position."""
    from transformer_lens.tools.analysis import JacobianLens

    model = wrap_model(make_hf("neox"), make_model("neox").tokenizer, name="other name")
    maps = {layer: torch.randn(32, 32, generator=torch.Generator().manual_seed(layer)) for layer in (0, 1)}
    theirs = JacobianLens(maps, n_prompts=1, d_model=32)
    theirs.save(str(tmp_path / "lens.pt"), dtype=torch.float32)
    lens = load_lens(tmp_path / "lens.pt")
    assert lens.sublayers == (2, 4) and lens.kind == "jacobian"
    one = dataclasses.replace(pairs, pairs=(dataclasses.replace(pairs[0], answer="x", lure="y"),))
    ours = trace(one, model, lens=lens).lens.frame.query("side == 'conflict'")["margin"].tolist()
    encoded = [model.tokenizer(one[0].conflict.text + c).input_ids for c in ("x", "y")]
    assert encoded[0][:-1] == encoded[1][:-1]
    found = theirs.readout(model.bridge, torch.tensor([encoded[0][:-1]]), positions=[-1], return_full_logits=True)
    want = [float(found.lens_logits[i][0, encoded[0][-1]] - found.lens_logits[i][0, encoded[1][-1]]) for i in range(3)]
    assert ours == pytest.approx(want, abs=1e-4)


def test_files_that_are_no_lens_are_named(tmp_path):
    for name in ("a.safetensors", "a.pt"):
        with pytest.raises(InputError, match="no such file"):
            load_lens(tmp_path / name)
        (tmp_path / name).write_bytes(b"nonsense")
        with pytest.raises(InputError, match=f"{name}: no lens"):
            load_lens(tmp_path / name)


def test_a_lens_that_does_not_fit_is_refused(make_model):
    model = make_model("neox")
    lens = identity(model)
    assert lens_of([identity(model, model="another"), lens], model) is lens
    with pytest.raises(InputError, match="expected one for neox, found 0 among those given"):
        lens_of(identity(model, model="another"), model)
    with pytest.raises(InputError, match="expected one for neox, found 2"):
        lens_of([lens, lens], model)
    with pytest.raises(InputError, match="made for a stream of 16 dimensions"):
        lens_of(identity(model, matrices=torch.zeros(6, 16, 16), biases=torch.zeros(6, 16)), model)
    with pytest.raises(InputError, match="expected 32 and fewer than 6"):
        lens_of(identity(model, sublayers=(0, 1, 2, 3, 4, 6)), model)


def test_too_little_to_train_on_is_said(make_model):
    with pytest.raises(InputError, match="1 texts of two tokens or more: expected at least two"):
        train_lens(make_model("neox"), ["Redefine pi", "x"])
    with pytest.raises(InputError, match="steps 0, tokens 4"):
        train_lens(make_model("neox"), TEXTS, steps=0, tokens=4)
