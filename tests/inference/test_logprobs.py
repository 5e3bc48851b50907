"""How prompts are run: shared prefixes, memory that runs out, half precision, models of every kind of attention."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from many_queries import queries, short_of_memory
from small_models import VOCABULARY, byte_tokenizer, make_hf, plain_logprobs

from isp_mech.inference.batches import BatchPlan, plan_batches
from isp_mech.inference.logprobs import completion_logprobs, groups_for
from isp_mech.inference.prefix_tree import CompletionTokens, group_by_prefix
from isp_mech.models import Model, memory, plan_tokens, wrap_model
from isp_mech.scoring import score
from isp_mech.tasks import Item, Task


def one_by_one(model, groups: list[list[CompletionTokens]]) -> np.ndarray:
    out = []
    for asked in (completion for group in groups for completion in group):
        logp = plain_logprobs(model, list(asked.tokens))
        out.append(sum(float(logp[i - 1, asked.tokens[i]]) for i in range(asked.start, len(asked.tokens))))
    return np.array(out)


def packed(model, groups: list[list[CompletionTokens]], plan: BatchPlan | None = None) -> np.ndarray:
    return completion_logprobs(groups_for(model, groups), plan or plan_batches(model))


def test_prefixes_change_nothing(model):
    """60 tokens are shared, more than the sliding windows of 12: a tree may see nothing of its prefix."""
    groups = queries(14, 60)
    assert any(group.prefix for group in group_by_prefix(groups))
    want = one_by_one(make_hf(model.name), groups)
    for batch_size in ("auto", 1, 5):
        assert np.abs(packed(model, groups, plan_batches(model, batch_size)) - want).max() < 2e-4


LENGTHS = {
    "longrope": {"short_factor": [1.0] * 4, "long_factor": [1.0, 1.5, 2.0, 4.0], "factor": 16.0},
    "dynamic": {"factor": 4.0},
}


@pytest.mark.parametrize("kind", LENGTHS)
@given(st.lists(st.integers(2, 60), min_size=1, max_size=6), st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_positions_go_by_the_length_of_the_text_itself(kind, lengths, seed):
    """transformers looks at the longest row of a batch, and at texts before: here each is as in a fresh model."""
    torch.manual_seed(0)
    rope = {"rope_type": kind, "rope_theta": 1e4, "original_max_position_embeddings": 20, **LENGTHS[kind]}
    config = hf.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=200 if kind == "longrope" else 20,
        rope_parameters=rope,
    )
    made = hf.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    rng = np.random.default_rng(seed)
    shared = rng.integers(0, VOCABULARY, 60).tolist()
    items = []
    for n in lengths:
        ends = [rng.integers(0, VOCABULARY, k).tolist() for k in (1, 3)]
        items.append([CompletionTokens((*shared[:n], *end), n) for end in ends])
    want = np.concatenate([one_by_one(copy.deepcopy(made), [[query]]) for item in items for query in item])
    ours = wrap_model(made, byte_tokenizer(), name=kind)
    assert np.abs(packed(ours, items) - want).max() < 1e-4
    assert np.abs(packed(ours, items, plan_batches(ours, 2)) - want).max() < 1e-4


def more(name: str):
    """Decoders whose attention is their own: ALiBi, rotary and learned positions, local windows."""
    torch.manual_seed(0)
    shape = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    made = {
        "bloom": lambda: hf.BloomForCausalLM(
            hf.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=3, n_head=4)
        ),
        "bloom-6": lambda: hf.BloomForCausalLM(
            hf.BloomConfig(vocab_size=VOCABULARY, hidden_size=48, n_layer=2, n_head=6)
        ),
        "mpt": lambda: hf.MptForCausalLM(
            hf.MptConfig(vocab_size=VOCABULARY, d_model=32, n_layers=3, n_heads=4, max_seq_len=256)
        ),
        "falcon": lambda: hf.FalconForCausalLM(hf.FalconConfig(**shape, alibi=False)),
        "falcon-alibi": lambda: hf.FalconForCausalLM(
            hf.FalconConfig(**shape, alibi=True, new_decoder_architecture=False)
        ),
        "gptj": lambda: hf.GPTJForCausalLM(
            hf.GPTJConfig(vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, n_positions=256, rotary_dim=4)
        ),
        "gpt-neo": lambda: make_hf("gpt-neo"),
    }[name]()
    if name != "gpt-neo":
        with torch.no_grad():
            for key, parameter in made.named_parameters():
                is_gain = key.endswith("weight") and ("norm" in key or "ln_" in key)
                parameter.copy_(torch.randn_like(parameter) * 0.25 + float(is_gain))
    return made.eval()


@pytest.mark.parametrize(
    ("name", "trees"),
    [("bloom", True), ("bloom-6", True), ("falcon", True), ("gptj", True)]
    + [("mpt", False), ("falcon-alibi", False), ("gpt-neo", False)],
)
def test_models_with_an_attention_of_their_own_are_packed_only_where_that_is_right(name, trees, tokenizer):
    model = wrap_model(more(name), tokenizer, name=name)
    ours = name.startswith("bloom")  # our attention stands in for its own
    assert model.accepts_custom_masks == ours and model.accepts_trees == trees
    groups = queries(6, 30)
    assert np.abs(packed(model, groups) - one_by_one(more(name), groups)).max() < 2e-4
    run = score(Task("t", (Item("0", "Q: A:", (" 4", " pango part"), 0),)), model).scores.run
    expected = "trees after shared trunks" if ours else "trees" if trees else "plain batches"
    assert run.settings["packing"] == expected
    assert any("its attention does not accept custom masks" in note for note in run.notes) != trees


@pytest.mark.parametrize("batch_size", ["auto", 64])
@pytest.mark.parametrize("shots", [0, 60])
def test_when_memory_runs_out_batches_are_halved_and_nothing_is_lost(make_model, monkeypatch, shots, batch_size):
    model, groups = make_model("neox"), queries(40, shots, own=30)
    want, plan = packed(model, groups), plan_batches(model, batch_size)
    done = short_of_memory(monkeypatch, 150)
    found = packed(model, groups, plan)
    assert np.abs(found - want).max() < 1e-4 and plan.halvings > 0 and max(done) <= 150


def test_what_is_too_long_for_memory_alone_is_the_error_itself(make_model, monkeypatch):
    groups = queries(4, 0, own=30)
    model = make_model("neox")
    short_of_memory(monkeypatch, 10)
    with pytest.raises(torch.OutOfMemoryError):
        packed(model, groups)


def test_halved_batches_are_said(make_model, monkeypatch):
    model = make_model("neox")
    items = tuple(Item(str(i), f"Q: {'!' * 30}{i} A:", (" 4", " 3"), 0) for i in range(20))
    short_of_memory(monkeypatch, 45)
    assert any("memory ran out; batches were halved to" in n for n in score(Task("t", items), model).scores.run.notes)


def test_another_error_is_not_taken_for_memory(make_model, monkeypatch):
    def fail(self, batch, *args, **kwargs):
        raise RuntimeError("something else")

    monkeypatch.setattr(Model, "forward", fail)
    with pytest.raises(RuntimeError, match="something else"):
        packed(make_model("neox"), queries(4, 0))


def test_what_running_out_of_memory_looks_like():
    assert memory.is_out_of_memory(MemoryError()) and memory.is_out_of_memory(torch.OutOfMemoryError("x"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert memory.is_out_of_memory(caught.value)
    assert not memory.is_out_of_memory(RuntimeError("shapes")) and not memory.is_out_of_memory(ValueError())


def test_the_plan_follows_shape_and_free_memory(make_model, monkeypatch):
    model = make_model("neox")
    free = memory.free_bytes("cpu")
    assert 1 << 20 < free < 1 << 45
    each = memory.bytes_per_token(model.hf, 32, 32)
    monkeypatch.setattr("isp_mech.models.loading.free_bytes", lambda device: 200 * each)
    assert plan_tokens(model) == 100
    monkeypatch.setattr("isp_mech.models.loading.free_bytes", lambda device: 0)
    assert plan_tokens(model) == 1
    monkeypatch.setattr("isp_mech.models.loading.free_bytes", lambda device: 1 << 50)
    assert plan_tokens(model) == 4096


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 40), st.integers(1, 9))
@settings(deadline=None)
def test_a_batch_of_alike_lengths_wastes_little(lengths, most, each):
    lengths.sort(reverse=True)
    plan = BatchPlan(None, 480)
    n = plan.alike(lengths, most, each)
    assert 1 <= n <= min(most, len(lengths))
    full = lengths[0] * n * each
    assert full - sum(lengths[:n]) * each <= max(480 // 24, full // 8)


def test_half_precision_says_how_far_it_is_from_float32(tokenizer):
    items = tuple(Item(str(i), f"Q: {'!' * (i % 7)}{i} A:", (" 4", " pango part"), 0) for i in range(40))
    soft = make_hf("llama")
    with torch.no_grad():
        for parameter in soft.parameters():
            parameter.mul_(0.5)
    exact = wrap_model(type(soft)(soft.config), tokenizer, name="m")
    exact.hf.load_state_dict({k: v.bfloat16().float() for k, v in soft.state_dict().items()})
    half = score(Task("t", items), wrap_model(soft, tokenizer, name="m", dtype="bfloat16"))
    full = score(Task("t", items), exact)
    run = half.scores.run
    chosen = {str(i) for i in np.linspace(0, 39, 16).round().astype(int)}
    gap = (half.scores.frame["logprob"] - full.scores.frame["logprob"])[half.scores.frame["item"].isin(chosen)].abs()
    assert run.dtype == "bfloat16" and run.settings["float32_sample"] == 16
    assert run.settings["float32_largest_difference"] == pytest.approx(gap.max(), abs=1e-5)
    assert run.settings["float32_mean_difference"] == pytest.approx(gap.mean(), abs=1e-5)
    assert any("m: bfloat16 differs from float32 by" in note for note in run.notes)
    assert not full.scores.run.notes or "float32" not in full.scores.run.notes[-1]


def test_a_checkpoint_in_half_precision_is_compared_with_the_checkpoint_in_float32(tmp_path, tokenizer):
    from isp_mech.models import load_model

    make_hf("neox").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    items = (Item("0", "Q: A:", (" 4", " 3"), 0), Item("1", "Q: is it? A:", (" 4", " 3"), 0))
    half = score(Task("t", items), load_model(tmp_path, dtype="float16")).scores
    full = score(Task("t", items), load_model(tmp_path)).scores
    gap = (half.frame["logprob"] - full.frame["logprob"]).abs().max()
    assert half.run.settings["float32_largest_difference"] == pytest.approx(gap, abs=1e-5)


def test_a_model_spread_over_devices_passes_through(tmp_path, tokenizer):
    """The middle layer lives on disk: its weights are there only while it runs."""
    pytest.importorskip("accelerate")
    make_hf("llama").save_pretrained(tmp_path / "m")
    places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    places |= {"model.layers.0": "cpu", "model.layers.1": "disk", "model.layers.2": "cpu"}
    options = {"device_map": places, "offload_folder": tmp_path / "offloaded", "dtype": torch.float32}
    spread = wrap_model(hf.LlamaForCausalLM.from_pretrained(tmp_path / "m", **options), tokenizer, name="spread")
    assert {p.device.type for p in spread.hf.parameters()} == {"cpu", "meta"}
    groups = queries(8, 40)
    assert np.abs(packed(spread, groups) - one_by_one(make_hf("llama"), groups)).max() < 2e-4


def test_a_settled_model_is_neither_moved_nor_cast(tokenizer, monkeypatch):
    made = make_hf("neox")
    made.hf_quantizer = object()

    def refuse(*args, **kwargs):
        raise AssertionError("a quantised model must not be moved")

    monkeypatch.setattr(made, "to", refuse)
    model = wrap_model(made, tokenizer, name="q", dtype="bfloat16")
    assert model.dtype == "float32" and model.device == "cpu"


@pytest.mark.parametrize("architecture", ["gpt2", "neox"])
@pytest.mark.parametrize("capability", ["AVX512", "AVX2"])
def test_fast_products_are_the_plain_ones(architecture, capability, tokenizer, monkeypatch):
    """GPT-2 keeps its weights as (in, out); with gradients and in other types the model's own product is taken, and
    all along on a processor without AVX-512."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    products = set()

    def product(*args):
        products.add("oneDNN")
        return real(*args)

    real = torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", product)
    plain, ours = make_hf(architecture), wrap_model(make_hf(architecture), tokenizer, name="m")
    ids = torch.arange(1, 30)[None]
    with torch.no_grad():
        assert torch.allclose(ours.hf(ids).logits, plain(ids).logits, atol=1e-5)
    assert products == ({"oneDNN"} if capability == "AVX512" else set())
    products.clear()
    loss = ours.hf(ids, labels=ids).loss
    loss.backward()
    assert loss.requires_grad and all(p.grad is not None for p in ours.hf.parameters()) and not products
