"""One architecture of each kind against plain transformers; experiments/architectures.py has all of them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from isp_mech.models.parts import fit

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
ALL = {"scores", "lens", "direct effects", "attention", "total effects"}
# by architecture, what is not defined on it, and a part of the reason
SWEPT = {
    "GraniteForCausalLM": {},  # sublayers' writes times a factor
    "DeepseekV3ForCausalLM": {},  # values narrower than keys, experts
    "GptOssForCausalLM": {},  # a sink in each head's attention, windows
    "Llama4ForCausalLM": {},  # attention in chunks, layers without positions
    "BitNetForCausalLM": {},  # a norm between heads and their projection
    "Gemma3ForConditionalGeneration": {},  # the language model inside a model of images
    "Qwen2_5_VLForConditionalGeneration": {},  # one that has no class of text alone
    "FalconForCausalLM": {},  # attention of its own
    "GPTNeoForCausalLM": {},  # and windows of its own: prompts one by one
    "Phi3ForCausalLM:longrope-and-short": {},  # positions that depend on a text's length, some beyond its limit
    "LlamaForCausalLM:dynamic": {},
    "OPTForCausalLM:norms-after": dict.fromkeys(("lens", "direct effects"), "norms stand after its sublayers"),
    "Lfm2ForCausalLM": dict.fromkeys(("direct effects", "total effects"), "a block has no attention (Lfm2ShortConv)"),
    "MambaForCausalLM": dict.fromkeys(ALL - {"scores"}, "a block adds MambaMixer to the residual stream"),
}


@pytest.fixture(scope="module")
def sweep():
    sys.path.insert(0, str(EXPERIMENTS))
    try:
        spec = importlib.util.spec_from_file_location("architectures", EXPERIMENTS / "architectures.py")
        script = importlib.util.module_from_spec(spec)
        sys.modules["architectures"] = script  # dataclasses look there
        spec.loader.exec_module(script)
        yield script
    finally:
        sys.path.remove(str(EXPERIMENTS))
        sys.modules.pop("architectures", None)


@pytest.mark.parametrize("name", SWEPT)
def test_it_is_right_or_refused_by_name(sweep, name):
    row = sweep.measure(name, sweep.make_pairs())
    assert not row.broken and not row.wrong
    assert set(row.gaps) == ALL - set(SWEPT[name])
    assert max(row.gaps.values()) < 1e-4
    for what, reason in SWEPT[name].items():
        assert name.replace(":", "-") in row.refused[what] and reason in row.refused[what]


def test_factors_are_found_where_parts_sum_and_nowhere_else():
    torch.manual_seed(0)
    x, a, b = torch.randn(3, 7, 16).unbind()
    y = x + 0.4 * a - 2 * b
    assert fit(y - x, [a, b], y) == pytest.approx([0.4, -2])
    assert fit(y - x + 1e-2 * torch.randn(7, 16), [a, b], y) is None
    assert fit(x + a - x, [a, torch.zeros_like(b)], x + a)[0] == 1.0  # exactly, whatever rounding leaves
    assert fit(nn.LayerNorm(16)(x + a) - x, [a, b], y) is None
