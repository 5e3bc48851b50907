"""Agreement with TransformerLens, on the same model and prompt, and the way out to its raw activations."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small_models import make_hf
from transformer_lens.tools.analysis import direct_logit_attribution, logit_lens

from isp_mech.errors import InputError
from isp_mech.models import wrap_model
from isp_mech.models.memory import free_bytes
from isp_mech.tracing.trace import trace


@pytest.fixture(scope="module", params=["neox", "gpt2", "llama"])
def seen(request, tokenizer, pairs):
    """A model, one conflict prompt's tokens, its two completions' tokens, and our traces of it."""
    hf = make_hf(request.param)
    with torch.no_grad():  # compatibility mode moves value biases, and the norm's before them, out of the heads
        for name, parameter in hf.named_parameters():
            if name.endswith("query_key_value.bias"):
                parameter.view(4, 3, 8)[:, 2] = 0
            elif name.endswith("c_attn.bias"):
                parameter[64:] = 0
            elif name.endswith(("input_layernorm.bias", "ln_1.bias")):
                parameter.zero_()
    model = wrap_model(hf, tokenizer, name=f"small {request.param}")
    pair = dataclasses.replace(pairs[0], answer="x", lure="y")
    one = dataclasses.replace(pairs, pairs=(pair,))
    ids = [tokenizer(pair.conflict.text + c).input_ids for c in ("x", "y")]
    assert ids[0][:-1] == ids[1][:-1]  # they part at their last token
    found = trace(one, model)
    frames = {name: getattr(found, name).frame.query("side == 'conflict'") for name in ("lens", "effects", "attention")}
    return model, torch.tensor([ids[0][:-1]]), (ids[0][-1], ids[1][-1]), frames, pair


def test_the_lens_is_logit_lens(seen):
    model, ids, (a, b), frames, _ = seen
    serial = "neox" not in model.name
    found = logit_lens(model.bridge, ids, targets=[a, b], incl_mid=serial).values[:, 0]
    ours = frames["lens"] if serial else frames["lens"].query("sublayer != 'attn'")
    assert ours["margin"].tolist() == pytest.approx((found[:, 0] - found[:, 1]).tolist(), abs=1e-4)


def test_attention_by_role_is_the_cached_pattern(seen):
    model, ids, _, frames, pair = seen
    (cache,) = model.capture("blocks.*.attn.hook_pattern", pair.conflict.text)
    pattern = torch.stack([cache[f"blocks.{i}.attn.hook_pattern"] for i in range(3)])[:, :, ids.shape[1] - 1]
    spans = model.tokenizer(pair.conflict.text, return_offsets_mapping=True)["offset_mapping"]
    end = pair.conflict.roles["definition"][0][1]
    inside = torch.tensor([a < end for a, _ in spans])  # a token half in either is the first one's
    weights = frames["attention"].query("role == 'definition'")["weight"]
    assert weights.tolist() == pytest.approx(pattern[..., inside].sum(-1).flatten().tolist(), abs=1e-4)


def test_direct_effects_are_direct_logit_attribution(seen, tokenizer):
    model, ids, (a, b), frames, _ = seen
    before = {name: value.clone() for name, value in model.hf.state_dict().items()}
    bridge = wrap_model(model.hf, tokenizer, name=model.name).bridge  # its weights are processed below
    bridge.enable_compatibility_mode()
    options = {"answer_tokens": a, "incorrect_tokens": b}
    heads = direct_logit_attribution(bridge, ids, unit="head", **options)
    parts = direct_logit_attribution(bridge, ids, unit="component", **options)
    want = dict(zip(heads.labels, heads.attribution[:, 0].tolist(), strict=True))
    want |= dict(zip(parts.labels, parts.attribution[:, 0].tolist(), strict=True))
    effects = frames["effects"].set_index(["kind", "layer", "head"])["direct_effect"]
    ours = {f"L{layer}H{head}": value for (kind, layer, head), value in effects.items() if kind == "head"}
    assert len(ours) == 12
    assert ours == pytest.approx({label: want[label] for label in ours}, abs=1e-4)
    if "llama" in model.name:  # where there are biases, compatibility mode adds them to the MLPs' writes
        mlps = {f"{layer}_mlp_out": value for (kind, layer, _), value in effects.items() if kind == "mlp"}
        assert mlps == pytest.approx({label: want[label] for label in mlps}, abs=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in model.hf.state_dict().items())


def test_activations_come_by_name_for_each_prompt(make_model):
    model = make_model("neox")
    prompts = ["Redefine pi as 462.", "Q: What is the first digit of pi? A:"]
    found = model.capture(["blocks.*.hook_resid_post", "blocks.1.attn.hook_pattern"], prompts)
    for prompt, activations in zip(prompts, found, strict=True):
        ids = torch.tensor([model.tokenizer(prompt).input_ids])
        n = ids.shape[1]
        assert set(activations) == {*(f"blocks.{i}.hook_resid_post" for i in range(3)), "blocks.1.attn.hook_pattern"}
        assert activations["blocks.1.attn.hook_pattern"].shape == (4, n, n)
        with torch.no_grad():
            hidden = make_hf("neox")(ids, output_hidden_states=True).hidden_states
        assert torch.allclose(activations["blocks.0.hook_resid_post"], hidden[1][0], atol=1e-5)


def test_what_would_not_fit_is_not_begun(make_model):
    model = make_model("neox")
    text = "Redefine pi as 462."
    n = len(model.tokenizer(text).input_ids)
    gb = (3 * 4 * n * n + n * 320) * 4 / 1e9  # patterns of three layers and four heads, and the logits
    names = ["blocks.*.attn.hook_pattern", "unembed.hook_out"]
    assert len(model.capture(names, text, limit_gb=gb * 1.001)[0]) == 4
    with pytest.raises(InputError, match=f"4 activations of 1 prompts of up to {n} tokens would take {gb:.3g} GB"):
        model.capture(names, text, limit_gb=gb * 0.999)
    assert free_bytes("cpu") > 1e6


def test_unknown_names_are_listed_with_their_neighbours(make_model):
    with pytest.raises(InputError) as caught:
        make_model("neox").capture(["blocks.0.hook_resid_poost", "blocks.*.nothing"], "Redefine pi")
    assert "blocks.0.hook_resid_poost" in str(caught.value) and "blocks.0.hook_resid_post" in str(caught.value)
    assert "'blocks.*.nothing': no such name" in str(caught.value)
    with pytest.raises(InputError, match="no names: expected some"):
        make_model("neox").capture([], "Redefine pi")
    with pytest.raises(InputError, match="blocks.0.attn.hook_result: this model does not come by it"):
        make_model("neox").capture("blocks.0.attn.hook_result", "Redefine pi")
