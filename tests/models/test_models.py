"""Loading and running: real transformers models through the real loader."""

from __future__ import annotations

import inspect
import json

import pytest
import torch
from small_models import ARCHITECTURES, byte_tokenizer, make_hf, plain_logprobs
from torch import nn
from transformers import AutoModelForCausalLM

from isp_mech.errors import InputError
from isp_mech.models import Batch, RecordSpec, load_model, members, norm_of, wrap_model
from isp_mech.models.rotary import rotate


@pytest.fixture
def checkpoint(tmp_path, tokenizer):
    make_hf("llama").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_loads_and_gives_the_plain_models_logits(checkpoint, tokenizer):
    model = load_model(checkpoint, name="little")
    ids = tokenizer("Redefine pi as 462.").input_ids
    hidden = model.forward(Batch(torch.tensor([ids]), torch.arange(len(ids))[None])).hidden
    ours = model.unembed(hidden[0]).log_softmax(-1)
    assert torch.allclose(ours, plain_logprobs(make_hf("llama"), ids), atol=1e-5)
    assert "little" in repr(model) and model.max_tokens == 256 and model.accepts_custom_masks


def test_parameters_are_counted_without_embeddings(make_model):
    hf = make_hf("llama")
    apart = hf.model.embed_tokens.weight.numel() + hf.lm_head.weight.numel()
    assert make_model("llama").n_params == sum(p.numel() for p in hf.parameters()) - apart
    tied = make_hf("gpt2")
    positions = tied.transformer.wpe.weight.numel()
    assert (
        make_model("gpt2").n_params
        == sum(p.numel() for p in tied.parameters()) - tied.lm_head.weight.numel() - positions
    )


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (lambda d: (d / "config.json").unlink(), "config.json is missing: expected a transformers checkpoint folder"),
        (lambda d: (d / "model.safetensors").unlink(), "model.safetensors is missing (found no weights)"),
        (
            lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"),
            "found pytorch_model.bin, which would have to be unpickled",
        ),
        (lambda d: (d / "model.safetensors").write_bytes(b"nonsense"), "cannot be loaded"),
        (lambda d: (d / "config.json").write_text("{"), "cannot be loaded"),
        (lambda d: (d / "config.json").write_text(json.dumps({"model_type": "never-heard-of"})), "cannot be loaded"),
    ],
)
def test_a_folder_that_is_no_checkpoint_is_told_apart(checkpoint, break_it, expected):
    break_it(checkpoint)
    with pytest.raises(InputError) as caught:
        load_model(checkpoint)
    assert expected in str(caught.value) and str(checkpoint) in str(caught.value)


def test_code_that_comes_with_a_checkpoint_does_not_run(checkpoint, tmp_path):
    marker = tmp_path / "ran"
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}}
    (checkpoint / "config.json").write_text(json.dumps(config))
    (checkpoint / "own.py").write_text(f"open({str(marker)!r}, 'w')")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_model(checkpoint)
    assert not marker.exists()


def test_a_hub_that_cannot_be_reached_is_one_clear_error():
    with pytest.raises(InputError, match="nobody/no-such-model: cannot be loaded"):
        load_model("nobody/no-such-model")


def test_a_missing_folder_a_dtype_and_a_device_are_named(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        load_model(tmp_path / "nothing")
    with pytest.raises(InputError, match="dtype 'float8': expected one of float32"):
        inspect.unwrap(load_model)("x", dtype="float8")  # past the type checker of tests
    with pytest.raises(InputError, match="device 'gpu'"):
        load_model("x", device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no GPU is available here"):
            load_model("x", device="cuda")


def test_bfloat16_stays_near_float32(tokenizer):
    hf = make_hf("neox")
    for parameter in hf.parameters():  # soft logits, so that half precision is near
        parameter.data *= 0.5
    ids = tokenizer("Redefine pi as 462.").input_ids
    plain = plain_logprobs(hf, ids)
    half = wrap_model(hf, tokenizer, name="half", dtype="bfloat16")
    hidden = half.forward(Batch(torch.tensor([ids]), torch.arange(len(ids))[None])).hidden
    assert (half.unembed(hidden[0]).log_softmax(-1) - plain).abs().mean() < 0.1


def test_a_packed_row_gives_what_each_branch_gives_alone(model):
    trunk, ends = [7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31], [[5, 6], [8], [5, 9, 2]]
    from isp_mech.inference.batches import make_batch
    from isp_mech.inference.prefix_tree import PrefixTree

    tree = PrefixTree()
    paths = [tree.extend([*trunk, *end]) for end in ends]
    hidden = model.forward(make_batch([tree])).hidden
    for path, end in zip(paths, ends, strict=True):
        ours = model.unembed(hidden[0, list(path)]).log_softmax(-1)
        assert torch.allclose(ours, plain_logprobs(model.hf, [*trunk, *end]), atol=1e-4)


def test_what_is_watched_adds_up_to_the_stream(model):
    ids = torch.arange(1, 15)[None] % 300
    nodes = torch.arange(14)
    record = model.forward(Batch(ids, nodes[None]), record=RecordSpec(torch.zeros(14, dtype=torch.long), nodes)).record
    after = [*record.resid[1:], record.final]
    for layer, before in enumerate(record.resid):
        assert torch.allclose(before + record.attn[layer] + record.mlp[layer], after[layer], atol=1e-4)


def test_attention_by_role_is_the_softmax_of_eager_attention(make_model):
    for name in ("neox", "gpt2", "llama", "opt", "mistral"):
        ids = torch.arange(1, 21)[None]
        eager = make_hf(name)
        eager.set_attn_implementation("eager")
        with torch.no_grad():
            weights = torch.stack(eager(ids, output_attentions=True).attentions)[:, 0, :, 17]  # layer head key
        roles = torch.zeros(1, 20, 2)
        roles[0, :5, 0] = roles[0, 5:, 1] = 1
        at = torch.tensor([0]), torch.tensor([17])
        record = make_model(name).forward(Batch(ids, torch.arange(20)[None]), record=RecordSpec(*at, *at, roles)).record
        ours = torch.stack(record.attention)[:, 0]
        want = torch.stack([weights[..., :5].sum(-1), weights[..., 5:].sum(-1)], -1)
        assert torch.allclose(ours, want, atol=1e-5), name


def test_the_bridge_shares_parameters_and_leaves_the_model_alone(tmp_path, tokenizer):
    make_hf("neox").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    ids = tokenizer("Redefine pi as 462.").input_ids
    _, cache = model.bridge.run_with_cache(torch.tensor([ids]))
    assert cache["blocks.1.hook_resid_pre"].shape == (1, len(ids), 32)
    ours = {p.data_ptr() for p in model.hf.parameters()}
    assert {p.data_ptr() for p in model.bridge.original_model.parameters()} & ours
    hidden = model.forward(Batch(torch.tensor([ids]), torch.arange(len(ids))[None])).hidden
    assert torch.allclose(model.unembed(hidden[0]).log_softmax(-1), plain_logprobs(make_hf("neox"), ids), atol=1e-5)


def state_of(hf):
    """What must not change in a transformers model that somebody else owns."""
    ids = torch.arange(1, 30)[None]
    logits = []
    for mode in (True, False):
        torch.manual_seed(0)
        with torch.no_grad():
            logits.append(hf.train(mode)(ids).logits)
    modules = {name: (vars(m).get("forward"), len(m._forward_hooks), m.training) for name, m in hf.named_modules()}
    tensors = {name: (t.data_ptr(), t.dtype, t.clone()) for name, t in hf.state_dict().items()}
    return hf.config.to_dict(), hf.config._attn_implementation, modules, tensors, logits


@pytest.mark.parametrize(
    ("dtype", "architectures"), [("float32", (*ARCHITECTURES, "gpt-neo")), ("bfloat16", ("gpt2", "bloom"))]
)
def test_a_wrapped_model_stays_as_it_was(tokenizer, dtype, architectures):
    for name in architectures:
        hf = make_hf(name)
        config, attention, modules, tensors, logits = state_of(hf)
        hf.train()
        model = wrap_model(hf, tokenizer, name=name, dtype=dtype)
        assert hf.training and not model.hf.training and model.hf.dtype == getattr(torch, dtype)
        ours = {p.data_ptr() for p in model.hf.parameters()}
        assert ours.isdisjoint(p.data_ptr() for p in hf.parameters()) == (dtype != "float32"), name
        after = state_of(hf)
        assert after[:3] == (config, attention, modules), name
        for key, (place, kind, values) in after[3].items():
            assert tensors[key][:2] == (place, kind) and torch.equal(tensors[key][2], values), (name, key)
        assert all(torch.equal(a, b) for a, b in zip(logits, after[4], strict=True)), name


def test_a_wrapped_model_spread_over_devices_stays_as_it_was(tmp_path, tokenizer):
    """The first layer lives on disk: its weights are there only while it runs."""
    pytest.importorskip("accelerate")
    make_hf("llama").save_pretrained(tmp_path / "m")
    places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    places |= {"model.layers.0": "disk", "model.layers.1": "cpu", "model.layers.2": "cpu"}
    options = {"device_map": places, "offload_folder": tmp_path / "offloaded", "dtype": torch.float32}
    hf = AutoModelForCausalLM.from_pretrained(tmp_path / "m", **options)
    ids = torch.arange(1, 30)[None]
    before = hf(ids).logits
    model = wrap_model(hf, tokenizer, name="spread")
    model.forward(Batch(ids, torch.arange(29)[None]))
    assert hf.config._attn_implementation == "sdpa" and model.hf.config._attn_implementation == "isp_mech"
    assert torch.equal(hf(ids).logits, before)
    assert {p.device.type for p in hf.parameters()} == {p.device.type for p in model.hf.parameters()} == {"cpu", "meta"}


def test_a_list_of_models_runs_from_small_to_large(tokenizer, checkpoint):
    large = wrap_model(make_hf("neox", width=64), tokenizer, name="large")
    assert [m.name for m in members([large, checkpoint])] == [checkpoint.name, "large"]
    assert [m.name for m in members(checkpoint)] == [checkpoint.name]


def test_a_norm_is_known_by_what_it_does():
    torch.manual_seed(0)
    layer = nn.LayerNorm(16, eps=1e-3)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    root = nn.RMSNorm(16, eps=1e-3)
    nn.init.normal_(root.weight)
    x = torch.randn(5, 16)
    assert norm_of(layer, 16).centred and not norm_of(root, 16).centred
    for module in (layer, root):
        norm = norm_of(module, 16)
        assert torch.allclose(norm(x), module(x), atol=1e-5)
        u = torch.randn(5, 16)
        split = (norm.pull_back(u) * x).sum(-1, keepdim=True) / norm.scale(x) + (u * norm.bias).sum(-1, keepdim=True)
        assert torch.allclose(split[:, 0], (u * module(x)).sum(-1), atol=1e-4)
    with pytest.raises(ValueError, match="Tanh is neither a LayerNorm nor an RMSNorm"):
        norm_of(nn.Tanh(), 16)
    with pytest.raises(ValueError, match="no final norm"):
        norm_of(None, 16)


def test_every_architecture_is_taken_apart(make_model):
    for name in ARCHITECTURES:
        architecture = make_model(name).architecture
        assert (architecture.n_layers, architecture.n_heads, architecture.d_head, architecture.d_model) == (3, 4, 8, 32)
        assert architecture.head_matrix(1).shape == (4, 8, 32)
        assert architecture.selects_tokens


def test_a_model_that_takes_no_mask_is_told_apart(tokenizer):
    model = wrap_model(make_hf("gpt-neo"), byte_tokenizer(), name="neo")
    assert not model.accepts_custom_masks
    with pytest.warns(DeprecationWarning, match="accepts_custom_masks"):
        assert not model.packs
    ids = torch.tensor([[1, 2, 3]])
    with pytest.raises(ValueError, match="takes chains of tokens only"):
        model.forward(Batch(ids, torch.arange(3)[None], torch.ones(1, 3, 3).tril().bool()))


@pytest.mark.parametrize("d", [2, 4, 8])
def test_rotation_in_place_is_transformers_own(d):
    """Against the functions of GPT-NeoX and of Llama; dimensions after the first ``d`` stay as they are."""
    from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb as neox
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as llama

    torch.manual_seed(d)
    q, k = torch.randn(2, 3, 4, 11, 8)
    angles = torch.randn(3, 11, d // 2).repeat(1, 1, 2)
    cos, sin = angles.cos(), angles.sin()
    want = neox(q, k, cos, sin)
    both = torch.stack([q, k])
    rotate(both, cos[:, None], sin[:, None])
    assert torch.allclose(both, torch.stack(want), atol=1e-6)
    assert torch.equal(both[..., d:], torch.stack([q, k])[..., d:])
    if d == 8:
        assert torch.allclose(both, torch.stack(llama(q, k, cos, sin)), atol=1e-6)
