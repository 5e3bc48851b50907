"""What ``check_model`` says of small models: gaps to plain transformers, and what cannot be done, with the reason."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from small_models import byte_tokenizer, make_hf

from isp_mech.cli import main
from isp_mech.errors import InputError
from isp_mech.models import check_model, wrap_model


def by_name(found):
    return {ability.name: ability for ability in found.abilities}


def test_all_that_a_model_can_do_is_near_plain_transformers(some_model):
    abilities = by_name(check_model(some_model))
    assert list(abilities) == ["score", "trees", "trace", "lens", "edit", "bridge", "chat"]
    for name in ("score", "trees", "trace", "lens", "edit", "bridge"):
        assert abilities[name].can and 0 <= abilities[name].gap < 1e-3, abilities[name]
    assert not abilities["chat"].can and abilities["chat"].note == "its tokenizer has no chat template"


def test_facts(make_model):
    facts = check_model(make_model("llama")).facts
    assert facts["architecture"] == "LlamaForCausalLM" and facts["vocabulary"] == 320
    assert (facts["layers"], facts["heads"], facts["d_model"], facts["longest prompt (tokens)"]) == (3, 4, 32, 256)
    hf = make_hf("llama")
    assert facts["memory of the weights (GB)"] == round(sum(p.numel() for p in hf.parameters()) * 4 / 1e9, 3)
    assert facts["added before every text"] == "nothing" and facts["tokens a second"] > 0


def test_start_tokens_and_chat_templates():
    tokenizer = byte_tokenizer(start_token=True)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    found = check_model(wrap_model(make_hf("neox"), tokenizer, name="chatty"))
    assert found.facts["added before every text"] == "<|endoftext|>"
    assert by_name(found)["chat"].can and by_name(found)["chat"].note == ""
    refuse = "{{ raise_exception('no') if m.role == 'system' }}"
    tokenizer.chat_template = "{% for m in messages %}" + refuse + "{{ m.role }}: {{ m.content }}\n{% endfor %}"
    found = check_model(wrap_model(make_hf("neox"), tokenizer, name="chatty"))
    assert by_name(found)["chat"].can and by_name(found)["chat"].note == "without a system text"


def test_a_model_without_trees_says_so(tokenizer):
    abilities = by_name(check_model(wrap_model(make_hf("gpt-neo"), tokenizer, name="neo")))
    assert abilities["score"].can and not abilities["trees"].can
    assert "one by one" in abilities["trees"].note


def test_what_is_not_as_plain_is_called_so(make_model):
    model = make_model("llama")
    off = replace(model, architecture=replace(model.architecture, logit_scale=1.01))
    score = by_name(check_model(off))["score"]
    assert not score.can and score.gap > 1e-3 and "apart from plain transformers" in score.note


def test_the_check_leaves_the_model_as_it_was(make_model):
    model = make_model("gemma2")
    ids = torch.arange(1, 20)[None]
    before, attention = model.hf(ids).logits, model.hf.config._attn_implementation
    check_model(model)
    assert torch.equal(model.hf(ids).logits, before) and model.hf.config._attn_implementation == attention


def test_the_command(folders, capsys):
    assert main(["check", str(folders[0])]) == 0
    table = capsys.readouterr().out
    assert "GPTNeoXForCausalLM" in table and "score" in table and "nats" in table
    assert main(["check", str(folders[0]), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["model"] == "small" and told["abilities"][0]["name"] == "score" and told["abilities"][0]["can"]
    assert main(["check", str(folders[0] / "nothing")]) == 2
    assert "no such folder" in capsys.readouterr().err
    with pytest.raises(InputError, match="no such folder"):
        check_model(folders[0] / "nothing")
