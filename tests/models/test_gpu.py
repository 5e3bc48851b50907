"""On a GPU: the CPU's numbers, and nothing for the host to wait for within a forward's layers.

Where there is no GPU, a pretend one shows the second; the tests marked ``gpu`` need a real one.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pretend_gpu import PretendGpu, on_pretend_gpu, tensor_by_way_of_here, told_within
from small_models import byte_tokenizer, make_hf

import isp_mech as im
from isp_mech import causal
from isp_mech.inference.batches import plan_batches
from isp_mech.models import prefix_attention, wrap_model
from isp_mech.tasks import Item, Task

ARCHITECTURES = ("neox", "gemma2", "bloom")
needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is available here")]
SHARED = tuple(Item(str(i), f"{'Redefine pi as 462. ' * 12}Q: {i} A:", (" 4", " pango part"), 0) for i in range(7))
INTERVENTIONS = [
    "scale(a1.h1 m1; alpha=0.5; at=onward)",
    "block(definition; layers=1; heads=0,2)",
    "reweight(definition; factor=2.0; layers=all; heads=1)",
    "steer(r1; vector=conflict-plain; alpha=1.0; at=decision)",
    "swap(r1; subspace=conflict-plain; at=decision)",
    "replay(a1.h1 m2; alpha=1.0; at=definition)",
]
MEASURED = {
    "score": lambda pairs, of: [im.score(Task("t", SHARED), of).scores],
    "trace": lambda pairs, of: list(vars(im.trace(pairs, of, tokens="all")).values()),
    "locate": lambda pairs, of: [im.locate(pairs, of).sites, im.locate(pairs, of, positions="definition").sites],
    "gradients": lambda pairs, of: [im.locate(pairs, of, method="integrated").sites],
    "interventions": lambda pairs, of: [causal.intervene(INTERVENTIONS, pairs, of)],
}


@pytest.fixture(scope="module")
def few(pairs):
    return replace(pairs, pairs=pairs.pairs[1:3])


def expect_same(ours, theirs, *, atol=1e-4):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert len(one.frame) and len(one.frame) == len(other.frame)
        for name in one.frame.select_dtypes("number").columns.difference(["p", "q"]):  # of an effect of 0, rounding
            np.testing.assert_allclose(one.frame[name], other.frame[name], atol=atol, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("what", MEASURED)
@pytest.mark.parametrize(
    "architecture", ["neox", *(pytest.param(a, marks=pytest.mark.slow) for a in ARCHITECTURES[1:])]
)
def test_no_layer_makes_the_host_wait(make_model, few, monkeypatch, architecture, what):
    model = make_model(architecture)
    here = MEASURED[what](few, model)
    monkeypatch.setattr(torch, "tensor", tensor_by_way_of_here)
    there, gpu = on_pretend_gpu(model), PretendGpu()
    blocks = there.architecture.blocks
    with told_within(blocks[0].block, blocks[-1].block, gpu) as forwards, gpu:
        expect_same(MEASURED[what](few, there), here)
    assert forwards and gpu.told  # prompts are carried there before, margins back afterwards
    assert [told for told in forwards if told] == []


def test_the_pretend_gpu_tells(monkeypatch):
    monkeypatch.setattr(torch, "tensor", tensor_by_way_of_here)
    with PretendGpu() as gpu:
        x = torch.tensor([3.0, 0.0, 5.0], device="meta")
        assert len(gpu.told) == 1  # carried there
        assert (x + x).cpu().tolist() == [6.0, 0.0, 10.0] and len(gpu.told) == 2
        assert bool((x[torch.tensor([1], device="meta")] == 0).all()) and len(gpu.told) == 4
        assert len(x[x > 0]) == 2 and len(gpu.told) > 4
        with pytest.raises(RuntimeError, match="expected all tensors on one device"):
            _ = x + torch.ones(3)


def gpu_kernel(query, key, value, mask, log_sum_exps, *, scale):
    """What a GPU's kernel gives, written out, and what it asks of its mask."""
    assert log_sum_exps
    scores = (query @ key.mT).float() * scale
    if mask is not None:
        assert mask.dtype == query.dtype and mask.shape == scores.shape
        assert mask.stride(-1) == 1 and all(stride % 16 == 0 for stride in mask.stride()[:-1])
        assert bool((mask.float() * math.log2(math.e)).isfinite().all())  # it reckons in powers of 2
        scores = scores + mask.float()
    filled = torch.full((*query.shape[:2], -(-query.shape[2] // 32) * 32), torch.nan)
    filled[..., : query.shape[2]] = scores.logsumexp(-1)
    return scores.softmax(-1).to(value.dtype) @ value, filled, None, None


@pytest.mark.parametrize("what", ["score", "locate", "interventions"])
@pytest.mark.parametrize("architecture", ["neox", pytest.param("llama", marks=pytest.mark.slow)])
def test_a_gpus_kernel_is_given_what_it_asks_for(make_model, few, monkeypatch, architecture, what):
    model, calls = make_model(architecture), []
    here = MEASURED[what](few, model)

    def counted(*args, **kwargs):
        calls.append(args)
        return gpu_kernel(*args, **kwargs)

    monkeypatch.setattr(prefix_attention, "GPU_KERNEL", counted)
    monkeypatch.setattr(prefix_attention, "FUSED", {"cpu": prefix_attention.on_gpu})
    expect_same(MEASURED[what](few, model), here)
    assert calls


def test_a_gpus_kernel_has_the_arguments_that_it_is_given():
    """On torch's "meta", which knows the kernel's shapes."""
    query, key, value = (torch.empty(2, 4, n, 64, device="meta", dtype=torch.bfloat16) for n in (33, 21, 21))
    mask = torch.empty(2, 1, 1, 21, device="meta", dtype=torch.bfloat16)
    out, total = prefix_attention.on_gpu(query, key, value, mask, 0.125)
    assert out.shape == query.shape and out.dtype == query.dtype
    assert total.shape == (2, 4, 33) and total.dtype == torch.float32


def test_forwards_that_keep_keys_are_planned_with_them(monkeypatch):
    """4 layers of 4 heads of 8 numbers: 3 x 4 x 32 x 4 bytes a token for keys and values, and queries beside them."""
    model = wrap_model(make_hf("neox", layers=4), byte_tokenizer(), name="m")
    each = 4 * (8 * 32 + 6 * 32 + 3 * 64)
    monkeypatch.setattr("isp_mech.models.loading.free_bytes", lambda device: 2 * 100 * (each + 1536))
    plan = plan_batches(model)
    assert plan.keeping == 100 and plan.tokens == 100 * (each + 1536) // each
    assert plan.fit(10, keeping=True) == 10 and plan.fit(10) == plan.tokens // 10
    plan.tokens = 60  # memory ran out
    assert plan.keeping == 60


@pytest.mark.parametrize("what", [pytest.param(what, marks=needs_gpu) for what in MEASURED])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_gpu_gives_the_cpus_numbers(make_model, few, architecture, what):
    model = make_model(architecture)
    there = wrap_model(make_hf(architecture), byte_tokenizer(), name=architecture, device="cuda")
    shape = there.architecture
    assert (shape.accepts_custom_masks, shape.accepts_trees, shape.selects_tokens) == (True, True, True)
    expect_same(MEASURED[what](few, there), MEASURED[what](few, model), atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is available here")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 7, 48])
def test_a_gpus_kernel_attends_as_written_out(monkeypatch, dtype, n):
    """Queries that see nothing of the prefix too."""
    torch.manual_seed(n)
    query, key, value = (torch.randn(2, 4, m, 64, device="cuda", dtype=dtype) for m in (3 * n, 3 * n, 3 * n))
    cached = tuple(torch.randn(2, 4, 21, 64, device="cuda", dtype=dtype) for _ in range(2))
    far = torch.arange(21, device="cuda") < torch.tensor([[21], [0]], device="cuda")
    near = torch.ones(2, 1, n, n, dtype=torch.bool, device="cuda").tril()
    given = (query, key, value, cached, far[:, None], near, 0.125, None)
    with torch.no_grad():
        fused = prefix_attention.attend_over_prefix(*given)
        monkeypatch.setenv("ISP_MECH_PLAIN", "1")
        written = prefix_attention.attend_over_prefix(*given)
    assert torch.allclose(fused, written, atol=1e-5 if dtype == torch.float32 else 2e-2)
