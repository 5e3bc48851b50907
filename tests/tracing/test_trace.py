"""Traces: they sum to the score, agree with TransformerLens, and do not depend on how prompts were run."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from small_models import make_hf, plain_logprobs

from isp_mech.errors import InputError
from isp_mech.inference.contrast_prompts import place_prompts
from isp_mech.models import load_model, wrap_model
from isp_mech.scaling.summaries import onsets
from isp_mech.scoring import score
from isp_mech.tasks import Pair, PairSet, compose
from isp_mech.tracing.trace import trace

KEY = ["pair", "side"]


def margins_of(pairs, model):
    frame = score(pairs, model).items.frame.rename(columns={"item": "pair"})
    return frame.set_index(KEY)["margin"]


def test_direct_effects_sum_to_the_margin_and_the_last_lens_row_is_it(model, pairs):
    found, margin = trace(pairs, model, tokens="all"), margins_of(pairs, model)
    total = found.effects.frame.groupby(KEY)["direct_effect"].sum()
    assert ((total - margin[total.index]).abs() / margin[total.index].abs().clip(lower=0.1)).max() < 1e-4
    last = found.lens.frame.groupby(KEY)["margin"].last()
    assert (last - margin[last.index]).abs().max() < 1e-5
    remainder = found.effects.frame.query("kind == 'remainder'")["direct_effect"].abs().max()
    if model.name == "gemma2":  # a soft cap is no linear map: what it bends stands apart, and is told when large
        assert remainder > 1e-4
    else:
        assert remainder < 1e-4 and not found.effects.run.notes


def test_at_the_first_token_that_differs_they_sum_to_the_difference_of_two_logits(some_model, pairs):
    found = trace(pairs, some_model)
    total = found.effects.frame.groupby(KEY)["direct_effect"].sum()
    last = found.lens.frame.groupby(KEY)["margin"].last()
    assert ((total - last).abs() / last.abs().clip(lower=0.1)).max() < 1e-4
    for prompt in place_prompts(some_model, pairs.take([0, 1, 2])).prompts:
        at = prompt.shared
        logits = plain_logprobs(some_model.hf, list(prompt.answer.tokens[:at]))[-1]
        want = float(logits[prompt.answer.tokens[at]] - logits[prompt.lure.tokens[at]])
        pair, side = prompt.owner.removesuffix(")").split(" (")
        assert last[pair, side] == pytest.approx(want, abs=1e-4)


def test_attention_sums_to_one_and_lies_where_the_text_is(model, pairs):
    frame = trace(pairs, model).attention.frame
    assert frame.groupby([*KEY, "layer", "head"])["weight"].sum().sub(1).abs().max() < 1e-5
    assert set(frame["role"]) == {"definition", "question", "other"}
    plain = frame[(frame["side"] == "plain") & (frame["role"] == "definition")]
    assert (plain["weight"] == 0).all()  # the plain prompt has no definition


@pytest.mark.parametrize("batch_size", [1, 5])
def test_batch_size_and_order_change_nothing(make_model, pairs, batch_size):
    model = make_model("opt")
    one, two = trace(pairs, model), trace(pairs.take([3, 1, 0, 2, 7, 5, 6, 4]), model, batch_size=batch_size)
    for name, value in (("lens", "margin"), ("attention", "weight"), ("effects", "direct_effect")):
        keys = [c for c in getattr(one, name).frame.columns if c not in (value, "effect")]
        a, b = (getattr(t, name).frame.sort_values(keys)[value].to_numpy() for t in (one, two))
        assert np.abs(a - b).max() < 1e-4, name


def test_transformer_lens_sees_the_same(tmp_path, tokenizer, pairs):
    """Residual stream, head outputs and attention patterns of a TransformerBridge, put together by hand."""
    make_hf("neox").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load_model(tmp_path, name="neox")
    pair = dataclasses.replace(pairs[0], answer="x", lure="y")
    one = trace(PairSet("one", (pair,)), model)
    ids = {c: tokenizer(pair.conflict.text + c).input_ids for c in (pair.answer, pair.lure)}
    shared = next(i for i, (a, b) in enumerate(zip(*ids.values(), strict=False)) if a != b)
    assert {len(v) for v in ids.values()} == {shared + 1}  # they part at their last token
    a, b = (v[shared] for v in ids.values())
    _, cache = model.bridge.run_with_cache(torch.tensor([ids[pair.answer][:shared]]))
    norm, head = model.hf.gpt_neox.final_layer_norm, model.hf.lm_head.weight
    direction = (head[a] - head[b]).detach()
    with torch.no_grad():
        lens = [float(norm(cache[f"blocks.{i}.hook_resid_pre"][0, -1]) @ direction) for i in range(3)]
        final = cache["blocks.2.hook_resid_post"][0, -1]
        lens.append(float(norm(final) @ direction))
        centred = direction * norm.weight - (direction * norm.weight).mean()
        scale = (final - final.mean()).square().mean().add(norm.eps).sqrt()
        direct = []
        for i in range(3):
            z = cache[f"blocks.{i}.attn.hook_z"][0, -1].reshape(4, 8)
            direct += [float(z[h] @ model.architecture.head_matrix(i)[h] @ centred / scale) for h in range(4)]
            direct.append(float(cache[f"blocks.{i}.hook_mlp_out"][0, -1] @ centred / scale))
        pattern = torch.stack([cache[f"blocks.{i}.attn.hook_pattern"][0, :, -1] for i in range(3)])
    ours = one.lens.frame.query("side == 'conflict' and sublayer != 'attn'")["margin"]
    assert ours.tolist() == pytest.approx(lens, abs=1e-4)
    effects = one.effects.frame.query("side == 'conflict' and kind in ('head', 'mlp')")["direct_effect"]
    assert effects.tolist() == pytest.approx(direct, abs=1e-4)
    spans = tokenizer(pair.conflict.text, return_offsets_mapping=True)["offset_mapping"]
    inside = torch.tensor([a < len("Redefine pi as 462. ") for a, _ in spans] + [False] * (shared - len(spans)))
    weights = one.attention.frame.query("side == 'conflict' and role == 'definition'")["weight"]
    assert weights.tolist() == pytest.approx(pattern[..., inside].sum(-1).flatten().tolist(), abs=1e-4)


def test_onset_is_where_the_margin_turns_for_good():
    """Worked by hand, three layers: depth of sublayer i is i / 6."""
    rows = np.array(
        [
            [1, 1, 1, -1, -1, -1, -1],  # turns at 3
            [1, -1, 1, 1, -1, 1, -1],  # turns at 1, 4, and for good at 6
            [1, 1, 1, 1, 1, 1, 1],  # never
            [-1, -1, -1, -1, -1, -1, -1],  # never was positive
            [0, -1, -1, -1, -1, -1, -1],  # zero is not positive
            [1, -1, -1, -1, -1, -1, 1],  # back at the end
        ],
        dtype=float,
    )
    assert onsets(rows) == pytest.approx([3 / 6, 1, np.nan, np.nan, np.nan, np.nan], nan_ok=True)


def test_tables_have_a_row_for_everything(make_model, pairs):
    found = trace(pairs, make_model("llama"))
    n = 2 * len(pairs)
    assert len(found.lens) == n * 7 and len(found.attention) == n * 12 * 3 and len(found.effects) == n * (15 + 3)
    lens = found.lens.frame.iloc[:7]
    assert lens["depth"].tolist() == pytest.approx([i / 6 for i in range(7)])
    assert lens["sublayer"].tolist() == ["embed", "attn", "mlp", "attn", "mlp", "attn", "mlp"]
    assert lens["layer"].tolist() == [-1, 0, 0, 1, 1, 2, 2]


def test_without_custom_masks_the_first_token_that_differs_is_traced(tokenizer):
    model = wrap_model(make_hf("gpt-neo"), tokenizer, name="neo")
    question = [("Q: What is it? A:", "question")]
    conflict = compose([("Redefine pi as x. ", "definition"), *question])
    single = PairSet("t", (Pair("p0", compose(question), conflict, "x", "y", "definition"),))
    found = trace(single, model)
    total = found.effects.frame.groupby(KEY)["direct_effect"].sum()
    margin = margins_of(single, model)
    assert (total - margin[total.index]).abs().max() < 1e-4
    assert any("prompts were run one by one" in note for note in found.lens.run.notes)
    weights = found.attention.frame.groupby([*KEY, "layer", "head"])["weight"].sum()
    assert len(weights) == 2 * 2 * 4 and weights.to_numpy() == pytest.approx(1, abs=1e-5)
    several = PairSet("t", (Pair("p0", compose(question), conflict, "xq", "yz", "definition"),))
    assert trace(several, model).lens.frame["margin"].tolist() == found.lens.frame["margin"].tolist()
    with pytest.raises(InputError, match="tokens 'all' needs custom attention masks: expected 'first'"):
        trace(several, model, tokens="all")
