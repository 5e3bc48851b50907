"""What must not matter to a trace does not: where the padding is, what the mask is made of, how heads are numbered."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from small_models import HEAD_ORDER, heads_permuted, make_hf

from isp_mech.inference.batches import chains, make_batch, plan_batches
from isp_mech.inference.contrast_prompts import batch_terms, place_prompts
from isp_mech.inference.logprobs import prefill
from isp_mech.inference.prefix_tree import PrefixTree
from isp_mech.inference.tokenization import role_names
from isp_mech.models import Batch, RecordSpec, TokenPlaces, alibi, wrap_model
from isp_mech.tracing.trace import trace

VALUES = (("lens", "margin"), ("attention", "weight"), ("effects", "direct_effect"))


def largest_gaps(one, two):
    gaps = {}
    for name, value in VALUES:
        a, b = getattr(one, name).frame, getattr(two, name).frame
        keys = [c for c in a.columns if c not in (value, "effect", "model")]
        a, b = (frame.sort_values(keys)[value].to_numpy() for frame in (a, b))
        gaps[name] = np.abs(a - b).max() if len(a) else 0.0
    return gaps


def some_trees():
    trunk = list(range(7, 47, 2))
    trees = [PrefixTree(), PrefixTree()]
    ends = [trees[0].extend([*trunk, *end])[-1] for end in ([5, 6], [8], [5, 9, 2])]
    ends.append(trees[1].extend(trunk[:15])[-1])
    return make_batch(trees), torch.tensor([0, 0, 0, 1]), torch.tensor(ends)


def test_the_last_layer_at_few_tokens_gives_what_it_gives_at_all(model):
    batch, rows, nodes = some_trees()
    roles = torch.rand(len(rows), batch.ids.shape[1], 3, generator=torch.Generator().manual_seed(0))
    spec = RecordSpec(rows, nodes, rows, nodes, roles)
    calls = []
    handle = model.architecture.blocks[-1].attn_out.register_forward_pre_hook(
        lambda module, args: calls.append(args[0])
    )
    try:
        everywhere = model.forward(batch, record=spec)
        hidden, whole = everywhere.hidden, everywhere.record
        selected = model.forward(batch, at=TokenPlaces(rows, nodes), record=spec)
        few, record = selected.hidden, selected.record
    finally:
        handle.remove()
    sizes = [x.numel() // x.shape[-1] for x in calls]
    assert sizes == [batch.ids.numel(), 2 * 3]  # two rows, in one of which three tokens are wanted
    assert torch.allclose(few, hidden[rows, nodes], atol=1e-5)
    for name in ("resid", "heads", "attn", "mlp", "attention"):
        a, b = getattr(whole, name), getattr(record, name)
        assert len(a) == len(b) == 3
        assert all(torch.allclose(x, y, atol=1e-5) for x, y in zip(a, b, strict=True)), name
    assert torch.allclose(whole.final, record.final, atol=1e-5)


def test_keys_and_values_are_had_without_the_rest_of_the_last_layer(model):
    nothing = torch.zeros(0, dtype=torch.long)
    spec = RecordSpec(nothing, nothing, keys=True)
    batch = chains([range(7, 30, 2), range(8, 48, 2)])
    whole = model.forward(batch, record=spec).record
    selected = model.forward(batch, at=TokenPlaces(nothing, nothing), record=spec)
    normed, some = selected.hidden, selected.record
    assert len(some.keys) == len(whole.keys) == model.architecture.n_layers and len(normed) == 0
    for a, b in zip([*some.keys, *some.values], [*whole.keys, *whole.values], strict=True):
        assert torch.equal(a, b)


def test_copies_at_few_tokens_give_what_they_give_at_all(model):
    trunks, t = [range(7, 31, 2), range(8, 48, 2)], 5
    copy = PrefixTree()
    copy.extend([5, 6, 9])
    copy.extend([5, 8, 2])
    ids = torch.tensor([[*copy.tokens, *reversed(copy.tokens)]] * 2)
    depth = torch.tensor([copy.depths * 2]) + torch.tensor([[len(tokens)] for tokens in trunks])
    own = torch.from_numpy(copy.visible())[None, None].expand(2, 2, -1, -1)
    trunk = dataclasses.replace(prefill(model, trunks), visible_within=own)
    rows, nodes = torch.tensor([0, 0, 0, 1]), torch.tensor([2, 4, 8, 5])
    widths = []
    handle = model.architecture.blocks[-1].attn_out.register_forward_pre_hook(
        lambda module, args: widths.append(args[0])
    )
    try:
        whole = model.forward(Batch(ids, depth), prefix=trunk).hidden
        few = model.forward(Batch(ids, depth), prefix=trunk, at=TokenPlaces(rows, nodes)).hidden
    finally:
        handle.remove()
    assert [x.numel() // x.shape[-1] for x in widths] == [2 * 2 * t, 2 * 2 * 2]  # two tokens of one copy are wanted
    assert torch.allclose(few, whole[rows, nodes], atol=1e-5)


def test_padding_may_stand_on_either_side(model):
    short, long = list(range(7, 30, 2)), list(range(8, 48, 2))
    n, m = len(long), len(long) - len(short)
    ids = torch.tensor([long, [0] * m + short])
    depth = torch.tensor([list(range(n)), [0] * m + list(range(n - m))])
    visible = torch.ones(2, n, n).tril().bool()
    visible[1, :, :m] = False
    visible |= torch.eye(n, dtype=torch.bool)
    at = torch.tensor([0, 1]), torch.tensor([n - 1, n - 1])
    roles = torch.zeros(2, n, 2)
    roles[:, : n - 3, 0] = roles[:, n - 3 :, 1] = 1
    left = model.forward(Batch(ids, depth, visible), at=TokenPlaces(*at), record=RecordSpec(*at, *at, roles))
    trees = [PrefixTree(), PrefixTree()]
    for tree, tokens in zip(trees, (long, short), strict=True):
        tree.extend(tokens)
    at = torch.tensor([0, 1]), torch.tensor([n - 1, n - m - 1])
    roles[1] = roles[1].roll(-m, 0)
    right = model.forward(make_batch(trees), at=TokenPlaces(*at), record=RecordSpec(*at, *at, roles))
    seen, want = left.record, right.record
    assert torch.allclose(left.hidden, right.hidden, atol=1e-4)
    for a, b in zip([*seen.attention, *seen.heads], [*want.attention, *want.heads], strict=True):
        assert torch.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("architecture", ["neox", "mistral", "gemma2", "bloom"])
def test_the_masks_dtype_does_not_matter(make_model, pairs, monkeypatch, architecture):
    model = make_model(architecture)
    plain = trace(pairs, model)

    def of_bool(batch, dtype):
        return None if batch.visible is None else batch.visible[:, None]

    monkeypatch.setattr("isp_mech.models.model.attention_mask", of_bool)
    monkeypatch.setattr(alibi, "attention_mask", of_bool)
    assert max(largest_gaps(plain, trace(pairs, model)).values()) < 1e-4


def test_without_packing_the_traces_are_the_same(make_model, tokenizer, pairs):
    single = [
        dataclasses.replace(p, answer=a, lure=b) for p, (a, b) in zip(pairs, [("x", "y")] * len(pairs), strict=True)
    ]
    some = dataclasses.replace(pairs, pairs=tuple(single))
    for name in ("neox", "opt"):
        model = make_model(name)
        alone = dataclasses.replace(
            model, architecture=dataclasses.replace(model.architecture, accepts_custom_masks=False, accepts_trees=False)
        )
        packed, apart = trace(some, model), trace(some, alone)
        gaps = [np.abs(getattr(packed, t).frame[v] - getattr(apart, t).frame[v]).max() for t, v in VALUES]
        assert max(gaps) < 1e-4


def test_permuting_heads_permutes_the_traces(tokenizer, pairs):
    hf = heads_permuted()
    before = trace(pairs, wrap_model(make_hf("opt"), tokenizer, name="opt"))
    after = trace(pairs, wrap_model(hf, tokenizer, name="opt"))
    for name in ("attention", "effects"):
        frame = getattr(after, name).frame
        moved = (frame["layer"] == 1) & frame["head"].notna()
        back = frame["head"].copy()
        back[moved] = frame["head"][moved].map(dict(enumerate(HEAD_ORDER)))
        object.__setattr__(getattr(after, name), "frame", frame.assign(head=back))
    assert max(largest_gaps(before, after).values()) < 1e-4


def test_a_block_of_zeros_shifts_the_traces(tokenizer, pairs):
    hf, longer = make_hf("neox-serial"), make_hf("neox-serial", layers=4)
    own, more = hf.gpt_neox, longer.gpt_neox
    with torch.no_grad():
        for old, new in ((0, 0), (1, 2), (2, 3)):
            more.layers[new].load_state_dict(own.layers[old].state_dict())
        for part in (more.layers[1].attention.dense, more.layers[1].mlp.dense_4h_to_h):
            part.weight.zero_()
            part.bias.zero_()
        for name in ("embed_in", "final_layer_norm"):
            getattr(more, name).load_state_dict(getattr(own, name).state_dict())
        longer.lm_head.load_state_dict(hf.lm_head.state_dict())
    before = trace(pairs, wrap_model(hf, tokenizer, name="m"))
    after = trace(pairs, wrap_model(longer, tokenizer, name="m"))
    new = after.effects.frame
    assert new.loc[new["layer"] == 1, "direct_effect"].abs().max() == 0
    for table, value in VALUES:
        frame = getattr(after, table).frame
        frame = frame[frame["layer"] != 1]
        shifted = frame.assign(layer=frame["layer"].where(frame["layer"] < 1, frame["layer"] - 1))
        keys = [c for c in shifted.columns if c not in (value, "effect", "n_params", "depth")]
        a, b = (f.sort_values(keys)[value].to_numpy() for f in (getattr(before, table).frame, shifted))
        assert np.abs(a - b).max() < 1e-4, table


def test_every_token_has_one_role(make_model, pairs):
    model = make_model("llama")
    placed = place_prompts(model, pairs)
    names = role_names([prompt.prompt for prompt in placed.prompts])

    def check(rows, batch):
        spec = batch_terms(model, placed, rows, batch, names).record
        assert spec.query_rows is not None and spec.query_nodes is not None and spec.roles is not None
        seen = batch.seen_from(spec.query_rows, spec.query_nodes)
        assert torch.equal(spec.roles.sum(-1)[seen], torch.ones(int(seen.sum())))
        checked.extend(rows)

    checked = []
    plan_batches(model, 3).run_trees(placed.trees, check)
    assert sorted(checked) == list(range(len(placed.trees)))
