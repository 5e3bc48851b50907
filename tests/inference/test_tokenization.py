"""Completions by both rules, and roles by character spans."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_models import byte_tokenizer, make_hf

from isp_mech.errors import InputError
from isp_mech.inference.tokenization import OTHER, Encoding, encode_all, role_names, token_roles
from isp_mech.models import wrap_model
from isp_mech.tasks import Prompt, compose


def texts(model, asked):
    return [[model.tokenizer.decode(list(q.targets)) for q in a.queries] for a in asked]


def test_strict_takes_the_tokens_that_begin_where_the_completion_begins(make_model):
    model = make_model("neox")
    asked = encode_all(model, ["Q: What is pi? A:"], [(" 4", " pango part")], ["one"])
    assert texts(model, asked) == [[" 4", " pango part"]]


def test_strict_names_every_item_whose_boundary_is_inside_a_token(make_model):
    model = make_model("neox")
    with pytest.raises(InputError) as caught:
        encode_all(
            model, ["the fir", "A:", "the fir"], [("st", "x"), (" 4", " 3"), ("st", "y")], ["one", "two", "three"]
        )
    assert "item one, completion 'st': token" in str(caught.value) and "straddles the end of the prompt" in str(
        caught.value
    )
    assert "item three" in str(caught.value) and "two" not in str(caught.value)


def test_strict_refuses_what_the_model_is_too_short_for(tokenizer):
    model = wrap_model(make_hf("gpt2", length=16), tokenizer, name="short")
    with pytest.raises(InputError, match="tokens, expected at most the model's 16"):
        encode_all(model, ["a b c d e f g h i j k l"], [(" 4", " 3")], ["long"])


def test_prize_takes_as_many_last_tokens_as_the_completion_has_alone(make_model):
    model = make_model("neox")
    asked = encode_all(model, ["the fir"], [("st", "x")], ["one"], rule="prize")
    joint = model.tokenizer("the first").input_ids  # ' first' is one token: the rule takes it and one before
    alone = model.tokenizer("st").input_ids
    assert asked[0].queries[0].targets == tuple(joint[-len(alone) :])


def test_prize_leaves_out_the_start_token_and_cuts_on_the_right():
    model = wrap_model(make_hf("neox", length=2048), byte_tokenizer(start_token=True), name="started")
    assert model.added.before == (0,) and model.added.after == ()
    asked = encode_all(model, ["A:", "x" * 1100], [(" 4",), (" 4",)], ["short", "long"], rule="prize")
    assert texts(model, asked) == [[" 4"], ["x"]]  # the completion itself was cut away, and is scored all the same
    assert [len(a.queries[0].tokens) for a in asked] == [len(model.tokenizer("A: 4").input_ids), 1023]


def test_an_unknown_rule_is_named(make_model):
    with pytest.raises(InputError, match="'loose': expected one of strict, prize"):
        encode_all(make_model("neox"), ["A:"], [(" 4",)], ["one"], rule="loose")


def test_a_token_goes_to_the_role_that_holds_most_of_it():
    encoding = Encoding((1, 2, 3, 4), ((0, 0), (0, 3), (3, 8), (8, 9)))
    prompt = Prompt("abcdefgh", {"first": ((0, 4),), "second": ((4, 8),)})
    names = ("first", "second", OTHER)
    assert [names[i] for i in token_roles(encoding, prompt, names)] == [OTHER, "first", "second", OTHER]


@given(
    st.lists(st.tuples(st.text("ab ", min_size=1, max_size=6), st.sampled_from(["", "x", "y"])), min_size=1, max_size=6)
)
def test_every_token_has_one_role(pieces):
    prompt = compose(pieces)
    tokenizer = byte_tokenizer_cached()
    found = tokenizer(prompt.text, return_offsets_mapping=True)
    encoding = Encoding(tuple(found["input_ids"]), tuple(found["offset_mapping"]))
    names = role_names([prompt])
    roles = token_roles(encoding, prompt, names)
    assert roles.shape == (len(encoding.ids),) and set(roles) <= set(range(len(names)))
    of_character = np.full(len(prompt.text), OTHER, dtype=object)
    for role, spans in prompt.roles.items():
        for a, b in spans:
            of_character[a:b] = role
    for (a, b), role in zip(encoding.spans, roles, strict=True):
        held = list(of_character[a:b])
        assert not held or held.count(names[role]) == max(held.count(r) for r in held)


_CACHE: list = []


def byte_tokenizer_cached():
    if not _CACHE:
        _CACHE.append(byte_tokenizer())
    return _CACHE[0]
