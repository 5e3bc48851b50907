"""A real model from its file to its numbers: SmolLM2-135M-Instruct on memo-trap, against plain transformers with hooks
of the tests' own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from real_models import output_changed, plain_logprobs_of, plain_smollm2, smollm2_file

import isp_mech as im
from isp_mech.weight_files import read_gguf_header

N_PAIRS = 2


@pytest.fixture(scope="module")
def model():
    return im.load_model(smollm2_file(), name="smollm2")


@pytest.fixture(scope="module")
def plain(model):
    return plain_smollm2()


@pytest.fixture(scope="module")
def pairs():
    return im.contrast("memo-trap", n=N_PAIRS, seed=0)


@pytest.fixture(scope="module")
def placed(plain, pairs):
    """By pair and side: the tokens of prompt and answer, of prompt and lure, and where these begin to differ."""
    _, tokenizer = plain
    out = {}
    for pair in pairs:
        for side in ("conflict", "plain"):
            text = getattr(pair, side).text
            n = len(tokenizer(text).input_ids)
            both = [tokenizer(text + completion).input_ids for completion in (pair.answer, pair.lure)]
            assert all(ids[:n] == tokenizer(text).input_ids for ids in both)
            first = next(i for i, (a, b) in enumerate(zip(*both, strict=False)) if a != b)
            out[pair.id, side] = (*both, n, first)
    return out


def margin(plain, answer, lure, start) -> float:
    return float(plain_logprobs_of(plain, answer, start).sum() - plain_logprobs_of(plain, lure, start).sum())


def test_the_weights_are_those_of_the_file(model):
    """Dequantised here, block by block, from the bytes of the file."""
    from gguf import GGMLQuantizationType, quants

    header, data = read_gguf_header(smollm2_file()), np.memmap(smollm2_file(), mode="r")
    names = {"blk.7.ffn_down.weight": "model.layers.7.mlp.down_proj.weight", "output_norm.weight": "model.norm.weight"}
    for name, ours in names.items():
        tensor, begin = header.tensors[name], header.begins[name]
        n_bytes = tensor.n_elements // 32 * 20 if tensor.kind == "Q4_1" else tensor.n_elements * 4
        rows = data[begin : begin + n_bytes].reshape(*tensor.shape[:-1], -1)
        values = quants.dequantize(rows, GGMLQuantizationType[tensor.kind])
        assert torch.equal(model.hf.get_parameter(ours).detach(), torch.from_numpy(values.reshape(tensor.shape).copy()))


def test_what_is_said_of_it(model):
    assert model.n_params == 106_203_456 == im.family("smollm2").members[0].n_params
    assert model.added.before == () == model.added.after
    assert model.tokenizer.chat_template.startswith("{% for message in messages %}")
    (note,) = model.notes
    assert note.startswith(
        "smollm2: weights from a GGUF file were 4-bit (Q4_1) and are dequantised to float32: Q4_1 79%"
    )


def test_digits_are_tokens_of_their_own(model):
    """As llama.cpp's rule for SmolLM splits: two spaces before a number are one token."""
    ids = model.encode(["in  1924 it"])[0].ids
    assert model.tokenizer.convert_ids_to_tokens(ids) == ["in", "ĠĠ", "1", "9", "2", "4", "Ġit"]


def test_scores(model, plain, pairs, placed):
    scores = im.score(pairs, model)
    found = scores.scores.frame.set_index(["item", "side", "class_text"])["logprob"]
    for (pair, side), (answer, lure, n, _) in placed.items():
        texts = next(p for p in pairs if p.id == pair)
        assert found[pair, side, texts.answer] == pytest.approx(plain_logprobs_of(plain[0], answer, n).sum(), abs=1e-4)
        assert found[pair, side, texts.lure] == pytest.approx(plain_logprobs_of(plain[0], lure, n).sum(), abs=1e-4)
    assert any("4-bit (Q4_1)" in note for note in scores.scores.run.notes)


def test_traces(model, plain, pairs, placed):
    """The lens after a middle layer and after the last one, at the first token in which the completions differ."""
    lens = im.trace(pairs, model).lens.frame.set_index(["pair", "side", "layer", "sublayer"])["margin"]
    for (pair, side), (answer, lure, _, first) in placed.items():
        with torch.no_grad():
            out = plain[0](torch.tensor([answer[:first]]), output_hidden_states=True)
            middle = plain[0].lm_head(plain[0].model.norm(out.hidden_states[16][0, -1]))
        for layer, logits in ((15, middle), (29, out.logits[0, -1])):
            want = float(logits[answer[first]] - logits[lure[first]])
            assert lens[pair, side, layer, "mlp"] == pytest.approx(want, abs=2e-4), (pair, side, layer)


def test_effects(model, plain, pairs, placed):
    """Zero in place of a site at the decision position, the site with the largest effect and some others: of those
    measured exactly over all tokens of both completions, of the others at the first one in which these differ."""
    located = im.locate(pairs, model, replacement="zero")
    effects, sites = located.effects.frame, located.sites.frame
    assert effects.groupby("pair").size().eq(30 * 10).all()
    largest = sites.loc[sites["effect"].abs().idxmax()]
    assert largest["measured"] == "exact"
    chosen = [sites[sites["measured"] == measured].iloc[0] for measured in sites["measured"].unique()]
    for site in (largest, *chosen):
        layer, is_head = int(site["layer"]), site["kind"] == "head"
        name = f"a{layer}.h{site['head']}" if is_head else f"m{layer}"
        for pair in pairs:
            answer, lure, _, first = placed[pair.id, "conflict"]
            ends = (answer, lure) if site["measured"] == "exact" else (answer[: first + 1], lure[: first + 1])
            of_pair = effects[(effects["pair"] == pair.id) & (effects["layer"] == layer)]
            rows = of_pair[of_pair["head"] == site["head"] if is_head else of_pair["head"].isna()]
            whole = margin(plain[0], *ends, first)
            with output_changed(plain[0], name, first - 1, torch.zeros_like):
                without = margin(plain[0], *ends, first)
            assert rows["effect"].tolist() == pytest.approx([whole - without], abs=3e-4), (pair.id, name)


def test_scaling(model, plain, pairs, placed):
    found = im.causal.scale_sites("m20", pairs, model, alphas=(0.5,)).frame.set_index("side")["margin"]
    for side in ("conflict", "plain"):
        want = []
        for pair in pairs:
            answer, lure, _, first = placed[pair.id, side]
            with output_changed(plain[0], "m20", first - 1, lambda output: 0.5 * output):
                want.append(margin(plain[0], answer, lure, first))
        assert found[side] == pytest.approx(np.mean(want), abs=2e-4)
