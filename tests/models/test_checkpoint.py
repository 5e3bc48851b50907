"""Checkpoints that lack tensors of their model, or have others: refused by name, or loaded as they are."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import make_hf, plain_logprobs

from isp_mech.errors import InputError
from isp_mech.families import count_parameters
from isp_mech.models import load_model

IDS = [5, 40, 77, 31, 260, 90, 12, 13]


@pytest.fixture
def change(tmp_path, tokenizer):
    """``change("llama", f)``: the folder of a small model whose tensors went through ``f``."""

    def make(architecture, f, **config):
        make_hf(architecture).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        f(tensors)
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        if config:
            file = tmp_path / "config.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
        return tmp_path

    return make


def without(*names):
    def f(tensors):
        for name in names:
            del tensors[name]

    return f


def put(**tensors):
    return lambda held: held.update({name.replace("__", "."): tensor for name, tensor in tensors.items()})


DOWN = "model.layers.1.mlp.down_proj.weight"
BIAS, FOURTH = "model.layers.0.self_attn.q_proj.bias", "model.layers.3.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("architecture", "f", "expected"),
    [
        ("llama", without("lm_head.weight"), "tensor lm_head.weight: is missing, expected one of shape 320 x 32"),
        ("llama", without(DOWN), f"tensor {DOWN}: is missing, expected one of shape 32 x 64"),
        ("llama", put(**{DOWN: torch.zeros(32, 48)}), f"tensor {DOWN}: of shape 32 x 48, expected 32 x 64"),
        ("llama", put(model__norm__weight=torch.zeros(16)), "tensor model.norm.weight: of shape 16, expected 32"),
        ("llama", put(score__weight=torch.zeros(2, 32)), "tensor score.weight: has no place in LlamaForCausalLM"),
        ("llama", put(**{BIAS: torch.zeros(32)}), f"tensor {BIAS}: has no place in LlamaForCausalLM"),
        ("llama", put(**{FOURTH: torch.zeros(64, 32)}), f"tensor {FOURTH}: has no place in LlamaForCausalLM"),
        ("gpt2", without("transformer.wte.weight"), "tensor transformer.wte.weight: is missing"),
        ("qwen2", without("model.embed_tokens.weight"), "tensor model.embed_tokens.weight: is missing"),
        ("neox", put(**{"gpt_neox.layers.0.attention.bias": torch.zeros(32)}), "attention.bias: has no place"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_model_is_refused_by_name(change, architecture, f, expected):
    folder = change(architecture, f)
    with pytest.raises(InputError, match=re.escape(expected)) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value) and len(caught.value.problems) == 1


def test_all_of_them_are_named_up_to_a_number(change):
    def f(tensors):
        for name in [n for n in tensors if ".layers.0." in n or ".layers.1." in n]:
            del tensors[name]

    folder = change("llama", f)
    with pytest.raises(InputError) as caught:
        load_model(folder)
    *named, rest = caught.value.problems
    assert len(named) == 8 and rest == "and 10 more are missing"


def test_a_config_of_another_shape_names_both(change):
    folder = change("llama", lambda tensors: None, intermediate_size=48)
    with pytest.raises(InputError) as caught:
        load_model(folder)
    assert "tensor model.layers.0.mlp.up_proj.weight: of shape 64 x 32, expected 48 x 32" in str(caught.value)


def test_tied_weights_need_to_be_there_once(change):
    """By whichever of their names; and where both are there and differ, each is used as it is."""

    def renamed(tensors):
        tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")

    want = plain_logprobs(make_hf("qwen2"), IDS)
    for f in (lambda tensors: None, renamed, put(lm_head__weight=make_hf("qwen2").lm_head.weight.detach().clone())):
        model = load_model(change("qwen2", f))
        assert torch.allclose(plain_logprobs(model.hf, IDS), want, atol=1e-5)
    model = load_model(change("qwen2", put(lm_head__weight=torch.eye(320)[:, :32].contiguous())))
    assert torch.equal(model.architecture.unembed.weight, torch.eye(320)[:, :32])
    assert not torch.equal(model.hf.get_input_embeddings().weight, model.architecture.unembed.weight)


def test_buffers_of_old_checkpoints_may_be_there(change):
    mask = torch.ones(1, 1, 256, 256).tril()
    old = {"transformer.h.0.attn.bias": mask, "transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}
    model = load_model(change("gpt2", put(**old)))
    assert torch.allclose(plain_logprobs(model.hf, IDS), plain_logprobs(make_hf("gpt2"), IDS), atol=1e-5)


def test_old_shards_beside_a_new_file_are_not_read(change):
    folder = change("llama", lambda tensors: None)
    rest = {"model.layers.0.mlp.up_proj.weight": torch.zeros(64, 32)}
    save_file(rest, folder / "model-00001-of-00002.safetensors", metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: "model-00001-of-00002.safetensors" for name in rest}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    model = load_model(folder)
    assert torch.allclose(plain_logprobs(model.hf, IDS), plain_logprobs(make_hf("llama"), IDS), atol=1e-5)


def test_packed_weights_are_counted_unpacked(change):
    """BitNet packs four weights into a byte: headers do not tell, the loaded model does."""

    def packed(tensors):
        for name in [n for n in tensors if "proj" in n]:
            rows, columns = tensors[name].shape
            tensors[name] = torch.zeros(rows // 4, columns, dtype=torch.uint8)
            tensors[name.replace(".weight", ".weight_scale")] = torch.ones(1)

    folder = change("llama", packed, quantization_config={"quant_method": "bitnet"})
    assert count_parameters(folder) is None
    hf = make_hf("llama")
    apart = hf.model.embed_tokens.weight.numel() + hf.lm_head.weight.numel()
    assert load_model(folder).n_params == sum(p.numel() for p in hf.parameters()) - apart


def test_adapters_are_no_weights(change):
    folder = change("llama", lambda tensors: None)
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"no model.safetensors \(found adapter_model.safetensors\)"):
        load_model(folder)
    (folder / "adapter_model.safetensors").rename(folder / "model.safetensors")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="adapter_config.json: an adapter beside the weights, expected it merged"):
        load_model(folder)


def test_a_shard_that_is_gone_is_named(change):
    folder = change("llama", lambda tensors: None)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(InputError, match="model-00002-of-00002.safetensors: not there, though model.safetensors.index"):
        load_model(folder)
