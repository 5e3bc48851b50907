"""With ISP_MECH_PLAIN=1 every fast path is off, and every number is the same."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from small_models import byte_tokenizer, make_hf

import isp_mech as im
from isp_mech import causal
from isp_mech.models import model, prefix_attention, rotary, wrap_model
from isp_mech.tasks import Item, Task


def measured(pairs, of):
    """Every table of scores, traces, sites and interventions."""
    items = tuple(Item(str(i), f"{'Redefine pi as 462. ' * 9}Q: {i} A:", (" 4", " pango part"), 0) for i in range(6))
    scores, traces = im.score(Task("t", items), of), im.trace(pairs, of)
    exact, quick = im.locate(pairs, of), im.locate(pairs, of, method="attribution")
    knocked_out = causal.knock_out(pairs, of, roles=["definition"])
    tables = [scores.scores, traces.lens, traces.attention, traces.effects, exact.sites, quick.sites, knocked_out]
    return [table.frame for table in tables]


@pytest.mark.parametrize("architecture", ["neox", "gemma2", "bloom"])
def test_the_plain_way_gives_the_same_numbers(architecture, pairs, monkeypatch):
    pairs = dataclasses.replace(pairs, pairs=pairs.pairs[:4])
    of = wrap_model(make_hf(architecture), byte_tokenizer(), name="m")
    fast = measured(pairs, of)
    monkeypatch.setenv("ISP_MECH_PLAIN", "1")
    for one, other in zip(fast, measured(pairs, of), strict=True):
        assert len(one) and one.columns.equals(other.columns) and len(one) == len(other)
        for name in one.select_dtypes("number").columns.difference(["p", "q"]):  # of an effect of 0, rounding decides
            np.testing.assert_allclose(one[name], other[name], atol=1e-4, rtol=1e-4, err_msg=name)


def test_no_fast_path_is_taken_the_plain_way(pairs, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a fast path was taken")

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    of = wrap_model(make_hf("neox"), byte_tokenizer(), name="m")
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", refuse)
    for module, name in ((model, "select_tokens"), (rotary, "rotate"), (prefix_attention, "FUSED")):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr("threading.Thread.start", refuse)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(AssertionError, match="a fast path was taken"):
        im.trace(pairs, of)
    monkeypatch.setenv("ISP_MECH_PLAIN", "1")
    measured(pairs, of)
